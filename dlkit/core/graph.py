"""The graph of a network, and the one walk over it: shapes, parameters, MACs, receptive fields."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple, NoReturn

from dlkit.core import positions
from dlkit.core.errors import DlkitError
from dlkit.core.field import WHOLE, Reach, Reads, Verdict, unite
from dlkit.core.layers import Join, Layer, Shape, show

SOURCE = -1  # the graph's input, where a node's inputs name it


class Node(NamedTuple):
    """One layer of a graph: its name (conv1), the layer, the nodes it reads, and its place in the text."""

    name: str
    layer: Layer
    inputs: tuple[int, ...]
    position: int = -1
    length: int = 1


class Graph:
    """Layers in topological order, the index of the output, and the text they were read from."""

    __slots__ = ("nodes", "output", "source")

    def __init__(self, nodes: list[Node], output: int, source: str = "") -> None:
        self.nodes = nodes
        self.output = output
        self.source = source

    def __len__(self) -> int:
        return len(self.nodes)

    def __eq__(self, other: object) -> bool:
        """Same layers, same edges; where they stood in a text does not matter."""
        return isinstance(other, Graph) and self.output == other.output and self._edges() == other._edges()

    __hash__ = None  # type: ignore[assignment]

    def _edges(self) -> list[tuple[str, Layer, tuple[int, ...]]]:
        return [node[:3] for node in self.nodes]

    def __str__(self) -> str:
        """The network language, repeats written out."""
        return _Writer(self).text()


class Builder:
    """Collects nodes and names them: the op and its ordinal, apart where the op ends in a digit (relu6_1)."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._counts: dict[str, int] = {}

    def add(self, layer: Layer, inputs: tuple[int, ...], position: int = -1, length: int = 1) -> int:
        """The new node's index."""
        op = layer.op
        ordinal = self._counts[op] = self._counts.get(op, 0) + 1
        self.nodes.append(
            Node(f"{op}_{ordinal}" if op[-1].isdigit() else f"{op}{ordinal}", layer, inputs, position, length)
        )
        return len(self.nodes) - 1


class Step(NamedTuple):
    """A layer as the walk saw it. Shapes and counts are of one sample; `activations` are output elements."""

    name: str
    op: str
    layer: Layer
    text: str
    sources: tuple[int, ...]
    inputs: tuple[Shape, ...]
    output: Shape
    params: int
    macs: int
    field: Reach
    undefined: str  # why `field` is None
    activations: int
    active_params: int  # those that one position uses: fewer than `params` in a mixture of experts
    positions: Shape  # how many there are on each axis of `field`; empty for a vector
    layout: str  # where they lie in the output: before the channels or after them; empty for a vector


class Totals(NamedTuple):
    """A whole network. `field` is that of its last map (before gap or flatten), the step with index `last_map`."""

    params: int
    macs: int
    output: Shape
    field: Reach
    last_map: int | None
    active_params: int
    positions: Shape


def walk(graph: Graph, input: Shape) -> list[Step]:
    """Every layer in order, with what it makes of `input`; DlkitError names the first that does not fit."""
    shapes = [input]  # node i stands at i + 1, SOURCE at 0
    places = [_start(graph, input)]
    costs: dict[tuple[int, tuple[Shape, ...]], _Cost] = {}
    steps: list[Step] = []
    for node in graph.nodes:
        inputs = tuple(shapes[i + 1] for i in node.inputs)
        key = id(node.layer), inputs
        before = [places[i + 1] for i in node.inputs]
        cost = costs.get(key) or costs.setdefault(key, _cost(graph, node, inputs, before))
        if isinstance(node.layer, Join):
            place = positions.join(node.layer, inputs, cost.output, before, places[0])
        else:
            place = positions.through(node.layer, cost.reads, inputs[0], cost.output, before[0], places[0])
        shapes.append(cost.output)
        places.append(place)
        text, output, params, macs, _, active = cost
        counts = params, macs, *place.verdict, prod(output), active, place.sizes, place.layout
        steps.append(Step(node.name, node.layer.op, node.layer, text, node.inputs, inputs, output, *counts))
    owners(steps)
    return steps


def _start(graph: Graph, input: Shape) -> positions.Place:
    """The place of the input; what does not fit it is told by the walk."""
    try:
        return positions.start(graph.nodes, input)
    except DlkitError:
        return positions.Place(Verdict(()), "", ())


