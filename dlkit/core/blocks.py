"""A long network in few rows: the layers of a graph grouped into blocks, alike neighbours counted together."""

from typing import NamedTuple

from dlkit.core.graph import SOURCE, Graph, Step, dominators
from dlkit.core.layers import Join, Layer

LONG = 40  # layers, beyond which a terminal shows blocks
PERIOD = 4  # blocks that may repeat together


class Block(NamedTuple):
    """Layers shown as one row: indices in order of the graph, how often they repeat, and the sizes of what repeats."""

    layers: tuple[int, ...]
    times: int = 1
    sizes: tuple[int, ...] = ()


def blocks(graph: Graph, steps: list[Step], depth: int) -> list[Block]:
    """The graph's layers in groups. At depth 1 a join and its branches are one block; each level more opens joins once.

    A layer without MACs (a norm, an activation, pooling) goes with the one before it.
    """
    return _Outline(graph, steps).chain(SOURCE, graph.output, depth)


class _Outline:
    def __init__(self, graph: Graph, steps: list[Step]) -> None:
        self.graph = graph
        self.steps = steps
        self.above = dominators(graph)

    def chain(self, start: int, end: int, depth: int) -> list[Block]:
        """The blocks after node `start` up to and with `end`."""
        done: list[Block] = []
        found: list[Block] = []  # from the end backwards: what may count together, no opened join between
        group: list[int] = []  # what waits for the layer that it goes with
        while end > start:
            layer = self.graph.nodes[end].layer
            fork = self.above[end]
            group[:0] = [end]
            if isinstance(layer, Join):
                if depth > 1:
                    done = [*self.branches(end, depth - 1), Block(tuple(group)), *self.merged(found[::-1]), *done]
                    found = []
                else:
                    found.append(Block((*self.inside(fork, end), *group)))
                group = []
            elif self.steps[end].macs or fork == start:
                found.append(Block(tuple(group)))
                group = []
            end = fork
        return self.merged(found[::-1]) + done

    def branches(self, join: int, depth: int) -> list[Block]:
        fork = self.above[join]
        return [block for branch in self.graph.nodes[join].inputs for block in self.chain(fork, branch, depth)]

    def inside(self, fork: int, join: int) -> list[int]:
        """Every node between a fork and the join that ends it."""
        found: set[int] = set()
        waiting = list(self.graph.nodes[join].inputs)
        while waiting:
            node = waiting.pop()
            if node > fork and node not in found:
                found.add(node)
                waiting += self.graph.nodes[node].inputs
        return sorted(found)

    def merged(self, found: list[Block]) -> list[Block]:
        """Repeats as one block: of one, or of up to PERIOD in a row (a transformer's attention and feed-forward).

        The output of each is the input of the next.
        """
        found = self.trimmed(found)
        words = [self.words(block.layers) for block in found]
        together: list[Block] = []
        at = 0
        while at < len(found):
            period, times = max(
                ((period, _repeats(words, at, period)) for period in range(1, PERIOD + 1)),
                key=lambda tried: (tried[0] * (tried[1] - 1), -tried[0]),
            )
            chosen = found[at : at + period * times]
            layers = tuple(i for block in chosen for i in block.layers)
            together.append(Block(layers, times, tuple(len(block.layers) for block in chosen[:period])))
            at += period * times
        return together

    def trimmed(self, found: list[Block]) -> list[Block]:
        """A block that is one shortly before it with more after it (the last norm of a transformer) as the two."""
        words = [self.words(block.layers) for block in found]
        divided: list[Block] = []
        for i, block in enumerate(found):
            sizes = [len(before) for before in words[max(0, i - PERIOD) : i] if words[i][: len(before)] == before]
            cut = max(sizes, default=len(block.layers))
            if any(isinstance(layer, Join) for layer in words[i][cut:]):
                cut = len(block.layers)  # what precedes a join is inside of it
            divided += [Block(part) for part in (block.layers[:cut], block.layers[cut:]) if part]
        return divided

    def words(self, indices: tuple[int, ...]) -> list[Layer]:
        return [self.graph.nodes[i].layer for i in indices]


def _repeats(words: list[list[Layer]], at: int, period: int) -> int:
    """How often in a row the `period` blocks from `at` on come."""
    times = 1
    while words[at + times * period : at + (times + 1) * period] == words[at : at + period]:
        times += 1
    return times if at + period <= len(words) else 1


def title(block: Block, steps: list[Step]) -> tuple[str, str]:
    """A block's name and what it consists of: ("sum2…relu10", "2 × sum (9 layers) relu")."""
    start, words, first = 0, [], ""
    for size in block.sizes or (len(block.layers),):
        head, text = _one_title(block.layers[start : start + size], steps)
        first = first or head
        words.append(text)
        start += size
    last = steps[block.layers[-1]].name
    times = f"{block.times} × " if block.times > 1 else ""
    return first if first == last else f"{first}…{last}", times + " + ".join(words)


def _one_title(layers: tuple[int, ...], steps: list[Step]) -> tuple[str, str]:
    """The first layer that is shown of one block, and its text: of a join with its branches, the join."""
    head = max((i for i in layers if isinstance(steps[i].layer, Join)), default=layers[0])
    shown = [i for i in layers if i >= head]
    words = [steps[i].text for i in shown]
    if len(layers) > len(shown):
        words[0] += f" ({len(layers) - len(shown) + 1} layers)"
    return steps[head].name, " ".join(words)
