"""The conventions by which others count, so that their numbers can be reproduced, and the difference named.

Each takes the steps of a walk and the positions of a sample, and gives a Count of one sample.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

from dlkit.core.compute import Count, Part, merged
from dlkit.core.errors import DlkitError
from dlkit.core.graph import Step
from dlkit.core.layers import AdaptivePool, BatchNorm, GlobalAvgPool, GroupNorm, InstanceNorm, LayerNorm, Upsample
from dlkit.core.sequence import Attention, LmHead


class Transformer(NamedTuple):
    """The sizes that closed forms are written in."""

    layers: int
    width: int
    heads: int
    attention: int  # heads · head_dim
    vocab: int
    positions: int
    params: int  # active ones
    embeddings: int  # tables and the head


def sizes(steps: Sequence[Step], positions: int | None, name: str) -> Transformer:
    """The sizes of a language model; DlkitError where the graph is not one."""
    found = [(step, step.layer) for step in steps if isinstance(step.layer, Attention)]
    if not found or positions is None:
        raise DlkitError(f"the convention {name} is for language models made of attention layers", _OTHERS)
    step, layer = found[0]
    tables = sum(step.params for step in steps if step.op in ("embed", "pos", "segments", "lmhead"))
    vocab = max((step.layer.vocab for step in steps if isinstance(step.layer, LmHead)), default=0)
    whole = sum(step.active_params for step in steps)
    query = layer.widths(step.inputs[0])[0]
    return Transformer(len(found), step.inputs[0][1], layer.heads, query, vocab, positions, whole, tables)


def _both_ways(name: str, params: int, forward: int, again: int = 0) -> Part:
    return Part(name, params, params, forward, 2 * forward, again)


def kaplan(steps: Sequence[Step], positions: int | None, recompute: str) -> Count:
    it = sizes(steps, positions, "kaplan")
    params = it.params - it.embeddings
    again = 2 * params * it.positions if recompute == "full" else 0
    return Count([_both_ways("6·N, no embeddings", params, 2 * params * it.positions, again)], "sample", it.positions)


def palm(steps: Sequence[Step], positions: int | None, recompute: str) -> Count:
    it = sizes(steps, positions, "palm")
    dense = 2 * it.params * it.positions
    scores = 4 * it.layers * it.attention * it.positions**2
    parts = [
        _both_ways("6·N", it.params, dense, dense if recompute == "full" else 0),
        _both_ways("12·L·H·Q·T", 0, scores, 0 if recompute == "none" else scores),
    ]
    return Count(parts, "sample", it.positions)


def megatron(steps: Sequence[Step], positions: int | None, recompute: str) -> Count:
    it = sizes(steps, positions, "megatron")
    layers = it.layers * 24 * it.positions * it.width**2
    scores = it.layers * 4 * it.positions**2 * it.width
    parts = [
        _both_ways("layers 72·s·L·h²", 12 * it.layers * it.width**2, layers, layers if recompute == "full" else 0),
        _both_ways("scores 12·s²·L·h", 0, scores, 0 if recompute == "none" else scores),
        _both_ways("head 6·s·h·V", it.vocab * it.width, 2 * it.positions * it.width * it.vocab),
    ]
    return Count(parts, "sample", it.positions)


def chinchilla(steps: Sequence[Step], positions: int | None, recompute: str) -> Count:
    if recompute != "none":
        raise DlkitError("the convention chinchilla has no recomputation", _OTHERS)
    it = sizes(steps, positions, "chinchilla")
    softmax = 3 * it.layers * it.heads * it.positions**2
    parts = [
        _both_ways("embeddings 2·T·V·d", it.embeddings, 2 * it.positions * it.vocab * it.width),
        _both_ways("layers and head", it.params - it.embeddings, 2 * sum(step.macs for step in steps)),
        _both_ways("softmax 3·H·T²", 0, softmax),
    ]
    return Count(parts, "sample", it.positions)


def torchvision(steps: Sequence[Step], positions: int | None, recompute: str) -> Count:
    return _forward([(step, step.macs) for step in steps], positions)


def fvcore(steps: Sequence[Step], positions: int | None, recompute: str) -> Count:
    return _forward([(step, step.macs + _fvcore_extra(step)) for step in steps], positions)


def _forward(counts: list[tuple[Step, int]], positions: int | None) -> Count:
    """A forward pass, one component for each kind of layer that costs something or has parameters."""
    parts = merged(Part(step.op, step.params, step.active_params, macs, 0) for step, macs in counts)
    return Count([part for part in parts if any(part[1:])], "sample", positions, forward_only=True)


def _fvcore_extra(step: Step) -> int:
    """What fvcore 0.1.5 counts beside MACs, for a network in evaluation mode."""
    layer, size = step.layer, prod(step.inputs[0])
    if isinstance(layer, BatchNorm):
        return size * (1 + layer.affine)
    if isinstance(layer, InstanceNorm | GroupNorm):
        return size * (4 + layer.affine)
    if isinstance(layer, LayerNorm):
        return size * (4 + layer.elementwise_affine)
    if isinstance(layer, AdaptivePool | GlobalAvgPool):
        return size
    if isinstance(layer, Upsample):
        return step.activations * {"nearest": 1, "bilinear": 4}.get(layer.mode, 0)
    return 0


class Convention(NamedTuple):
    """A way to count, and in one line how it differs from counting what is carried out."""

    counts: Callable[[Sequence[Step], int | None, str], Count]
    difference: str


CONVENTIONS = {
    "kaplan": Convention(kaplan, "6·N·D without embeddings, positions and head, and without attention scores"),
    "chinchilla": Convention(
        chinchilla, "adds the look-up of embeddings as a product (2·T·V·d) and 3·H·T² for softmax; whole backward pass"
    ),
    "palm": Convention(
        palm, "6·N counts the embedding table and norms as products; 12·L·H·Q·T adds all scores, masked ones too"
    ),
    "megatron": Convention(
        megatron, "every layer as 12·h² weights: a 4·h feed-forward, as many key heads as heads, no gate, no experts"
    ),
    "torchvision": Convention(torchvision, "one multiply-accumulate is one FLOP, forward pass only"),
    "fvcore": Convention(
        fvcore, "one multiply-accumulate is one FLOP, forward pass only; norms, pooling and resizing are counted"
    ),
}
_OTHERS = f"others: dlkit, {', '.join(CONVENTIONS)}"


def explained(name: str, steps: Sequence[Step], positions: int | None) -> dict[str, str]:
    """The formula of each component with its numbers, forward; the backward pass is twice that, where there is one."""
    if name in ("torchvision", "fvcore"):
        return _layers_explained(steps, name)
    it = sizes(steps, positions, name)
    t, d, v, layers = it.positions, it.width, it.vocab, it.layers
    dense = it.params - it.embeddings
    forward = {
        "kaplan": {"6·N, no embeddings": f"2·{dense}·{t}"},
        "palm": {"6·N": f"2·{it.params}·{t}", "12·L·H·Q·T": f"4·{layers}·{it.attention}·{t}²"},
        "megatron": {
            "layers 72·s·L·h²": f"24·{t}·{layers}·{d}²",
            "scores 12·s²·L·h": f"4·{t}²·{layers}·{d}",
            "head 6·s·h·V": f"2·{t}·{d}·{v}",
        },
        "chinchilla": {
            "embeddings 2·T·V·d": f"2·{t}·{v}·{d}",
            "layers and head": f"2·{sum(step.macs for step in steps)}",
            "softmax 3·H·T²": f"3·{layers}·{it.heads}·{t}²",
        },
    }[name]
    return {part: f"forward {formula}; backward 2·forward" for part, formula in forward.items()}


def _layers_explained(steps: Sequence[Step], name: str) -> dict[str, str]:
    found: dict[str, list[int]] = {}
    for step in steps:
        found.setdefault(step.op, []).append(step.macs + (_fvcore_extra(step) if name == "fvcore" else 0))
    return {op: f"{len(counts)} layers, together {sum(counts)}" for op, counts in found.items()}
