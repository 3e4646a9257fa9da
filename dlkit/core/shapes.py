"""What `convshape` answers: the walk over a graph as a Result."""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from dlkit.core import blocks, network, spec
from dlkit.core.errors import DlkitError
from dlkit.core.field import WHOLE, Reach
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
    Column("jump", "shape"),
]
FACTS = [
    Column("input", "shape"),
    Column("output", "shape"),
    Column("params", "int"),
    Column("macs", "si", "MACs"),
    Column("flops", "si", "FLOPs"),
    Column("rf", "shape", "receptive field"),
]


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
    walks = [(shape, steps := walk(graph, shape), totals(steps)) for shape in inputs]
    columns = [Column("formula")] if explain else []
    if len(walks) == 1:
        ((shape, steps, whole),) = walks
        result = Result([*COLUMNS, *columns], [], _summary(shape, whole), "output", FACTS)
    else:
        summaries = [_summary(shape, whole) for shape, _, whole in walks]
        together = {key: [summary[key] for summary in summaries] for key in summaries[0]}
        result = Result([Column("input", "shape"), *COLUMNS, *columns], [], together, "lines")
        set_lines(result)
    result.rows = _all_rows(graph, walks, depth or 0, explain)
    if len(graph) > blocks.LONG and depth is None and not explain:
        result.overview = _all_rows(graph, walks, 1, False)
    return result


def _all_rows(
    graph: Graph, walks: Sequence[tuple[Shape, list[Step], Totals]], depth: int, explain: bool
) -> list[dict[str, Any]]:
    """The rows for each input, which they name where there are several."""
    inputs = [{"input": list(shape)} if len(walks) > 1 else {} for shape, _, _ in walks]
    return [
        {**named, **row}
        for named, (shape, steps, _) in zip(inputs, walks, strict=True)
        for row in _rows(graph, shape, steps, depth, explain)
    ]


def set_lines(result: Result) -> None:
    """What -q prints for several inputs: an output a line."""
    result.summary["lines"] = "\n".join(map(show, result.summary["output"]))


def _summary(shape: Shape, whole: Totals) -> dict[str, Any]:
    return {
        "input": list(shape),
        "output": list(whole.output),
        "params": whole.params,
        "macs": whole.macs,
        "flops": 2 * whole.macs,
        "rf": sizes(whole.field, shape),
    }


def _rows(graph: Graph, shape: Shape, steps: list[Step], depth: int, explain: bool) -> Iterator[dict[str, Any]]:
    if depth:
        for block in blocks.blocks(graph, steps, depth):
            yield block_row(blocks.title(block, steps), [steps[i] for i in block.layers], shape)
        return
    for step in steps:
        yield row(step, shape) | ({"formula": _formula(step)} if explain else {})


def block_row(title: tuple[str, str], steps: list[Step], shape: Shape) -> dict[str, Any]:
    """A block as one row: its sums, and what its last layer gives."""
    params, macs = sum(step.params for step in steps), sum(step.macs for step in steps)
    return {**row(steps[-1], shape), "layer": title[0], "op": title[1], "params": params, "macs": macs}


def _formula(step: Step) -> str:
    from dlkit.core import explain

    return explain.formula(step)


def row(step: Step, shape: Shape) -> dict[str, Any]:
    """One layer as a row of the answer."""
    return {
        "layer": step.name,
        "op": step.text,
        "output": list(step.output),
        "params": step.params,
        "macs": step.macs,
        "rf": sizes(step.field, shape),
        "jump": [axis.stride for axis in step.field] if isinstance(step.field, tuple) else None,
    }


def sizes(reach: Reach, shape: Shape | None) -> list[int] | None:
    """The receptive field per axis: the input's own size for all of it; None where undefined, or that is not known."""
    if isinstance(reach, tuple):
        return [axis.size for axis in reach]
    return list(shape[1:] or shape) if reach == WHOLE and shape is not None else None
