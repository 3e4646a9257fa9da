"""What `rf` answers: the receptive field of every layer, and of the one asked for.

The answer is for the last map of a network, before gap or flatten reduce it, unless a layer is named. Sizes,
strides and paddings are those of Araujo, Norris and Sim (Distill 2019), axis by axis, in input positions.
"""

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from dlkit.core import network, positions, spec
from dlkit.core.blocks import LONG, blocks, title
from dlkit.core.errors import DlkitError, ExitCode, bad_data, nearest
from dlkit.core.field import WHOLE, Field, Reach
from dlkit.core.graph import Graph, Step, totals, walk
from dlkit.core.layers import FIRST, LAST, Join, Shape
from dlkit.core.result import Column, Result, Row
from dlkit.core.shapes import causality, sizes
from dlkit.core.source import context, place

if TYPE_CHECKING:
    from dlkit.core.run import Run

COLUMNS = [
    Column("layer"),
    Column("op"),
    Column("rf", "shape", "receptive field"),
    Column("stride", "shape"),
    Column("padding", "shape"),
    Column("center", "shape"),
]
SMALLEST = Column("rf_min", "shape", "smallest")
FACTS = [Column("layer"), *COLUMNS[2:]]
SIDES = 2**20, 3 * 2**19  # inputs that are tried where none is given: every usual stride divides them


class Walk(NamedTuple):
    """A network walked for its fields. `input` is None where the user gave none and one was assumed.

    `extent` is how many positions the input has on each axis of a field, `layout` where they lie in it.
    """

    graph: Graph
    input: Shape | None
    extent: Shape | None
    layout: str
    steps: list[Step]
    fields: list[Reach]
    reasons: list[str]  # why a field is None


def read(words: Sequence[str]) -> Walk:
    """The network in `words`, walked; without an input shape, fields that depend on its size are left undefined."""
    return of(network.read(words))


def network_of(run: "Run") -> spec.Network:
    """The network of a run of `train`, from its config.json. Of another command, or damaged: exit code 65; a module of
    the user's own, whose code no run may start: 2."""
    text, shape = run.config.get("network"), run.config.get("input")
    if "module" in run.config:
        hint = f"dlkit rf SHAPE {text} traces it, which runs its code"
        raise DlkitError(f"--run {run.path}: its network is a module of your own, {text}", hint)
    try:
        if not isinstance(text, str) or not isinstance(shape, list):
            raise DlkitError("it says none")
        return spec.parse(f"{'x'.join(map(str, shape))} {text}")
    except DlkitError as failure:
        raise bad_data(f"{run.path}: a run of {run.command} without a network: {failure.message}") from None


def of(net: spec.Network) -> Walk:
    """`read` for a network that is parsed."""
    if net.input is not None:
        steps = walk(net.graph, net.input)
        place = positions.start(net.graph.nodes, net.input)
        reaches, reasons = [s.field for s in steps], [s.undefined for s in steps]
        return Walk(net.graph, net.input, place.sizes or net.input, place.layout, steps, reaches, reasons)
    minded = next((m for node in net.graph.nodes if (m := node.layer.minds((1, 1)))), "")
    if minded == LAST:
        raise DlkitError(
            "a network of sequences needs its input's shape before it",
            "for example dlkit rf 128x64 …, T×D; 128 for tokens before an embedding",
        )
    rank = _rank(net)
    try:
        steps, others = (walk(net.graph, (3, *(side,) * rank)) for side in SIDES)
    except DlkitError as error:
        hint = f"the input was taken as 3 channels on {rank} axes; give its shape first, e.g. dlkit rf 64x56x56 …"
        raise DlkitError(error.message, hint, context=error.context) from None
    fields, reasons = [], []
    for step, other in zip(steps, others, strict=True):
        same = step.field == other.field
        fields.append(step.field if same else None)
        reasons.append(step.undefined if same else "its field depends on the input's size; give the shape first")
    return Walk(net.graph, None, None, FIRST, steps, fields, reasons)


def _rank(net: spec.Network) -> int:
    """The axes that the layers' arguments speak of; 2 where they do not say."""
    lengths = {
        len(value) for node in net.graph.nodes for value in vars(node.layer).values() if isinstance(value, tuple)
    }
    return max(lengths - {1}, default=2)


