"""What `convshape` answers: the walk over a graph as a Result."""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from math import isfinite
from typing import Any, NamedTuple

from dlkit.core import blocks, network, positions, spec
from dlkit.core.errors import DlkitError
from dlkit.core.field import WHOLE, Field, Reach
from dlkit.core.graph import Graph, Step, Totals, totals, walk
from dlkit.core.layers import Shape, show
from dlkit.core.result import Column, Result

COLUMNS = [
    Column("layer"),
    Column("op"),
    Column("output", "shape"),
    Column("params", "int"),
    Column("macs", "si", "MACs"),
    Column("rf", "shape", "receptive field"),
    Column("jump", "shape", spare=True),
]
FACTS = [
    Column("input", "shape"),
    Column("output", "shape"),
    Column("params", "int"),
    Column("macs", "si", "MACs"),
    Column("flops", "si", "FLOPs"),
    Column("rf", "shape", "receptive field"),
]


class Walked(NamedTuple):
    """A network walked with one input, whose positions on each axis of a field are `extent`."""

    input: Shape
    steps: list[Step]
    totals: Totals
    extent: Shape


def table(words: Sequence[str], depth: int | None = None, explain: bool = False) -> Result:
    """Every layer of the network in `words`, for each of the input shapes that stand before it."""
    shapes = len(list(takewhile(network.is_shape, words)))
    net = network.read(words[max(shapes - 1, 0) :])
    if net.input is None:
        raise DlkitError("the input shape is missing before the network", "for example: dlkit convshape 3x224x224 …")
    others = [spec.parse_shape(word) for word in words[: max(shapes - 1, 0)]]
    return answer(net.graph, [*others, net.input], depth, explain)


def answer(graph: Graph, inputs: Sequence[Shape], depth: int | None = None, explain: bool = False) -> Result:
    """Every layer, or every block at a `depth` above 0, for each input; `explain` adds the formula of each row.

    A terminal shows a long network by block where no depth is given.
    """
    walks = [
        Walked(shape, steps := walk(graph, shape), totals(steps), positions.extent(graph.nodes, shape))
        for shape in inputs
    ]
    columns = [Column("formula")] if explain else []
    if len(walks) == 1:
        result = Result([*COLUMNS, *columns], [], _summary(walks[0]), "output", FACTS)
        result.notes += causality(walks[0].totals.field)
    else:
        summaries = [_summary(walked) for walked in walks]
        together = {key: [summary[key] for summary in summaries] for key in summaries[0]}
        result = Result([Column("input", "shape"), *COLUMNS, *columns], [], together, "lines")
        set_lines(result)
    result.rows = _all_rows(graph, walks, depth or 0, explain)
    if len(graph) > blocks.LONG and depth is None and not explain:
        result.overview = _all_rows(graph, walks, 1, False)
    return result


def _all_rows(graph: Graph, walks: Sequence[Walked], depth: int, explain: bool) -> list[dict[str, Any]]:
    """The rows for each input, which they name where there are several."""
    inputs = [{"input": list(walked.input)} if len(walks) > 1 else {} for walked in walks]
    return [
        {**named, **row}
        for named, walked in zip(inputs, walks, strict=True)
        for row in _rows(graph, walked, depth, explain)
    ]


def set_lines(result: Result) -> None:
    """What -q prints for several inputs: an output a line."""
    result.summary["lines"] = "\n".join(map(show, result.summary["output"]))


def _summary(walked: Walked) -> dict[str, Any]:
    whole = walked.totals
    return {
        "input": list(walked.input),
        "output": list(whole.output),
        "params": whole.params,
        "macs": whole.macs,
        "flops": 2 * whole.macs,
        "rf": sizes(whole.field, walked.extent, whole.positions),
    }


def _rows(graph: Graph, walked: Walked, depth: int, explain: bool) -> Iterator[dict[str, Any]]:
    steps = walked.steps
    if depth:
        for block in blocks.blocks(graph, steps, depth):
            yield block_row(blocks.title(block, steps), [steps[i] for i in block.layers], walked.extent)
        return
    for step in steps:
        yield row(step, walked.extent) | ({"formula": _formula(step)} if explain else {})


def block_row(title: tuple[str, str], steps: list[Step], extent: Shape) -> dict[str, Any]:
    """A block as one row: its sums, and what its last layer gives."""
    params, macs = sum(step.params for step in steps), sum(step.macs for step in steps)
    return {**row(steps[-1], extent), "layer": title[0], "op": title[1], "params": params, "macs": macs}


def _formula(step: Step) -> str:
    from dlkit.core import explain

    return explain.formula(step)


def row(step: Step, extent: Shape) -> dict[str, Any]:
    """One layer as a row of the answer, the positions of the network's input being `extent`."""
    return {
        "layer": step.name,
        "op": step.text,
        "output": list(step.output),
        "params": step.params,
        "macs": step.macs,
        "rf": sizes(step.field, extent, step.positions),
        "jump": ([axis.stride for axis in step.field] or None) if isinstance(step.field, tuple) else None,
    }


def sizes(reach: Reach, extent: Shape | None, count: Shape) -> list[int] | None:
    """The receptive field per axis, the input having `extent` positions (None: not known), and the output `count`.

    All of the input where that is what is seen; where a position sees all before it, what the last one sees. None
    where undefined, or not known.
    """
    if isinstance(reach, tuple):
        ends = extent or (0,) * len(reach)
        lasts = count if len(count) == len(reach) else (0,) * len(reach)
        return [_size(*axis) for axis in zip(reach, ends, lasts, strict=True)]
    return list(extent) if reach == WHOLE and extent is not None else None


def _size(axis: Field, end: int, count: int) -> int:
    if isfinite(axis.size):
        return int(axis.size)
    seen = axis.interval(count - 1) if count else None
    return min(end, int(seen[1]) + 1) if seen else end


def causality(reach: Reach) -> list[str]:
    """A note on a field along one axis that sees what is before a position, and nothing after it."""
    if not isinstance(reach, tuple) or len(reach) != 1 or not reach[0].causal:
        return []
    before = reach[0].padding
    seen = "all that are" if before is None else f"the {int(before):,}"
    return [f"causal: a position sees itself and {seen} before it, none after it"]
