"""Training compute: 6·N·D, exact counts from the walk, and the conventions that others count by.

A FLOP is one addition or one multiplication; a multiply-accumulate (MAC) is two. Counted are matrix products and
convolutions; softmax, norms, activations, embedding look-ups and the optimiser are not. Sources: Kaplan et al. 2020
(arXiv 2001.08361) for 6·N·D, Hoffmann et al. 2022 (2203.15556) appendix F, Chowdhery et al. 2022 (2204.02311)
appendix B, Narayanan et al. 2021 (2104.04473) equation 3, Korthikanti et al. 2022 (2205.05198) for recomputation.
"""

from collections.abc import Container, Iterable, Sequence
from math import prod
from typing import NamedTuple

from dlkit.core.errors import DlkitError, nearest
from dlkit.core.graph import Step
from dlkit.core.layers import Shape
from dlkit.core.sequence import Attention, GatedMlp, Mlp, Moe, Recurrent, WindowAttention

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
    forward_only: bool = False  # a convention that says nothing of training

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
    **dict.fromkeys(("embed", "pos", "segments", "cls"), "embeddings"),
    **dict.fromkeys(("conv", "dwconv", "yolo", "convt"), "convolutions"),
    **dict.fromkeys(("bn", "in", "gn", "ln", "rms"), "norms"),
    **dict.fromkeys(("mlp", "gmlp"), "feed-forward"),
    **dict.fromkeys(("linear", "patchmerge"), "linear layers"),
    **dict.fromkeys(("rnn", "lstm", "gru"), "recurrent layers"),
    "moe": "experts",
    "lmhead": "head",
}


def exact(steps: Sequence[Step], positions: int | None, how: Counting) -> Count:
    """One sample's FLOPs as they are carried out, component by component.

    A matrix product's backward pass is two of its size: the gradient of its weight, unless frozen, and of its input,
    unless nothing before it learns. So it is 2·forward but for the first layer and for frozen ones.
    """
    return Count(merged(part for parts in by_step(steps, how) for part in parts), "sample", positions)


def by_step(steps: Sequence[Step], how: Counting) -> list[list[Part]]:
    """What `exact` adds up: the parts of each step."""
    frozen = frozen_steps(steps, how.freeze)
    learns = learning(steps, frozen)
    return [
        list(_parts(step, how, any(learns[s + 1] for s in step.sources), _has_weights(step) and i not in frozen))
        for i, step in enumerate(steps)
    ]


def merged(parts: Iterable[Part]) -> list[Part]:
    """One part for each name, in order of appearance."""
    found: dict[str, Part] = {}
    for part in parts:
        found[part.name] = found[part.name].plus(part) if part.name in found else part
    return list(found.values())


def learning(steps: Sequence[Step], frozen: Container[int] = ()) -> list[bool]:
    """For the input and each step's output, whether a gradient has to reach it: something learns at or before it."""
    learns = [False]
    for i, step in enumerate(steps):
        trained = _has_weights(step) and i not in frozen
        learns.append(trained or any(learns[source + 1] for source in step.sources))
    return learns


def _has_weights(step: Step) -> bool:
    return step.params > 0 or step.macs > 0  # a tied head has MACs alone


def _parts(step: Step, how: Counting, before: bool, trained: bool) -> Iterable[Part]:
    """A step's components: attention is two, its projections and the products of scores and values."""
    layer, x = step.layer, step.inputs[0]
    if isinstance(layer, Attention | WindowAttention):
        scores = 2 * products(layer, x, how.skip_masked)
        again = 0 if how.recompute == "none" else scores
        yield _matmuls("attention projections", step, 2 * layer.projection_macs(x), how, before, trained)
        yield Part("attention scores", 0, 0, scores, 2 * scores * (before or trained), again)
    else:
        yield _matmuls(_COMPONENTS.get(step.op, "other layers"), step, 2 * step.macs, how, before, trained)


def _matmuls(name: str, step: Step, forward: int, how: Counting, before: bool, trained: bool) -> Part:
    """Products with a weight. What full recomputation repeats are the blocks: not the head after them."""
    again = forward if how.recompute == "full" and step.op != "lmhead" else 0
    to_input = forward if before else forward - 2 * entry_macs(step) if trained else 0
    return Part(name, step.params, step.active_params, forward, forward * trained + to_input, again)


def entry_macs(step: Step) -> int:
    """MACs of the products that read a layer's input itself, and not what the layer has made of it."""
    layer, x = step.layer, step.inputs[0]
    if isinstance(layer, Attention):
        return layer.projection_macs(x) - step.output[0] * x[1] * layer.widths(x)[0]
    if isinstance(layer, WindowAttention):
        return layer.projection_macs(x) * 3 // 4
    if isinstance(layer, Mlp | GatedMlp):
        return step.macs - prod(x) * layer.hidden
    if isinstance(layer, Moe):
        return step.macs - prod(x) * layer.top * layer.hidden
    if isinstance(layer, Recurrent):
        return x[0] * x[1] * layer.gates * layer.hidden_size * (1 + layer.bidirectional)
    return step.macs


def products(layer: Attention | WindowAttention, x: Shape, skip_masked: bool) -> int:
    """MACs of scores and values; `skip_masked` leaves out what a causal mask hides, as a fused kernel does."""
    full = layer.product_macs(x)
    if not (skip_masked and isinstance(layer, Attention) and layer.causal):
        return full
    length, keys = x[0], layer.keys(x)
    seen = keys * (keys + 1) // 2 + (length - keys) * keys
    return full * seen // (length * keys)


def frozen_steps(steps: Sequence[Step], patterns: Sequence[str]) -> set[int]:
    """The steps whose name (conv1) or op (conv) matches a pattern; DlkitError for one that matches none."""
    found: set[int] = set()
    if not patterns:
        return found
    from fnmatch import fnmatchcase

    for pattern in patterns:
        hits = {i for i, step in enumerate(steps) if fnmatchcase(step.name, pattern) or step.op == pattern}
        if not hits:
            raise DlkitError(
                f"--freeze {pattern!r} matches no layer: {nearest(pattern, [step.name for step in steps])}"
            )
        found |= hits
    return found
