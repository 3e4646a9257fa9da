"""The settings of a convolution that give a wanted output: what `convshape --want` answers."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any, NamedTuple

from dlkit.core import spec
from dlkit.core.arguments import LARGEST
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.layers import AXES, Conv, ConvTranspose, Window, pad_sides, per_axis, show, transposed_size
from dlkit.core.quick import NAMES, Options, as_map
from dlkit.core.result import Column, Result

SHOWN = 200  # solutions that are listed
SOUGHT = 50_000  # solutions that are compared
DILATIONS = 4  # tried where several arguments are missing
COLUMNS = [Column(name, "shape") for name in (*NAMES, "output")]
FACTS = [Column("solutions", "int")]

_TRIED = f"were tried, dilations to {DILATIONS}"

Setting = dict[str, int]


class Axis(NamedTuple):
    """One axis: its size, the size that is wanted, and the arguments given for it (padding as a pair, or a word)."""

    name: str
    size: int
    want: int
    given: Mapping[str, Any]
    transposed: bool

    def output(self, missing: Setting) -> int:
        """The output's size with the missing arguments filled in; 0 where the kernel does not fit."""
        k, s, p, d = ({**self.given, **missing}[name] for name in NAMES)
        before, after = (p, p) if isinstance(p, int) else p if isinstance(p, tuple) else (0, 0)
        if self.transposed:
            extra = self.given["output_padding"]
            return max(0, transposed_size(self.size, k, s, d, before, extra)) if extra < max(s, d) else 0
        extent = d * (k - 1) + 1
        if isinstance(p, str):
            if p == "same" and s > 1:
                return 0
            before, after = pad_sides(p, self.size, extent, s)
        padded = self.size + before + after
        return Window(self.name, self.size, k, s, d, before, after).steps() if extent <= padded else 0

    def fitting(self, name: str, others: Setting) -> range:
        """The values of argument `name` that give the wanted size, in which it is monotone, the `others` being set."""
        values = range(name != "padding", min(self._limit(name, others), LARGEST) + 1)
        sign = 1 if self.transposed == (name != "padding") else -1

        def output(value: int) -> int:
            return sign * self.output({**others, name: value})

        low, high = (bisect(values, sign * self.want, key=output) for bisect in (bisect_left, bisect_right))
        return values[low:high]

    def _limit(self, name: str, others: Setting) -> int:
        """Beyond it a window would see nothing but padding, or the answer no longer changes."""
        setting = {**self.given, **others}
        if name == "padding":
            return int(setting["dilation"] * (setting["kernel_size"] - 1))
        if name == "dilation" and setting["kernel_size"] == 1:
            return 1
        p = self.given["padding"]
        return max(self.size, self.want) + (sum(p) if isinstance(p, tuple) else 0)


def table(words: Sequence[str], options: Options, want: str) -> Result:
    """All settings of the arguments that were not given, the same on every axis, the most ordinary first.

    DlkitError with exit code 1 where there is none.
    """
    if len(words) != 1:
        raise DlkitError("--want solves for one input size, e.g. dlkit convshape 224 --want 112 -k 7")
    shape, channels = as_map(words[0])
    if channels and want.count("x") + 1 == len(shape):  # as many sizes are wanted as there are: none is of channels
        shape = (1, *shape)
    values = options.values()
    axes = _axes(shape[1:], _wanted(want, len(shape) - 1), values, options.transposed)
    missing = [name for name in NAMES if name not in values]
    if not missing:
        raise DlkitError("--want has nothing to solve for", "leave out at least one of -k, -s, -p and -d")
    found, apart = _found(axes, missing)
    if not found:
        raise _none(axes, missing)
    layers = [_layer(options, values, setting) for setting in found[:SHOWN]]
    rows = [_row(layer, shape) for layer in layers]
    first = str(layers[0]).partition(",")[2]
    summary = {"input": list(shape[1:]), "solutions": len(found), **rows[0], "arguments": first}
    return Result(COLUMNS, rows, summary, "arguments", FACTS, notes=_notes(found, missing, apart))