def owners(steps: Sequence[Step]) -> dict[int, int]:
    """For each tied step the nearest one before it whose weights it shares; DlkitError where there is none."""
    offered: dict[str, int] = {}
    found: dict[int, int] = {}
    for i, step in enumerate(steps):
        wanted, offer = step.layer.shares(step.inputs[0]), step.layer.offers(step.inputs[0])
        if wanted and wanted not in offered:
            raise DlkitError(f"{step.name} ({step.text}) has nothing to share: tie=1 needs {wanted} before it")
        if wanted:
            found[i] = offered[wanted]
        if offer:
            offered[offer] = i
    return found


class _Cost(NamedTuple):
    """What a layer makes of given input shapes, the same wherever it stands."""

    text: str
    output: Shape
    params: int
    macs: int
    reads: Reads
    active_params: int


def _cost(graph: Graph, node: Node, inputs: tuple[Shape, ...], before: list[positions.Place]) -> _Cost:
    layer, x = node.layer, inputs[0]
    try:
        output = layer.output(*inputs)
        counts = layer.params(x), layer.macs(x, output), layer.reads(x), layer.active_params(x)
        return _Cost(str(layer), output, *counts)
    except DlkitError as error:
        reason = unite([place.verdict for place in before]).reason if isinstance(layer, Join) else ""
        raise _misfit(graph, node, inputs, f"{error.message} ({reason})" if reason else error.message) from None


def _misfit(graph: Graph, node: Node, inputs: tuple[Shape, ...], why: str) -> DlkitError:
    from dlkit.core.source import context, place

    text = str(node.layer)
    where = f" at {place(graph.source, node.position)}" if node.position >= 0 else ""
    taken = " and ".join(show(x) for x in inputs)
    return DlkitError(
        f"{node.name} ({text}){where} cannot take {taken}: {why}",
        context=context(graph.source, node.position, node.length) if where else None,
    )


def totals(steps: list[Step]) -> Totals:
    """Sums over a walk, its last output, and the receptive field of its last map."""
    last = next((i for i in reversed(range(len(steps))) if _is_map(steps[i])), None)
    return Totals(
        sum(step.params for step in steps),
        sum(step.macs for step in steps),
        steps[-1].output,
        None if last is None else steps[last].field,
        last,
        sum(step.active_params for step in steps),
        () if last is None else steps[last].positions,
    )


def _is_map(step: Step) -> bool:
    """Not the summary of a map: not one position that sees everything."""
    return bool(step.output[1:]) and (step.field != WHOLE or prod(step.positions) > 1)


def dominators(graph: Graph) -> list[int]:
    """For each node the nearest one that every path to it passes: where the branches of a join begin."""
    return _Writer(graph).above


class _Writer:
    """Turns a graph back into text: a join's branches run back to the nearest node that all share."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.written = 0
        self.above: list[int] = []  # immediate dominator of each node
        self.depth: list[int] = []
        for node in graph.nodes:
            above = node.inputs[0]
            for other in node.inputs[1:]:
                above = self._meet(above, other)
            self.above.append(above)
            self.depth.append(1 + (self.depth[above] if above >= 0 else 0))

    def _meet(self, a: int, b: int) -> int:
        while a != b:
            if b < 0 or (a >= 0 and self.depth[a] >= self.depth[b]):
                a = self.above[a]
            else:
                b = self.above[b]
        return a

    def text(self) -> str:
        text = self._between(SOURCE, self.graph.output)
        return text if self.written == len(self.graph.nodes) else self._crossed()

    def _crossed(self) -> NoReturn:
        raise DlkitError("this graph's branches cross each other: the network language cannot write it")

    def _between(self, start: int, end: int) -> str:
        """The chain of layers after node `start`, up to and with `end`."""
        words: list[str] = []
        while end > start:
            node = self.graph.nodes[end]
            self.written += 1
            if self.written > len(self.graph.nodes):
                self._crossed()
            if isinstance(node.layer, Join):
                fork = self.above[end]
                branches = " | ".join(self._between(fork, branch) for branch in node.inputs)
                words.append(f"{node.layer}({branches})")
                end = fork
            else:
                words.append(str(node.layer))
                end = node.inputs[0]
        return " ".join(reversed(words))
