"""What `convshape` answers: the walk over a graph as a Result."""

from collections.abc import Sequence
from typing import Any

from dlkit.core import network, spec
from dlkit.core.errors import DlkitError
from dlkit.core.field import Reach
from dlkit.core.graph import Step, totals, walk
from dlkit.core.layers import Shape
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


def table(words: Sequence[str]) -> Result:
    """Every layer of the network in `words`."""
    net = network.read(words)
    if net.input is None:
        raise DlkitError("the input shape is missing before the network", "for example: dlkit convshape 3x224x224 …")
    steps = walk(net.graph, net.input)
    return _result(net.input, steps)


def _result(shape: Shape, steps: list[Step]) -> Result:
    whole = totals(steps)
    summary = {
        "input": list(shape),
        "output": list(whole.output),
        "params": whole.params,
        "macs": whole.macs,
        "flops": 2 * whole.macs,
        "rf": sizes(whole.field, shape),
    }
    rows = [row(step, shape) for step in steps]
    return Result(COLUMNS, rows, summary, "output", FACTS)


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


def sizes(reach: Reach, shape: Shape) -> list[int] | None:
    """The receptive field per axis: the input's own size where a layer sees all of it, None where it is undefined."""
    if reach is None:
        return None
    return [axis.size for axis in reach] if isinstance(reach, tuple) else list(shape[1:])


def quick(words: Sequence[str], kernel: str, stride: str, padding: str, dilation: str, filters: int | None) -> Result:
    """One convolution from options. A lone number is a length; without `filters`, channels and costs are absent."""
    if len(words) != 1:
        raise DlkitError(
            "the quick form (-k) takes one input size and no layers",
            "for example: dlkit convshape 224 -k 7 -s 2 -p 3",
        )
    size = spec.parse_shape(words[0])
    net = spec.parse(f"conv:{filters or 1},k{kernel},s{stride},p{padding},d{dilation}")
    result = _result((1, *size) if len(size) == 1 else size, walk(net.graph, (1, *size) if len(size) == 1 else size))
    result.bare = True
    if filters is None or len(size) == 1:
        _drop_channels(result)
    return result


def _drop_channels(result: Result) -> None:
    """Leave out what depends on channels that nobody named."""
    rows = [dict(row) for row in result.rows]
    for target in (result.summary, *rows):
        target.update({key: None for key in ("params", "macs", "flops") if key in target})
        target.update({key: target[key][1:] for key in ("input", "output") if key in target})
    for row in rows:
        row["op"] = row["op"].replace("conv:1,", "conv:")
    result.rows = rows
