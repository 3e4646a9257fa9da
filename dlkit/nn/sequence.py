"""Torch modules of the sequence layers. Inputs are B×T×D, tokens B×T (long), channels-last maps B×H×W×C."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dlkit.core import sequence
from dlkit.core.columns import Columns
from dlkit.core.graph import Step, owners
from dlkit.core.layers import Layer, Shape
from dlkit.nn.columns import Columns as ColumnEmbeddings
from dlkit.nn.padding import Lengths

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}
_INIT_STD = 0.02  # GPT-2's and BERT's, for tables that torch has no layer for
_DISTANCE = 128  # T5: the distance from which all share the last bucket


def _table(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=_INIT_STD))


# Embeddings and positions -----------------------------------------------------------------------


class Embedding(nn.Embedding):
    """torch's own; with `lengths` it takes B×T tokens that are negative after the end of a row, and notes where."""

    lengths: Lengths | None = None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.lengths is None else self.lengths.note(x))


class Positions(nn.Module):
    """Adds the first T rows of a learned table."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.weight = _table(length, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight[: x.shape[1]]


class SinusoidalPositions(nn.Module):
    """Adds sin(p/10000^(2i/D)) at feature 2i and its cosine at 2i + 1 (Vaswani et al. 2017)."""

    def forward(self, x: Tensor) -> Tensor:
        return x + sinusoids(x.shape[1], x.shape[2], x.device).to(x.dtype)


class Segments(nn.Module):
    """Adds the first row of a learned table to every position."""

    def __init__(self, types: int, width: int) -> None:
        super().__init__()
        self.weight = _table(types, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight[0]


class ClassToken(nn.Module):
    """Puts a learned vector before the sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = _table(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.weight.expand(x.shape[0], 1, -1), x], 1)


def sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """length×width: sines of each position at even features, their cosines at odd ones."""
    angles = _angles(length, width, 10000.0, device)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]


def _angles(length: int, width: int, base: float, device: torch.device) -> Tensor:
    """Position times frequency, T×(width/2)."""
    frequencies = base ** -(torch.arange(0, width, 2, device=device) / width)
    return torch.arange(length, device=device)[:, None] * frequencies


def rotate(x: Tensor, theta: float) -> Tensor:
    """Rotary embedding (Su et al. 2021) of B×heads×T×d: feature i turns with i + d/2, as Llama's weights expect."""
    angles = _angles(x.shape[-2], x.shape[-1], theta, x.device)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


# Shape ------------------------------------------------------------------------------------------


class Tokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class MoveAxis(nn.Module):
    """Moves an axis of the batch, channels from first to last or back."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.source, self.target = source, target

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(self.source, self.target)


class Select(nn.Module):
    lengths: Lengths | None = None

    def __init__(self, which: str) -> None:
        super().__init__()
        self.which = which

    def forward(self, x: Tensor) -> Tensor:
        if self.lengths is not None and self.which != "first":
            return self._of_real(x, self.lengths)
        return x.mean(1) if self.which == "mean" else x[:, 0 if self.which == "first" else -1]

    def _of_real(self, x: Tensor, lengths: Lengths) -> Tensor:
        count = lengths.of(x)
        if self.which == "mean":
            return (x * lengths.mask(x)[..., None].to(x.dtype)).sum(1) / count[:, None].to(x.dtype)
        return x[torch.arange(len(x), device=x.device), count - 1]


class Slice(nn.Module):
    """Positions from `start` up to `stop`."""

    def __init__(self, start: int | None, stop: int | None) -> None:
        super().__init__()
        self.kept = slice(start, stop)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.kept]


# Attention --------------------------------------------------------------------------------------


class RelativeBias(nn.Module):
    """A learned bias for each head and bucket of distances, T5's (Raffel et al. 2019): buckets widen with distance."""

    def __init__(self, buckets: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.weight = _table(buckets, heads)
        self.causal = causal

    def forward(self, length: int) -> Tensor:
        """heads×T×T."""
        at = torch.arange(length, device=self.weight.device)
        return F.embedding(self._bucket(at[None] - at[:, None]), self.weight).permute(2, 0, 1)

    def _bucket(self, distance: Tensor) -> Tensor:
        """The bucket of key position minus query position; both directions have half of them unless causal."""
        count = len(self.weight)
        if self.causal:
            side, away = torch.zeros_like(distance), (-distance).clamp(min=0)
        else:
            count //= 2
            side, away = (distance > 0) * count, distance.abs()
        exact = count // 2
        ratio = (away.clamp(min=1) / exact).log() / math.log(_DISTANCE / exact)
        wide = (exact + ratio * (count - exact)).long().clamp(max=count - 1)
        return side + torch.where(away < exact, away, wide)


class Attention(nn.Module):
    """Self-attention on B×T×D; `sequence.Attention` says what each argument means."""

    lengths: Lengths | None = None

    def __init__(self, layer: sequence.Attention, x: Shape) -> None:
        super().__init__()
        query, keys = layer.widths(x)
        self.layer = layer
        self.head_dim = query // layer.heads
        self.q = nn.Linear(x[1], query, layer.bias)
        self.k = nn.Linear(x[1], keys, layer.bias)
        self.v = nn.Linear(x[1], keys, layer.bias)
        self.out = nn.Linear(query, x[1], layer.bias if layer.out_bias is None else layer.out_bias)
        self.q_norm = nn.RMSNorm(self.head_dim, 1e-6) if layer.qk_norm else None
        self.k_norm = nn.RMSNorm(self.head_dim, 1e-6) if layer.qk_norm else None
        self.bias = RelativeBias(layer.relative, layer.heads, layer.causal) if _owns_table(layer) else None
        self.shared: tuple[nn.Module, ...] = ()  # whose bias it takes: in a tuple, so that it is not registered here

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x)

    def attend(self, x: Tensor, memory: Tensor) -> Tensor:
        layer = self.layer
        q, k, v = self._split(self.q(x)), self._split(self.k(memory)), self._split(self.v(memory))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = _normed(self.q_norm, q), _normed(self.k_norm, k)
        if layer.rope:
            q, k = rotate(q, layer.theta), rotate(k, layer.theta)
        mask = self._mask(x)
        y = F.scaled_dot_product_attention(
            *(q, k, v, mask),
            dropout_p=layer.dropout if self.training else 0.0,
            is_causal=layer.causal and mask is None,
            scale=None if layer.scale else 1.0,
            enable_gqa=layer.kv_heads not in (None, layer.heads),
        )
        return self.out(y.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _mask(self, x: Tensor) -> Tensor | None:
        """What is added to the scores, or which pairs are kept; None where is_causal says it all."""
        length, window = x.shape[1], self.layer.window
        table = self.shared[0].bias if self.shared else self.bias
        windowed = window is not None and window < length
        # A causal layer's real positions come before all that is not real.
        real = None if self.lengths is None or self.layer.causal else self.lengths.mask(x)[:, None, None]
        if table is None and not windowed:
            return real
        kept = torch.ones(length, length, dtype=torch.bool, device=x.device)
        if self.layer.causal:
            kept = kept.tril()
        if window is not None and windowed:
            kept = kept.triu(1 - window)
        if real is not None:
            kept = kept & real
        if table is None:
            return kept
        return table(length).masked_fill(~kept, float("-inf")).to(x.dtype)


def _normed(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """`norm` in its own precision: under autocast queries and keys come in half, and its fused form refuses a mix."""
    return norm(x.to(norm.weight.dtype)).to(x.dtype)


def _owns_table(layer: sequence.Attention) -> bool:
    return layer.relative is not None and not layer.tie


class CrossAttention(Attention):
    """The positions after the memory attend over it."""

    def __init__(self, layer: sequence.CrossAttention, x: Shape) -> None:
        super().__init__(layer, x)
        self.memory = layer.memory

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x[:, self.memory :], x[:, : self.memory])


# Feed-forward -----------------------------------------------------------------------------------


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, act: str, bias: bool) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden, bias)
        self.down = nn.Linear(hidden, width, bias)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.down(_ACTIVATIONS[self.act](self.up(x)))


