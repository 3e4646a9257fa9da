"""Training compute: 6·N·D, exact counts from the walk, and the conventions that others count by.

A FLOP is one addition or one multiplication; a multiply-accumulate (MAC) is two. Counted are matrix products and
convolutions; softmax, norms, activations, embedding look-ups and the optimiser are not. Sources: Kaplan et al. 2020
(arXiv 2001.08361) for 6·N·D, Hoffmann et al. 2022 (2203.15556) appendix F, Chowdhery et al. 2022 (2204.02311)
appendix B, Narayanan et al. 2021 (2104.04473) equation 3, Korthikanti et al. 2022 (2205.05198) for recomputation.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dlkit.core.errors import DlkitError, nearest
from dlkit.core.graph import Step

RECOMPUTE = ("none", "selective", "full")


class Part(NamedTuple):
    """One component: its parameters, and FLOPs of one unit (a token, or a sample)."""

    name: str
    params: int
    active_params: int
    forward: int
    backward: int
    recompute: int = 0

    def plus(self, other: "Part") -> "Part":
        """The two together, under this one's name."""
        return Part(self.name, *(a + b for a, b in zip(self[1:], other[1:], strict=True)))


class Count(NamedTuple):
    """The cost of one unit, component by component. `positions` are the tokens of a sample; None without tokens."""

    parts: list[Part]
    unit: str  # "token" or "sample"
    positions: int | None

    def total(self) -> Part:
        whole = Part("total", 0, 0, 0, 0)
        for part in self.parts:
            whole = whole.plus(part)
        return whole


def dense(params: int, recompute: str = "none") -> Count:
    """6·N for a token: 2·N forward, 4·N backward, 2·N more where everything is recomputed (8·N)."""
    if recompute == "selective":
        raise DlkitError(
            "selective recomputation needs the layers: give a named model or a network, or --recompute full"
        )
    again = 2 * params if recompute == "full" else 0
    return Count([Part("dense layers", params, params, 2 * params, 4 * params, again)], "token", None)


# Exact counts from the walk ------------------------------------------------------------------------


class Counting(NamedTuple):
    """How the walk is counted: what is recomputed, whether masked scores are skipped, which layers are frozen."""

    recompute: str = "none"
    skip_masked: bool = False
    freeze: tuple[str, ...] = ()


_COMPONENTS = {
    **dict.fromkeys(("conv", "dwconv", "yolo", "convt"), "convolutions"),
    **dict.fromkeys(("bn", "in", "gn", "ln", "rms"), "norms"),
    "linear": "linear layers",
}


def exact(steps: Sequence[Step], positions: int | None, how: Counting) -> Count:
    """One sample's FLOPs as they are carried out, component by component.

    A matrix product's backward pass is two of its size: the gradient of its weight, unless frozen, and of its input,
    unless nothing before it learns. So it is 2·forward but for the first layer and for frozen ones.
    """
    frozen = _frozen(steps, how.freeze)
    parts: dict[str, Part] = {}
    learns = [False]  # the graph's input, then each step: does a gradient have to reach its output?
    for i, step in enumerate(steps):
        before = any(learns[source + 1] for source in step.sources)
        trained = i not in frozen and (step.params > 0 or step.macs > 0)
        learns.append(before or trained)
        for part in _parts(step, how, before, trained):
            parts[part.name] = parts[part.name].plus(part) if part.name in parts else part
    return Count(list(parts.values()), "sample", positions)


def _parts(step: Step, how: Counting, before: bool, trained: bool) -> Iterable[Part]:
    forward = 2 * step.macs
    again = forward if how.recompute == "full" else 0
    name = _COMPONENTS.get(step.op, "other layers")
    yield Part(name, step.params, step.params, forward, forward * (before + trained), again)


def _frozen(steps: Sequence[Step], patterns: Iterable[str]) -> set[int]:
    """The steps whose name (conv1) or op (conv) matches a pattern; DlkitError for one that matches none."""
    from fnmatch import fnmatchcase

    found: set[int] = set()
    for pattern in patterns:
        hits = {i for i, step in enumerate(steps) if fnmatchcase(step.name, pattern) or step.op == pattern}
        if not hits:
            raise DlkitError(
                f"--freeze {pattern!r} matches no layer: {nearest(pattern, [step.name for step in steps])}"
            )
        found |= hits
    return found