def answer(words: Sequence[str], at: str | None = None, pixel: str | None = None, want: str | None = None) -> Result:
    """Every layer up to the one that is asked for, and that one's field.

    `at` names it; `want` (200, 200x100) asks for the first that sees so much; `pixel` (y,x) asks what one of its
    output positions sees.
    """
    return answer_for(read(words), at, pixel, want)


def answer_for(walked: Walk, at: str | None = None, pixel: str | None = None, want: str | None = None) -> Result:
    """`answer` for a network that is walked already."""
    index = locate(walked, at, want)
    result = layers_up_to(walked, index)
    if want is not None:
        result.headline = "layer"
    if pixel is not None:
        _see(result, walked, index, pixel)
    return result


def locate(walked: Walk, at: str | None, want: str | None) -> int:
    """The index of the layer that is asked for; DlkitError where it has no field."""
    index = _index(walked, at, want)
    if walked.fields[index] is None:
        raise _undefined(walked, index)
    return index


def layers_up_to(walked: Walk, index: int) -> Result:
    """Every layer up to the one at `index`, whose field is the answer."""
    rows = [_row(walked, i) for i in range(index + 1)]
    columns = list(COLUMNS)
    if any(row["rf"] != row["rf_min"] for row in rows):
        columns.insert(3, SMALLEST)
    summary = {"input": walked.input and list(walked.input), **_summary(walked, index, rows[-1])}
    result = Result(columns, rows, summary, "size", FACTS)
    result.notes += causality(walked.fields[index])
    if walked.input is None and any(getattr(step.layer, "padding", None) == "same-tf" for step in walked.steps):
        result.notes.append("same-tf depends on the input's size: its sides are taken as divisible by every stride")
    if len(rows) > LONG:
        result.overview = _overview(walked, rows)
    return result


def _overview(walked: Walk, rows: list[Row]) -> list[Row]:
    """The rows by block: of each its last layer, and the layer that was asked for in any case."""
    short = []
    for block in blocks(walked.graph, walked.steps, 1):
        last = block.layers[-1]
        if last < len(rows) - 1:
            name, op = title(block, walked.steps)
            short.append({**rows[last], "layer": name, "op": op})
    return [*short, rows[-1]]


# Which layer -----------------------------------------------------------------------------------------


def _index(walked: Walk, at: str | None, want: str | None) -> int:
    """The layer that is asked for: the first that sees `want`, the one named `at`, or the last map."""
    last = totals(walked.steps).last_map
    if last is None and not walked.steps[0].inputs[0][1:]:
        raise DlkitError(
            "the input is a vector: receptive fields are those of maps and sequences, such as C×H×W or T×D"
        )
    if want is not None:
        return _first(walked, want)
    if at is not None:
        return _named(walked, at)
    return len(walked.steps) - 1 if last is None else last


def _named(walked: Walk, name: str) -> int:
    names = [step.name for step in walked.steps]
    if name not in names:
        raise DlkitError(f"--at: there is no layer {name!r}: {nearest(name, names)}")
    return names.index(name)


def _first(walked: Walk, want: str) -> int:
    """The first layer whose field is at least `want` on every axis; DlkitError with exit code 1 where none is."""
    try:
        parts = spec.parse_shape(want)
    except DlkitError as error:
        raise DlkitError(f"--want: {error.message}") from None
    most = None
    for i, step in enumerate(walked.steps):
        seen = sizes(walked.fields[i], walked.extent, step.positions)
        if seen is None or not step.output[1:]:
            continue
        wanted = parts * len(seen) if len(parts) == 1 else parts
        if len(wanted) != len(seen):
            raise DlkitError(f"--want {want} is for {len(wanted)} axes, and the network has {len(seen)}")
        if all(a >= b for a, b in zip(seen, wanted, strict=True)):
            return i
        most = max(most or seen, seen)
    largest = f"; the largest field is {written(most)}" if most else ""
    raise DlkitError(f"no layer sees {want} input positions{largest}", code=ExitCode.NO)


def _undefined(walked: Walk, index: int) -> DlkitError:
    """Why the field is undefined, at the layer where that began."""
    while True:
        before = [i for i in walked.steps[index].sources if i >= 0 and walked.fields[i] is None]
        if not before:
            break
        index = before[0]
    node, source = walked.graph.nodes[index], walked.graph.source
    where = f" at {place(source, node.position)}" if node.position >= 0 else ""
    reason = walked.reasons[index]
    join = "--at names an earlier layer"
    if "strides" in reason:
        join = f"every branch of a join needs the same product of strides; {join}"
    return DlkitError(
        f"{node.name} ({node.layer}){where} has no receptive field: {reason}",
        join if isinstance(node.layer, Join) else None,
        context=context(source, node.position, node.length) if where else None,
    )