class GatedMlp(Mlp):
    def __init__(self, width: int, hidden: int, act: str, bias: bool) -> None:
        super().__init__(width, hidden, act, bias)
        self.gate = nn.Linear(width, hidden, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(_ACTIVATIONS[self.act](self.gate(x)) * self.up(x))


class Moe(nn.Module):
    """Each position goes to its `top` experts, weighted by the softmax over their scores (Jiang et al. 2024)."""

    def __init__(self, layer: sequence.Moe, width: int) -> None:
        super().__init__()
        kind = GatedMlp if layer.gated else Mlp
        self.top = layer.top
        self.router = nn.Linear(width, layer.experts, bias=False)
        self.experts = nn.ModuleList(kind(width, layer.hidden, layer.act, False) for _ in range(layer.experts))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        scores, chosen = self.router(flat).topk(self.top, -1)
        weights = scores.softmax(-1)
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            row, rank = (chosen == i).nonzero(as_tuple=True)
            out.index_add_(0, row, (expert(flat[row]) * weights[row, rank, None]).to(out.dtype))
        return out.view_as(x)


class TiedHead(nn.Module):
    """A head whose weights are the embedding's. It holds that in a tuple: one owner, one entry in the state."""

    def __init__(self, vocab: int, bias: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab)) if bias else None
        self.shared: tuple[nn.Module, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        (embedding,) = self.shared
        return F.linear(x, embedding.weight, self.bias)


# Recurrent --------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """A recurrent network's states, without its last ones."""

    lengths: Lengths | None = None

    def __init__(self, network: nn.RNNBase) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        if self.lengths is not None and self.packs:
            return self._packed(x, self.lengths.of(x))
        states, _ = self.network(x)
        return states

    @property
    def packs(self) -> bool:
        """Whether lengths matter to it: forwards alone, all that is real comes before what is not."""
        return self.lengths is not None and self.network.bidirectional

    def _packed(self, x: Tensor, count: Tensor) -> Tensor:
        """Backwards, each row begins at its own end. torch wants the lengths on the host, and so waits for them."""
        packed = pack_padded_sequence(x, count.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = self.network(packed)
        return pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])[0]


def _recurrent(layer: sequence.Recurrent, x: Shape) -> nn.Module:
    kind = {sequence.Rnn: nn.RNN, sequence.Lstm: nn.LSTM, sequence.Gru: nn.GRU}[type(layer)]
    named = {a.name: getattr(layer, a.name) for a in layer.arguments}
    return Recurrent(kind(x[1], batch_first=True, **named))


# Shifted windows --------------------------------------------------------------------------------