def _found(axes: Sequence[Axis], missing: Sequence[str]) -> tuple[list[Any], bool]:
    """The settings, the most ordinary first; and whether those come first that give each axis its own."""
    found = _sought(axes, missing)
    if len({(axis.size, axis.want, str(axis.given)) for axis in axes}) == 1:
        return found, False
    own = _axis_by_axis(axes, missing)
    if own and (not found or _worst(axes, own[0]) < _worst(axes, found[0])):
        return [*own, *found], True
    return found, False


def _worst(axes: Sequence[Axis], setting: Mapping[str, Any]) -> tuple[int, ...]:
    """The oddness of a setting on the axis where it is most odd."""
    each = [{k: v[i] if isinstance(v, tuple) else v for k, v in setting.items()} for i in range(len(axes))]
    return max(_oddness(axis, one) for axis, one in zip(axes, each, strict=True))


def _sought(axes: Sequence[Axis], missing: Sequence[str]) -> list[Setting]:
    """The settings that suit all axes, the most ordinary first."""
    return sorted(islice(_settings(axes, missing), SOUGHT), key=lambda setting: _oddness(axes[0], setting))


def _axis_by_axis(axes: Sequence[Axis], missing: Sequence[str]) -> list[dict[str, Any]]:
    """Settings where the axes differ: of each kernel and dilation that suits all, every axis' most ordinary rest.

    The most ordinary kernel of each axis is among them too.
    """
    each = [_sought([axis], missing) for axis in axes]
    if not all(each):
        return []
    square = [name for name in missing if name in ("kernel_size", "dilation") and len(missing) > 1]
    firsts: list[dict[Any, Setting]] = []
    for found in each:
        first: dict[Any, Setting] = {}
        for setting in found:
            first.setdefault(tuple(setting[name] for name in square), setting)
        firsts.append(first)
    shared = [key for key in firsts[0] if all(key in first for first in firsts)]
    pairs = [[first[key] for first in firsts] for key in shared]
    if [found[0] for found in each] not in pairs:
        pairs.append([found[0] for found in each])
    settings = [{name: tuple(setting[name] for setting in pair) for name in missing} for pair in pairs]
    settings.sort(key=lambda setting: _worst(axes, setting))
    return [{k: v[0] if len(set(v)) == 1 else v for k, v in setting.items()} for setting in settings]


def _wanted(want: str, rank: int) -> tuple[int, ...]:
    try:
        return per_axis("wanted size", spec.parse_shape(want), rank)
    except DlkitError as error:
        raise DlkitError(f"--want: {error.message}") from None


def _axes(sizes: Sequence[int], wants: Sequence[int], values: Mapping[str, Any], transposed: bool) -> list[Axis]:
    rank = len(sizes)
    each: dict[str, Any] = {"output_padding": (0,) * rank}
    for name, value in values.items():
        each[name] = (value,) * rank if isinstance(value, str) else per_axis(name.replace("_", " "), value, rank)
    given = [{name: value[i] for name, value in each.items()} for i in range(rank)]
    if transposed:
        given = [{**g, "padding": (g["padding"],) * 2} if "padding" in g else g for g in given]
    return [Axis(*row, transposed) for row in zip(AXES[rank], sizes, wants, given, strict=True)]


def _settings(axes: Sequence[Axis], missing: Sequence[str]) -> Iterator[Setting]:
    """Every setting: the last of the missing arguments solved for, the others tried in turn."""
    solved = next(name for name in ("padding", "stride", "dilation", "kernel_size") if name in missing)
    tried = [name for name in missing if name != solved]
    for values in product(*(_candidates(axes, name) for name in tried)):
        others = dict(zip(tried, values, strict=True))
        if {**axes[0].given, **others}.get("kernel_size") == 1 and others.get("dilation", 1) > 1:
            continue  # a single tap is not dilated
        ranges = [axis.fitting(solved, others) for axis in axes]
        for value in range(max(r.start for r in ranges), min(r.stop for r in ranges)):
            yield {**others, solved: value}


