"""Receptive fields, exactly, one axis at a time.

The field of a layer on one axis says which input positions an output position can see. It is periodic:
with period P and jump J, output q·P + r sees the interval [q·J + lo[r], q·J + hi[r]], for every integer q
(borders are not clipped). Ordinary nets have P = 1, and then J is the effective stride, hi − lo + 1 the
receptive field and −lo the effective padding (Araujo, Norris and Sim, Distill 2019). Transposed convolutions
and resizing have P > 1: the field depends on the position. A phase that no input reaches has lo = hi = None.
Causal layers see all that is before: lo = −inf. A field that is the same at every position has J = 0.
"""

from collections.abc import Callable, Iterable
from math import gcd, inf, isfinite, lcm
from typing import Final, NamedTuple

WHOLE: Final = "whole"  # sees the whole input: after global pooling, or a linear layer on a map
POINTWISE: Final = "pointwise"  # sees what its input sees, position by position
PAST: Final = "past"  # sees what its input sees at this position and at all before it
PERIOD_LIMIT = 4096
LARGEST: Final = 10**30


class Field(NamedTuple):
    """The periodic interval map of one axis, in input positions."""

    period: int
    jump: int
    lo: tuple[float | None, ...]  # whole numbers, or −inf
    hi: tuple[float | None, ...]

    def interval(self, o: int) -> tuple[float, float] | None:
        """The first and last input position that output position `o` sees; None where it sees none."""
        q, r = divmod(o, self.period)
        lo, hi = self.lo[r], self.hi[r]
        return None if lo is None or hi is None else (lo + q * self.jump, hi + q * self.jump)

    @property
    def sizes(self) -> tuple[float, float]:
        """The smallest and the largest receptive field over the phases; inf where all that is before is seen."""
        spans = [0 if lo is None or hi is None else hi - lo + 1 for lo, hi in zip(self.lo, self.hi, strict=True)]
        return min(spans), max(spans)

    @property
    def size(self) -> float:
        """The receptive field: the largest over the phases."""
        return self.sizes[1]

    @property
    def stride(self) -> int | float:
        """Input positions per output position (the product of strides; 0.5 after an upsampling by 2)."""
        whole, rest = divmod(self.jump, self.period)
        return self.jump / self.period if rest else whole

    @property
    def padding(self) -> float | None:
        """Effective padding: how far output 0 reaches before the input's first position; None where without end."""
        first = next((-lo for lo in self.lo if lo is not None), 0)
        return first if isfinite(first) else None

    @property
    def causal(self) -> bool:
        """Whether a position sees positions before it, and none after."""
        return bool(self.jump == self.period == 1 and self.hi[0] == 0 and self.lo[0] is not None and self.lo[0] < 0)


INPUT = Field(1, 1, (0,), (0,))


class Taps(NamedTuple):
    """What a layer reads on one axis: output q·period + r reads its input at q·jump + i, i in at(r)."""

    period: int
    jump: int
    at: Callable[[int], range]


Reads = tuple[Taps, ...] | str  # one for each axis, or POINTWISE, PAST or WHOLE
Reach = tuple[Field, ...] | str | None  # one for each axis, or WHOLE, or None where it is not defined


class Verdict(NamedTuple):
    """The receptive field after a layer, and why it is undefined where it is."""

    reach: Reach
    reason: str = ""


def window(kernel: int, stride: int, dilation: int, before: int) -> Taps:
    """A sliding window with `before` positions of padding at the start."""
    reads = range(-before, dilation * (kernel - 1) - before + 1, dilation)
    return Taps(1, stride, lambda r: reads)


HERE: Final = window(1, 1, 1, 0)  # each position reads itself


def all_of(size: int) -> Taps:
    """Every position of an axis, wherever the output lies."""
    return Taps(1, 0, lambda r: range(size))