class WindowAttention(nn.Module):
    """Attention in windows of B×H×W×C (Liu et al. 2021): padded to whole windows, shifted, masked at the seam."""

    def __init__(self, layer: sequence.WindowAttention, x: Shape) -> None:
        super().__init__()
        height, width, channels = x
        window = self.window = layer.window
        self.heads = layer.heads
        self.pads = (-width % window, -height % window)
        self.shifts = tuple(layer.offset(size) for size in (height, width))
        self.qkv = nn.Linear(channels, 3 * channels, layer.bias)
        self.out = nn.Linear(channels, channels, layer.bias)
        self.weight = _table((2 * window - 1) ** 2, layer.heads)

    def forward(self, x: Tensor) -> Tensor:
        (batch, height, width, _), (right, bottom) = x.shape, self.pads
        x = F.pad(x, (0, 0, 0, right, 0, bottom)).roll([-s for s in self.shifts], (1, 2))
        q, k, v = self.qkv(self._windows(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self._relative() + self._seams(x.shape[1], x.shape[2]).repeat(batch, 1, 1)[:, None]
        y = F.scaled_dot_product_attention(q, k, v, bias.to(x.dtype))
        y = self._merge(self.out(y.transpose(1, 2).flatten(2)), x.shape)
        return y.roll(self.shifts, (1, 2))[:, :height, :width]

    def _windows(self, x: Tensor) -> Tensor:
        """B×H×W×C as (windows of all samples)×w²×C."""
        w, (batch, height, width, channels) = self.window, x.shape
        x = x.reshape(batch, height // w, w, width // w, w, channels)
        return x.transpose(2, 3).reshape(-1, w * w, channels)

    def _merge(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        w = self.window
        batch, height, width, channels = shape
        y = y.view(batch, height // w, width // w, w, w, channels)
        return y.transpose(2, 3).reshape(batch, height, width, channels)

    def _relative(self) -> Tensor:
        """heads×w²×w², from the table of relative positions."""
        w = self.window
        at = torch.arange(w, device=self.weight.device)
        rows, columns = at.repeat_interleave(w), at.repeat(w)
        row, column = rows[:, None] - rows[None], columns[:, None] - columns[None]
        index = (row + w - 1) * (2 * w - 1) + column + w - 1
        return self.weight[index].permute(2, 0, 1)

    def _seams(self, height: int, width: int) -> Tensor:
        """windows×w²×w²: −∞ between positions that the shift has brought together from opposite borders."""
        regions = torch.zeros(1, height, width, 1, device=self.weight.device)
        for axis, (size, shift) in enumerate(zip((height, width), self.shifts, strict=True)):
            if shift:
                at = torch.arange(size, device=regions.device)
                part = (at >= size - self.window).long() + (at >= size - shift)
                regions += (3**axis) * part.view(1, -1, 1, 1) if axis == 0 else (3**axis) * part.view(1, 1, -1, 1)
        ids = self._windows(regions).squeeze(-1)
        apart = ids[:, :, None] != ids[:, None]
        return torch.zeros_like(apart, dtype=regions.dtype).masked_fill(apart, float("-inf"))


class PatchMerge(nn.Module):
    """2×2 positions of B×H×W×C side by side, normalised and projected to 2C."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1)))


# Building ---------------------------------------------------------------------------------------

MAKERS: dict[type[Layer], Callable[..., nn.Module]] = {
    Columns: ColumnEmbeddings,
    sequence.Embed: lambda layer, x: Embedding(layer.num_embeddings, layer.embedding_dim),
    sequence.Positions: lambda layer, x: Positions(layer.max_length or x[0], x[1]),
    sequence.SinusoidalPositions: lambda layer, x: SinusoidalPositions(),
    sequence.Segments: lambda layer, x: Segments(layer.types, x[1]),
    sequence.ClassToken: lambda layer, x: ClassToken(x[1]),
    sequence.Tokens: lambda layer, x: Tokens(),
    sequence.ChannelsLast: lambda layer, x: MoveAxis(1, -1),
    sequence.ChannelsFirst: lambda layer, x: MoveAxis(-1, 1),
    sequence.Select: lambda layer, x: Select(layer.which),
    sequence.Take: lambda layer, x: Slice(None, layer.positions),
    sequence.Drop: lambda layer, x: Slice(layer.positions, None),
    sequence.Attention: Attention,
    sequence.CrossAttention: CrossAttention,
    sequence.Mlp: lambda layer, x: Mlp(x[-1], layer.hidden, layer.act, layer.bias),
    sequence.GatedMlp: lambda layer, x: GatedMlp(x[-1], layer.hidden, layer.act, layer.bias),
    sequence.Moe: lambda layer, x: Moe(layer, x[-1]),
    sequence.LmHead: lambda layer, x: (
        TiedHead(layer.vocab, layer.bias) if layer.tie else nn.Linear(x[-1], layer.vocab, layer.bias)
    ),
    sequence.Rnn: _recurrent,
    sequence.Lstm: _recurrent,
    sequence.Gru: _recurrent,
    sequence.WindowAttention: WindowAttention,
    sequence.PatchMerge: lambda layer, x: PatchMerge(x[2]),
}


def share(steps: Sequence[Step], modules: Mapping[str, nn.Module]) -> None:
    """Give each tied layer the module whose weights it shares."""
    for tied, owner in owners(steps).items():
        taker, giver = modules[steps[tied].name], modules[steps[owner].name]
        assert isinstance(taker, TiedHead | Attention)
        taker.shared = (giver,)