def _candidates(axes: Sequence[Axis], name: str) -> list[int]:
    """What is tried for an argument where several are missing: the usual values, and those that the sizes suggest."""
    if name == "dilation":
        return list(range(1, DILATIONS + 1))
    ratios = {-(-max(axis.size, axis.want) // min(axis.size, axis.want)) for axis in axes}
    near = {value for ratio in ratios for value in (ratio - 1, ratio, ratio + 1, 2 * ratio - 1, 2 * ratio)}
    usual = range(1, 12 if name == "kernel_size" else 5)
    whole = {size for axis in axes for size in (axis.size, abs(axis.size - axis.want) + 1)}
    return sorted(value for value in {*usual, *near, *whole} if 0 < value <= LARGEST)


def _oddness(axis: Axis, setting: Setting) -> tuple[int, ...]:
    """How far from ordinary a setting is, least first.

    Ordinary: no dilation; no input position skipped; an odd kernel with half of it as padding and a stride of at
    most half, or windows side by side that cover the input; small. Transposed: a kernel that the stride divides.
    """
    k, s, p, d = ({**axis.given, **setting}[name] for name in NAMES)
    p = p if isinstance(p, int) else max(p) if isinstance(p, tuple) else k // 2
    if axis.transposed:
        plain = (k % s == 0 or (k - s) % 2 == 0) and 2 * p == k - s
        return d, s > k, not plain, 13 if k == 1 else 9 * k if k == s else 4 * k, s, p
    centred = k % 2 == 1 and p == k // 2 and 2 * s <= k + 1
    tiled = k == s and p == 0 and axis.size == k * axis.want
    weight = 13 if k == 1 else 7 * k + 1 if tiled else 4 * k
    return d, s > k, not (centred or tiled), p not in (0, k // 2), k % 2 == 0 and not tiled, weight, s, p


def _layer(options: Options, values: Mapping[str, Any], setting: Mapping[str, Any]) -> Conv | ConvTranspose:
    return options.kind(out_channels=1, **values, **setting)


def _row(layer: Conv | ConvTranspose, shape: tuple[int, ...]) -> dict[str, Any]:
    rank = len(shape) - 1
    row: dict[str, Any] = {
        name: list(per_axis(name, getattr(layer, name), rank)) for name in ("kernel_size", "stride", "dilation")
    }
    padding = layer.padding
    row["padding"] = padding if isinstance(padding, str) else [_side(p) for p in per_axis("padding", padding, rank)]
    return {name: row[name] for name in NAMES} | {"output": list(layer.shape(shape)[1:])}


def _side(padding: Any) -> int | str:
    """One number where both sides agree, else before.after."""
    if isinstance(padding, int):
        return padding
    before, after = padding
    return before if before == after else f"{before}.{after}"


def _notes(found: Sequence[Any], missing: Sequence[str], apart: bool) -> list[str]:
    notes = []
    if apart:
        notes.append("the first settings give each axis its own: none that suits all is as ordinary")
    if len(found) > SHOWN:
        many = "at least " if len(found) == SOUGHT else ""
        notes.append(f"the {SHOWN} most ordinary of {many}{len(found)} settings")
    if len(missing) > 1:
        notes.append(f"of several missing arguments, usual values and those near the sizes' ratio {_TRIED}")
    return notes


def _none(axes: Sequence[Axis], missing: Sequence[str]) -> DlkitError:
    sizes, wants = show(tuple(axis.size for axis in axes)), show(tuple(axis.want for axis in axes))
    names = ", ".join(name.replace("_", " ") for name in missing)
    hint = _nearest(axes[0], missing[0]) if len(missing) == len(axes) == 1 else None
    limit = f"; usual values and those near the sizes' ratio {_TRIED}" if len(missing) > 1 else ""
    return DlkitError(f"no choice of {names} gives {wants} from {sizes}{limit}", hint, ExitCode.NO)


def _nearest(axis: Axis, name: str) -> str | None:
    """The outputs on either side of the wanted one."""
    place = axis.fitting(name, {}).start
    near = [(value, axis.output({name: value})) for value in (place - 1, place) if value >= (name != "padding")]
    return ", ".join(f"{name.replace('_', ' ')} {value} gives {output}" for value, output in near if output) or None