# Its field -------------------------------------------------------------------------------------------


def written(each: Sequence[int]) -> str:
    """483 where all axes agree, else 7x5."""
    return str(each[0]) if len(set(each)) == 1 else "x".join(map(str, each))


def _row(walked: Walk, index: int) -> Row:
    step, reach = walked.steps[index], walked.fields[index]
    axes: Any = reach if isinstance(reach, tuple) else ()
    whole = sizes(reach, walked.extent, step.positions)
    smallest = [
        int(axis.sizes[0]) if isfinite(axis.sizes[0]) else most for axis, most in zip(axes, whole or (), strict=False)
    ]
    padding = [axis.padding for axis in axes]
    center = [_center(axis) for axis in axes]
    return {
        "layer": step.name,
        "op": step.text,
        "rf": whole,
        "rf_min": smallest or whole,
        "stride": [axis.stride for axis in axes] or None,
        "padding": None if None in padding else padding or None,
        "center": None if None in center else center or None,
    }


def _center(field: Field) -> int | float | None:
    """The middle of what output 0 sees, in input positions; half-way between two for an even field."""
    seen = field.interval(0)
    if seen is None or not isfinite(seen[0]):
        return None
    middle, half = divmod(seen[0] + seen[1], 2)
    return middle + 0.5 if half else middle


def _summary(walked: Walk, index: int, row: Row) -> dict[str, Any]:
    keys = "layer", "rf", "rf_min", "stride", "padding", "center"
    whole = row["rf"]
    return {
        **{key: row[key] for key in keys},
        "whole": walked.fields[index] == WHOLE,
        "size": written(whole) if whole else "whole",
    }


# One position ----------------------------------------------------------------------------------------


def _see(result: Result, walked: Walk, index: int, pixel: str) -> None:
    """Add to the answer what one output position sees: the box [first, last] per axis, whole and inside the input."""
    step, reach = walked.steps[index], walked.fields[index]
    if walked.input is None:
        raise DlkitError("--pixel needs the input's shape before the network, e.g. dlkit rf 3x224x224 … --pixel 3,3")
    position = _position(pixel, step)
    ends = walked.extent or ()
    if isinstance(reach, tuple):
        box = [_box(axis, o) for axis, o in zip(reach, position, strict=True)]
    else:
        box = [(0, end - 1) for end in ends]
    clipped = [seen and (max(seen[0], 0), min(seen[1], end - 1)) for seen, end in zip(box, ends, strict=True)]
    result.summary |= {"pixel": position, "box": box, "clipped": clipped, "slice": _slices(clipped)}
    result.headline, result.bare = "slice", True
    inside = "" if box == clipped else f", inside the input [{_slices(clipped)}]"
    result.title = f"{step.name} at {pixel} sees [{_slices(box)}]{inside}"


def _box(axis: Field, o: int) -> tuple[int, int] | None:
    """What position `o` sees, from the input's start where it sees all that is before."""
    seen = axis.interval(o)
    return seen and (int(seen[0]) if isfinite(seen[0]) else 0, int(seen[1]))


def _position(pixel: str, step: Step) -> list[int]:
    parts = pixel.split(",")
    sizes = step.positions
    if not sizes:
        raise DlkitError(f"--pixel asks for a position, and {step.name}'s output has none", "--at names another layer")
    expected = f"a position of {step.name}'s output, {' and '.join(f'0 to {size - 1}' for size in sizes)}"
    if not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts) or len(parts) != len(sizes):
        raise DlkitError(f"--pixel must be {expected}; got {pixel!r}")
    position = [int(part) for part in parts]
    if any(o >= size for o, size in zip(position, sizes, strict=True)):
        raise DlkitError(f"--pixel must be {expected}; got {pixel!r}")
    return position


def _slices(box: Sequence[tuple[int, int] | None]) -> str:
    """As Python slices, the end left out: 0:214,0:214."""
    return ",".join(f"{seen[0]}:{seen[1] + 1}" if seen and seen[0] <= seen[1] else "nothing" for seen in box)