def transposed(kernel: int, stride: int, dilation: int, padding: int) -> Taps:
    """Transposed convolution: output o has tap t from input (o + padding − dilation·t)/stride, if whole."""
    common = gcd(stride, dilation)
    every = stride // common
    inverse = pow(dilation // common, -1, every) if every > 1 else 0

    def at(r: int) -> range:
        whole, rest = divmod(r + padding, common)
        first = whole * inverse % every
        if rest or first >= kernel:
            return range(0)
        last = first + (kernel - 1 - first) // every * every
        low, high = ((r + padding - dilation * t) // stride for t in (last, first))
        return range(low, high + 1, dilation // common)

    return Taps(stride, 1, at)


def resized(size: int, new: int, source: Callable[[int], range]) -> Taps:
    """A layer that maps `size` positions onto `new` evenly; `source` gives what an output reads."""
    common = gcd(size, new)
    return Taps(new // common, size // common, source)


class _Strided:
    """A field as it is met in steps: the hull of any run of positions that lie `step` apart, quickly."""

    def __init__(self, field: Field, step: int) -> None:
        period, jump, lo, hi = field
        self.period, self.jump, self.step = period, jump, step
        self.common = gcd(period, step)
        self.turn = period // self.common  # positions until the phases repeat
        self.inverse = pow(step // self.common, -1, self.turn) if self.turn > 1 else 0
        # For each phase that a run may begin with, the ends of two turns; a phase that sees nothing is never extreme.
        places = [[divmod(r + i * step, period) for i in range(2 * self.turn)] for r in range(self.common)]
        self.lo = [[(inf if (x := lo[r]) is None else x + q * jump) for q, r in run] for run in places]
        self.hi = [[(-inf if (x := hi[r]) is None else x + q * jump) for q, r in run] for run in places]

    def hull(self, reads: range) -> tuple[float | None, float | None]:
        """The hull of the intervals at the positions in `reads`; (None, None) where they see nothing."""
        count = min(len(reads), self.turn)
        if not count:
            return None, None
        # The field moves on with each turn: the first one alone can have the lowest end, the last one the highest.
        low, high = self._run(self.lo, reads[0], count, min), self._run(self.hi, reads[len(reads) - count], count, max)
        return (low, high) if low <= high else (None, None)

    def _run(self, table: list[list[float]], start: int, count: int, extreme: Callable[[list[float]], float]) -> float:
        whole, phase = divmod(start, self.common)
        at = whole * self.inverse % self.turn
        turns = (start - phase - at * self.step) // self.period
        return extreme(table[phase][at : at + count]) + turns * self.jump


def _reduced(field: Field) -> Field:
    """The same map with the smallest period."""
    period, jump, lo, hi = field
    for part in range(1, period):
        if period % part or jump * part % period:
            continue
        step = jump * part // period
        shifted = Field(part, step, lo[:part], hi[:part])
        if all(shifted.interval(r) == field.interval(r) for r in range(period)):
            return shifted
    return field


def _repeats_late(period: int) -> str:
    return f"the pattern of positions repeats only after {period}"


def _compose(field: Field, taps: Taps) -> Field | str:
    """The field after a layer that reads `taps` of a map with `field`; the reason where there is none."""
    if field.period == taps.period == 1:
        lo, hi = field.lo[0], field.hi[0]
        reads = taps.at(0)
        if lo is not None and hi is not None and reads:
            jump = field.jump
            return _bounded(Field(1, jump * taps.jump, (lo + reads[0] * jump,), (hi + reads[-1] * jump,)))
    turns = field.period // gcd(field.period, taps.jump)
    period = taps.period * turns
    if period > PERIOD_LIMIT:
        return _repeats_late(period)
    strided: dict[int, _Strided] = {}
    seen = []
    for o in range(period):
        q, r = divmod(o, taps.period)
        reads, shift = taps.at(r), q * taps.jump
        reads = range(reads.start + shift, reads.stop + shift, reads.step)
        if reads.step not in strided:
            strided[reads.step] = _Strided(field, reads.step)
        seen.append(strided[reads.step].hull(reads))
    jump = field.jump * turns * taps.jump // field.period
    return _bounded(_reduced(Field(period, jump, tuple(lo for lo, _ in seen), tuple(hi for _, hi in seen))))


def _bounded(field: Field) -> Field | str:
    """The field, unless its numbers outgrow what is exact."""
    ends = [end for end in (field.jump, *field.lo, *field.hi) if end is not None and end != -inf]
    return field if max(map(abs, ends), default=0) <= LARGEST else "it is larger than 1e30"


def advance(before: Verdict, reads: Reads) -> Verdict:
    """The receptive field after a layer that reads `reads` of its input, whose field is `before`."""
    if before.reach == WHOLE or reads == WHOLE:
        return Verdict(WHOLE)
    if reads == POINTWISE or not isinstance(before.reach, tuple):
        return before
    if isinstance(reads, str):
        return _past(before)
    fields = before.reach or (INPUT,) * len(reads)  # a vector of tokens becomes an axis
    axes = []
    for field, taps in zip(fields, reads, strict=True):
        after = _compose(field, taps)
        if isinstance(after, str):
            return Verdict(None, after)
        axes.append(after)
    return Verdict(tuple(axes))


def _past(before: Verdict) -> Verdict:
    """The field where each position of a sequence takes in all before it; of several axes, one after the other, all."""
    assert isinstance(before.reach, tuple)
    if len(before.reach) > 1:
        return Verdict(WHOLE)
    for field in before.reach:
        first = next((lo for lo in field.lo if lo is not None), 0)
        if field.jump == 0:
            return before
        if first > 0:
            return Verdict(None, f"what is before position {first} is cut off, and a causal layer reads from there on")
        last = [hi if hi is not None else -inf for hi in field.hi]
        reached = [max([*last[: r + 1], *(hi - field.jump for hi in last)]) for r in range(field.period)]
        past = Field(field.period, field.jump, (-inf,) * field.period, tuple(reached))
        return Verdict((_reduced(past),))
    return before


def everywhere(before: Verdict, count: tuple[int, ...], input: tuple[int, ...]) -> Verdict:
    """The field where all `count` positions of a sequence are read: the whole input, or the part that it was cut to.

    What a stride cuts off at the end is not taken off.
    """
    reach = before.reach
    if not isinstance(reach, tuple) or len(reach) != 1 or len(count) != 1 or reach[0].stride not in (0, 1):
        return Verdict(WHOLE)
    return settled(advance(before, (all_of(count[0]),)), input)


def looks_ahead(reach: Reach) -> bool:
    """Whether a position of a sequence sees what comes after it, or that cannot be said."""
    if not isinstance(reach, tuple) or len(reach) != 1:
        return True
    axis = reach[0]
    return axis.jump != axis.period or any(hi is not None and hi > r for r, hi in enumerate(axis.hi))


def is_fixed(verdict: Verdict) -> bool:
    """Whether every position sees the same."""
    return verdict.reach == WHOLE or (isinstance(verdict.reach, tuple) and not any(axis.jump for axis in verdict.reach))


def settled(verdict: Verdict, input: tuple[int, ...]) -> Verdict:
    """WHOLE where every axis has a field that is the same everywhere, and holds the whole input."""
    if not isinstance(verdict.reach, tuple) or not verdict.reach or any(field.jump for field in verdict.reach):
        return verdict
    seen = [field.interval(0) for field in verdict.reach]
    covers = all(s and s[0] <= 0 and s[1] >= end - 1 for s, end in zip(seen, input, strict=True))
    return Verdict(WHOLE) if covers else verdict


def unite(branches: list[Verdict]) -> Verdict:
    """The receptive field where branches join: the union, axis by axis, if their strides agree."""
    first = branches[0]
    if all(branch.reach == first.reach for branch in branches):
        return first
    if any(branch.reach == WHOLE for branch in branches):
        return Verdict(WHOLE)
    undefined = next((branch for branch in branches if branch.reach is None), None)
    if undefined is not None:
        return undefined
    reaches = [branch.reach for branch in branches if isinstance(branch.reach, tuple)]
    if len({len(reach) for reach in reaches}) > 1:
        return Verdict(None, "branches join whose positions lie on different axes")
    axes = []
    for fields in zip(*reaches, strict=True):
        strides = sorted({field.stride for field in fields})
        period = lcm(*(field.period for field in fields))
        if len(strides) > 1:
            return Verdict(None, f"branches with strides {' and '.join(map(str, strides))} join")
        if period > PERIOD_LIMIT:
            return Verdict(None, _repeats_late(period))
        axes.append(_union(fields, period))
    return Verdict(tuple(axes))


def absorbed(branches: list[Verdict], sizes: tuple[int, ...], input: tuple[int, ...]) -> list[Verdict]:
    """The branches of a sequence without those that see no more than one which sees the same part everywhere."""
    single = [v.reach[0] for v in branches if isinstance(v.reach, tuple) and len(v.reach) == 1]
    fixed = [axis for axis in single if axis.jump == 0]
    if len(single) < len(branches) or not fixed or len(fixed) == len(single):
        return branches
    outer = unite([Verdict((axis,)) for axis in fixed])
    assert isinstance(outer.reach, tuple)
    inside = all(_inside(axis, outer.reach[0], sizes[0], input[0]) for axis in single if axis.jump)
    return [outer] if inside else branches


def _inside(moving: Field, fixed: Field, count: int, end: int) -> bool:
    """Whether what `count` positions see of an input of `end` lies inside a fixed part of it."""
    outer = fixed.interval(0)
    ends = {*range(min(moving.period, count)), *range(max(0, count - moving.period), count)}
    seen = [interval for interval in map(moving.interval, ends) if interval is not None]
    return outer is not None and all(outer[0] <= max(lo, 0) and min(hi, end - 1) <= outer[1] for lo, hi in seen)


def spread(gate: Verdict, size: tuple[int, ...], over: tuple[int, ...], input: tuple[int, ...]) -> Verdict:
    """The field of a branch of spatial `size` where it multiplies a map of size `over`, the net's input being `input`.

    A gate of size 1 is the same everywhere: the field is the whole input if that is what the gate sees.
    """
    if size == over or is_fixed(gate) or not isinstance(gate.reach, tuple):
        return gate
    seen = [field.interval(0) for field in gate.reach]
    everything = all(s and s[0] <= 0 and s[1] >= end - 1 for s, end in zip(seen, input, strict=True))
    if everything and set(size) <= {1}:
        return Verdict(WHOLE)
    return Verdict(None, f"a gate of {'x'.join(map(str, size))} that sees a part of the input multiplies a larger map")


def _union(fields: Iterable[Field], period: int) -> Field:
    fields = tuple(fields)
    jump = fields[0].jump * period // fields[0].period
    seen = []
    for o in range(period):
        intervals = [interval for interval in (field.interval(o) for field in fields) if interval is not None]
        seen.append((min(i[0] for i in intervals), max(i[1] for i in intervals)) if intervals else (None, None))
    return _reduced(Field(period, jump, tuple(lo for lo, _ in seen), tuple(hi for _, hi in seen)))
