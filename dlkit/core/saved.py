"""Activations: what a forward pass keeps for the backward pass, tensor by tensor, as torch's autograd saves them.

A tensor that two layers save counts once. Inside attention and feed-forward layers the counts are Korthikanti et al.
2022 (arXiv 2205.05198): with dropout and attention written out, a GPT layer keeps sbh(34 + 5as/h) bytes at 16 bits.
Masks of dropout are one byte an element, indices of max pooling eight, statistics of norms four; batch norm keeps
eight bytes a channel, whatever the batch. Norms are counted as fused kernels, which keep their input.
"""

from collections.abc import Collection, Sequence
from math import prod
from typing import NamedTuple

from dlkit.core import layers, sequence
from dlkit.core.columns import Columns
from dlkit.core.compute import learning
from dlkit.core.graph import Step
from dlkit.core.layers import Layer, Shape

_VIEWS = (
    *(layers.Flatten, layers.Identity),
    *(sequence.Tokens, sequence.ChannelsLast, sequence.ChannelsFirst, sequence.Select, sequence.Take, sequence.Drop),
)
_OUTPUT = (layers.ReLU, layers.Sigmoid, layers.Tanh, layers.Softmax)
_INPUT = (
    *(layers.Conv, layers.ConvTranspose, layers.Linear, sequence.LmHead, sequence.Attention),
    *(sequence.Mlp, sequence.GatedMlp, sequence.Moe),
    *(layers.MaxPool, layers.AvgPool, layers.AdaptiveMaxPool),
    *(layers.BatchNorm, layers.InstanceNorm, layers.GroupNorm, layers.TrailingNorm),
    *(layers.ReLU6, layers.LogSigmoid, layers.SELU, layers.SiLU, layers.Mish, layers.Hardswish, layers.Hardsigmoid),
    *(layers.LeakyReLU, layers.ELU, layers.Softplus, layers.GELU, layers.PReLU),
)
_NOTHING = (
    *(layers.Sum, layers.Cat, layers.GlobalAvgPool, layers.Upsample, layers.Dropout),
    *(sequence.Positions, sequence.SinusoidalPositions, sequence.Segments, sequence.ClassToken, Columns),
)


class Kept(NamedTuple):
    """What one layer keeps of one sample besides its graph's tensors: elements, and bytes of masks and the like.

    `inner` and `scores` are split by tensor parallelism; `scores` are what selective recomputation drops.
    `batch_bytes` are kept once for a batch of any size.
    """

    inner: int = 0
    inner_bytes: int = 0
    scores: int = 0
    score_bytes: int = 0
    stream_bytes: int = 0
    batch_bytes: int = 0


class Activations(NamedTuple):
    """A network's kept activations. Tensor 0 is the input, tensor i + 1 the output of step i.

    `sizes`: elements of each tensor; `reads`: the tensors that each step keeps; `kept`: what it keeps besides.
    `unknown` are layers whose activations only their library knows.
    """

    sizes: list[int]
    roots: list[int]
    reads: list[set[int]]
    kept: list[Kept]
    unknown: list[str]

    def stream(self, start: int = 0, end: int | None = None, without: Collection[int] = ()) -> int:
        """Elements of the tensors that the steps [start, end) keep, each once, but for those in `without`."""
        wanted: set[int] = set().union(*self.reads[start:end])
        return sum(self.sizes[tensor] for tensor in wanted if tensor not in without)


def activations(steps: Sequence[Step], flash: bool, tensor: int = 1) -> Activations:
    """What training keeps of one sample, all tensor-parallel ranks together. `flash`: no scores are stored."""
    roots, learns = _roots(steps), learning(steps)
    reads: list[set[int]] = []
    for i, step in enumerate(steps):
        wanted = {roots[source + 1] for source in _saved_inputs(step)}
        if isinstance(step.layer, _OUTPUT):
            wanted.add(roots[i + 1])
        reads.append(wanted if learns[i + 1] else set())  # no gradient goes back to here
    sizes = [prod(steps[0].inputs[0]) if steps else 0, *(step.activations for step in steps)]
    unknown = [step.name for step in steps if not _known(step.layer)]
    kept = [_kept(step, flash, tensor) if learns[i + 1] else Kept() for i, step in enumerate(steps)]
    return Activations(sizes, roots, reads, kept, unknown)


def _roots(steps: Sequence[Step]) -> list[int]:
    """For the input and each step's output, the tensor whose memory it is: a view has that of what it looks at."""
    roots = [0]
    for i, step in enumerate(steps):
        roots.append(roots[step.sources[0] + 1] if isinstance(step.layer, _VIEWS) else i + 1)
    return roots


def _saved_inputs(step: Step) -> tuple[int, ...]:
    if isinstance(step.layer, layers.Mul):
        return step.sources
    if isinstance(step.layer, layers.AdaptivePool) and prod(step.output[1:]) > 1:
        return step.sources  # to a single position it is a mean, which keeps nothing
    return step.sources if isinstance(step.layer, _INPUT) else ()


