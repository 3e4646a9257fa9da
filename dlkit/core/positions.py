"""Where the positions of a map lie among its axes, and what each layer makes of the receptive field there.

A map is C×H×W or H×W×C, a sequence C×L or T×D: of an input, the first layer that minds decides. A layer that takes the
other axis for channels mixes positions, as it does when torch runs it.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dlkit.core import field
from dlkit.core.field import INPUT, PAST, WHOLE, Reads, Verdict
from dlkit.core.layers import FIRST, LAST, Cat, Layer, Shape
from dlkit.core.sequence import Turning


class Place(NamedTuple):
    """A map's receptive field, where its positions lie, and how many there are on each axis of the field.

    The layout is empty for a vector, which has no positions. A map may lie flat, as a sequence of its positions:
    then the field has more axes than the sequence.
    """

    verdict: Verdict
    layout: str
    sizes: Shape


class _Node(Protocol):
    @property
    def layer(self) -> Layer: ...

    @property
    def inputs(self) -> tuple[int, ...]: ...


def extent(nodes: Sequence[_Node], input: Shape) -> Shape:
    """How many positions the input of a graph has on each axis of a field; the features of a vector."""
    return start(nodes, input).sizes or input


def start(nodes: Sequence[_Node], input: Shape) -> Place:
    """The input of a graph's nodes; DlkitError where one of the first does not fit it."""
    layout = _decided(nodes, input)
    return Place(Verdict((INPUT,) * (len(input) - 1)), layout, _sizes(input, layout))


def _decided(nodes: Sequence[_Node], input: Shape) -> str:
    """The layout that the first layer which minds gives the input; channels first, as images have it, if none does.

    The layers before it keep their input's layout, and so the network's; one that flattens an image ends the question.
    """
    shapes = [input]  # of node i at i + 1
    for node in nodes:
        inputs = [shapes[i + 1] for i in node.inputs]
        if minded := node.layer.minds(inputs[0]):
            return minded
        shapes.append(node.layer.output(*inputs))
        if len(shapes[-1]) != len(input):
            break
    return FIRST if len(input) > 1 else ""


def _sizes(shape: Shape, layout: str) -> Shape:
    if len(shape) == 1:
        return shape if layout else ()
    return shape[:-1] if layout == LAST else shape[1:]


# One layer -------------------------------------------------------------------------------------------


def through(layer: Layer, reads: Reads, x: Shape, y: Shape, before: Place, source: Place) -> Place:
    """The place of a layer's output `y`, where its input `x` lies as `before` says, and the network's as `source`."""
    if len(x) == 1 and not before.layout:
        # a vector of what was seen stays that
        verdict = before.verdict if before.verdict.reach else field.advance(before.verdict, reads)
        return Place(verdict, "", ())
    across = len(x) > 1 and bool(layer.layout) and layer.layout != before.layout
    verdict = _seen(layer, layer.crossed(x) if across else reads, x[0] - y[0], before, source)
    layout = _turned(before.layout) if isinstance(layer, Turning) else before.layout
    if len(y) == 1 and len(x) > 1:
        return Place(verdict, "", ())
    flat = isinstance(verdict.reach, tuple) and len(verdict.reach) > max(1, len(y) - 1)
    return Place(verdict, layout, before.sizes if flat else _sizes(y, layout))


def _turned(layout: str) -> str:
    return FIRST if layout == LAST else LAST


def _seen(layer: Layer, reads: Reads | None, dropped: int, before: Place, source: Place) -> Verdict:
    verdict = before.verdict
    if reads == WHOLE:
        # Of a sequence a part may have been taken. Of a map all counts as seen, whatever a stride cuts off at its end.
        return field.everywhere(verdict, before.sizes, source.sizes) if source.layout == LAST else Verdict(WHOLE)
    if not isinstance(verdict.reach, tuple):
        return verdict
    if reads is None:
        return Verdict(None, f"{layer.op} takes for channels what are positions here")
    if isinstance(reads, tuple) and verdict.reach and len(reads) != len(verdict.reach):
        return Verdict(None, f"{layer.op} runs over positions of a map that lie in one row")
    after = field.advance(verdict, reads)
    if reads == PAST and dropped:  # over a memory: its own positions come after it
        after = field.advance(after, (field.window(1, 1, 1, -dropped),))
    return field.settled(after, source.sizes)


# Where branches join ---------------------------------------------------------------------------------


def join(layer: Layer, shapes: Sequence[Shape], y: Shape, branches: Sequence[Place], source: Place) -> Place:
    """The place of the join `y` of branches with these shapes."""
    main = next(place for place, x in zip(branches, shapes, strict=True) if len(x) == len(y))
    sizes = main.sizes if len(main.sizes) > max(1, len(y) - 1) else _sizes(y, main.layout)
    maps = [place for place, x in zip(branches, shapes, strict=True) if len(x) == len(y)]
    moving = {place.layout for place in maps if isinstance(place.verdict.reach, tuple)}
    if isinstance(layer, Cat) and main.layout == LAST and len(branches) > 1:
        verdict = _one_after_the_other(branches)
    elif len(moving) > 1 and not any(place.verdict.reach == WHOLE for place in branches):
        verdict = Verdict(None, "branches join whose positions lie on different axes")
    else:
        spread = [field.spread(place.verdict, place.sizes, sizes, source.sizes) for place in branches]
        verdict = field.unite(field.absorbed(spread, sizes, source.sizes))
    return Place(verdict, main.layout, sizes)


def _one_after_the_other(branches: Sequence[Place]) -> Verdict:
    """Concatenated sequences: what a position sees depends on which of them it is in."""
    if all(place.verdict.reach == WHOLE for place in branches):
        return Verdict(WHOLE)
    lost = next((place.verdict for place in branches if place.verdict.reach is None), None)
    return lost or Verdict(None, "branches stand one after the other along the positions")