def _known(layer: Layer) -> bool:
    return isinstance(layer, (*_VIEWS, *_OUTPUT, *_INPUT, *_NOTHING, layers.Mul, layers.AdaptivePool, sequence.Embed))


def _kept(step: Step, flash: bool, tensor: int) -> Kept:
    layer, x = step.layer, step.inputs[0]
    if isinstance(layer, sequence.Attention):
        return _attention(layer, x, flash, tensor)
    if isinstance(layer, sequence.Mlp):
        return Kept(prod(x[:-1]) * layer.hidden * (1 if layer.act == "relu" else 2))
    if isinstance(layer, sequence.GatedMlp):
        return Kept(prod(x[:-1]) * layer.hidden * (3 if layer.act == "relu" else 4))
    if isinstance(layer, sequence.Moe):
        hidden = layer.hidden * (2 + 2 * layer.gated - (layer.act == "relu"))
        routed = prod(x[:-1]) * layer.top  # gathered, returned, weighted; and where each came from
        return Kept(routed * (3 * x[-1] + hidden + 2), 24 * routed)
    if isinstance(layer, Columns):
        return Kept(layer.kept(x))
    if isinstance(layer, layers.BatchNorm):
        return Kept(batch_bytes=8 * x[0])
    return Kept(stream_bytes=_small(step))


def _small(step: Step) -> int:
    """Masks, indices and statistics."""
    layer, x = step.layer, step.inputs[0]
    if isinstance(layer, layers.Dropout):
        return prod(x) if layer.p > 0 else 0
    if isinstance(layer, layers.MaxPool | layers.AdaptiveMaxPool):
        return 8 * step.activations
    if isinstance(layer, layers.LayerNorm):
        return 8 * (prod(x) // prod(layer.normalized_shape(x)))
    if isinstance(layer, layers.RMSNorm):
        return 4 * (prod(x) // prod(layer.normalized_shape(x)))
    if isinstance(layer, layers.GroupNorm):
        return 8 * layer.num_groups
    if isinstance(layer, layers.InstanceNorm):
        return x[0] * (8 + 4 * layer.affine)  # its scale is repeated for each sample
    return 8 * prod(x) if isinstance(layer, sequence.Embed) else 0


def _attention(layer: sequence.Attention, x: Shape, flash: bool, tensor: int) -> Kept:
    """Queries, keys, values and the output projection's input; scores, or the flash kernel's one sum a row."""
    query, keys = layer.widths(x)
    memory = layer.memory if isinstance(layer, sequence.CrossAttention) else x[0]
    rows = layer.heads * layer.shape(x)[0]
    keys *= key_copies(layer, tensor)
    inner = 2 * layer.shape(x)[0] * query + 2 * memory * (keys if flash else query)  # written out, keys are repeated
    if flash:
        return Kept(inner, 4 * rows)
    weights = rows * layer.keys(x)
    dropped = layer.dropout > 0
    return Kept(inner, 0, weights * (1 + dropped), weights * dropped)


def key_copies(layer: sequence.Attention, tensor: int) -> int:
    """On how many tensor-parallel ranks each key and value head lies: on several, where there are fewer heads."""
    return max(1, tensor // (layer.kv_heads or layer.heads))


# Checkpointing --------------------------------------------------------------------------------------


def blocks(steps: Sequence[Step]) -> list[tuple[int, int]]:
    """How checkpointing divides a network: the steps [start, end) of each block, whose input alone is kept.

    A block begins where only one tensor is alive: before each attention layer with its norm or, in a network without
    attention, before the branches of each join. The last one ends with its join; what follows is no block.
    """
    alone = _alone(steps)
    joins = [i for i, step in enumerate(steps) if isinstance(step.layer, layers.Join)]
    marks = [i for i, step in enumerate(steps) if isinstance(step.layer, sequence.Attention)] or joins
    starts: list[int] = []
    at = 0
    for mark in marks:
        while at + 1 < len(alone) and alone[at + 1] <= mark:
            at += 1
        if not starts or alone[at] > starts[-1]:
            starts.append(alone[at])
    if not starts:
        return []
    end = max([*joins, *marks]) + 1
    return list(zip(starts, [*starts[1:], end], strict=True))


def _alone(steps: Sequence[Step]) -> list[int]:
    """The steps before which a single tensor is alive, in order: the output of the step before, or the input (0)."""
    last = [0] * (len(steps) + 1)
    for i, step in enumerate(steps):
        for source in step.sources:
            last[source + 1] = i
    changes = [0] * (len(steps) + 2)
    for tensor, use in enumerate(last[:-1]):
        changes[tensor] += 1
        changes[use + 1] -= 1
    alive, found = 0, []
    for i in range(len(steps)):
        alive += changes[i]
        if alive == 1:
            found.append(i)
    return found
