"""Layers of sequences: embeddings, attention, feed-forward blocks, recurrent layers, shifted windows.

A sequence is T×D, tokens are (T,), and a channels-last map is H×W×C. MACs are of one sample, forward, counted
as FlopCounterMode/2 counts matrix products: projections, feed-forward layers, heads, and the two attention
products over all T×T pairs (a causal mask saves nothing; a window counts the positions inside it). Softmax,
norms, rotary embeddings, look-ups, the relative position bias and routing's top-k count 0.
"""

from math import prod
from typing import ClassVar, Final

from dlkit.core import field, layers
from dlkit.core.arguments import Argument, Choice, Flag, Real, Whole
from dlkit.core.columns import Columns
from dlkit.core.errors import DlkitError
from dlkit.core.field import PAST, WHOLE, Reads, Taps
from dlkit.core.layers import FIRST, LAST, Layer, Shape

_POSITION = field.HERE  # tokens become an axis
_SHARE = Real(0, 1)


def sequence(x: Shape) -> tuple[int, int]:
    """Length and width of a sequence; DlkitError where `x` is not one."""
    if len(x) != 2:
        raise DlkitError("it needs a sequence T×D; put embed or tokens before it")
    return x[0], x[1]


# Embeddings and positions -----------------------------------------------------------------------


class Embed(Layer):
    """A table of V vectors: tokens (T,) become T×D. A look-up, 0 MACs."""

    names = ("embed", "embedding")
    arguments = (
        Argument("num_embeddings", Whole(), what="vocabulary size"),
        Argument("embedding_dim", Whole(), what="width"),
    )
    bare = "num_embeddings embedding_dim"
    example = "embed:50257,768"

    num_embeddings: int
    embedding_dim: int

    def minds(self, x: Shape) -> str:
        return LAST

    def shape(self, x: Shape) -> Shape:
        if len(x) != 1:
            raise DlkitError("it needs tokens: a single length, such as 1024")
        return (*x, self.embedding_dim)

    def params(self, x: Shape) -> int:
        return self.num_embeddings * self.embedding_dim

    def offers(self, x: Shape) -> str:
        return f"embed:{self.num_embeddings},{self.embedding_dim}"

    def reads(self, x: Shape) -> Reads:
        return (_POSITION,)


class SequenceLayer(Layer):
    """A layer whose input is a sequence T×D, and whose output has the same shape unless it says otherwise."""

    layout = LAST

    def shape(self, x: Shape) -> Shape:
        sequence(x)
        return x


class Positions(SequenceLayer):
    """Learned positions: adds the first T rows of a table of max_length×D (T×D unless the length is given)."""

    names = ("pos", "positions")
    arguments = (Argument("max_length", Whole(), None),)
    bare = "max_length"
    example = "pos:1024"

    max_length: int | None

    def shape(self, x: Shape) -> Shape:
        length, _ = sequence(x)
        if self.max_length is not None and length > self.max_length:
            raise DlkitError(f"its table has {self.max_length} positions, and the sequence {length}")
        return x

    def params(self, x: Shape) -> int:
        return (self.max_length or x[0]) * x[1]


class SinusoidalPositions(SequenceLayer):
    """Adds sines and cosines of the position (Vaswani et al. 2017); nothing is learned. D is even."""

    names = ("sinpos",)

    def shape(self, x: Shape) -> Shape:
        if sequence(x)[1] % 2:
            raise DlkitError(f"sines and cosines need an even width, not {x[1]}")
        return x


class Segments(SequenceLayer):
    """Adds a row of a table of `types` rows to every position, the first one as built (BERT's token types)."""

    names = ("segments",)
    arguments = (Argument("types", Whole(), 2),)
    bare = "types"

    types: int

    def params(self, x: Shape) -> int:
        return self.types * x[1]


class ClassToken(SequenceLayer):
    """A learned vector put before the sequence: T×D becomes (T+1)×D."""

    names = ("cls",)

    def shape(self, x: Shape) -> Shape:
        length, width = sequence(x)
        return length + 1, width

    def params(self, x: Shape) -> int:
        return x[1]

    def reads(self, x: Shape) -> Reads:
        return (Taps(1, 1, lambda r: range(-1, 0)),)


# Shape ------------------------------------------------------------------------------------------


class Turning(Layer):
    """A layer that moves the channels to the other end, and each position with what it sees."""

    def crossed(self, x: Shape) -> Reads | None:
        return field.POINTWISE if len(x) == 2 else None


class Tokens(Turning):
    """A map C×H×W becomes the sequence of its positions, row by row: (H·W)×C. C×L and C×D×H×W likewise."""

    names = ("tokens",)
    layout = FIRST

    def shape(self, x: Shape) -> Shape:
        if len(x) < 2:
            raise DlkitError("it needs a map: C×L, C×H×W or C×D×H×W")
        return prod(x[1:]), x[0]


class ChannelsLast(Turning):
    """C×H×W becomes H×W×C (C×L and C×D×H×W likewise)."""

    names = ("channelslast",)
    layout = FIRST

    def shape(self, x: Shape) -> Shape:
        return (*x[1:], x[0])


class ChannelsFirst(Turning):
    """H×W×C becomes C×H×W (L×C and D×H×W×C likewise)."""

    names = ("channelsfirst",)
    layout = LAST

    def shape(self, x: Shape) -> Shape:
        return (x[-1], *x[:-1])


class Select(SequenceLayer):
    """One vector of a sequence: the last, the first, or the mean of all."""

    names = ("select",)
    arguments = (Argument("which", Choice("last", "first", "mean"), what="position"),)
    bare = "which"
    example = "select:last"

    which: str

    def shape(self, x: Shape) -> Shape:
        return x[1:] if sequence(x) else x

    def reads(self, x: Shape) -> Reads:
        if self.which == "mean":
            return WHOLE
        at = range(1) if self.which == "first" else range(x[0] - 1, x[0])
        return (Taps(1, 0, lambda r: at),)


class Slice(Layer):
    """A part of a sequence T×D, or of tokens (T,)."""

    arguments = (Argument("positions", Whole(), what="number of positions"),)
    bare = "positions"

    positions: int

    def minds(self, x: Shape) -> str:
        return LAST

    def left(self, x: Shape) -> int:
        """Positions after the first `positions`."""
        if len(x) > 2 or x[0] < self.positions:
            raise DlkitError(f"it needs a sequence of at least {self.positions} positions")
        return x[0] - self.positions


class Take(Slice):
    """The first positions of a sequence."""

    names = ("take",)
    example = "take:512"

    def shape(self, x: Shape) -> Shape:
        return (x[0] - self.left(x), *x[1:])

    def reads(self, x: Shape) -> Reads:
        return (_POSITION,)


class Drop(Slice):
    """What follows the first positions of a sequence."""

    names = ("drop",)
    example = "drop:512"

    def shape(self, x: Shape) -> Shape:
        if not self.left(x):
            raise DlkitError(f"nothing is left after the first {self.positions} positions")
        return (self.left(x), *x[1:])

    def reads(self, x: Shape) -> Reads:
        first = self.positions
        return (Taps(1, 1, lambda r: range(first, first + 1)),)


# Attention --------------------------------------------------------------------------------------

_BIAS = Argument("bias", Flag(), True)
_HEADS = Argument("heads", Whole(), what="number of heads")
_KV_HEADS = Argument("kv_heads", Whole(), None, "kv")
_HEAD_DIM = Argument("head_dim", Whole(), None, "dim")
_OUT_BIAS = Argument("out_bias", Flag(), None)
_SCALE = Argument("scale", Flag(), True)
_DROPOUT = Argument("dropout", _SHARE, 0.0)


class Attention(SequenceLayer):
    """Multi-head self-attention, with grouped queries where kv_heads < heads.

    heads       query heads, each head_dim wide (D/heads unless given).
    kv_heads    key and value heads, each serving heads/kv_heads query heads; as many as heads unless given.
    causal      a position sees itself and what is before it.
    window      with causal: only the last `window` positions, itself among them.
    bias        of the projections; out_bias of the last one alone (as bias unless given).
    rope        rotary position embedding with base theta; qk_norm an RMSNorm over each head's query and key.
    relative    T5's learned bias for each head and bucket of distances; tie=1 takes the table of the layer before.
    scale=0     leaves the scores undivided by √head_dim. dropout is that of the attention weights.
    """

    names: ClassVar[tuple[str, ...]] = ("attn", "attention")
    arguments: ClassVar[tuple[Argument, ...]] = (
        *(_HEADS, _KV_HEADS, _HEAD_DIM),
        Argument("causal", Flag(), False),
        Argument("window", Whole(), None, "w"),
        *(_BIAS, _OUT_BIAS),
        Argument("rope", Flag(), False),
        Argument("theta", Real(1), 10000.0),
        Argument("qk_norm", Flag(), False),
        Argument("relative", Whole(4), None),
        Argument("tie", Flag(), False),
        *(_SCALE, _DROPOUT),
    )
    bare = "heads"
    example = "attn:12"
    mixes = True

    heads: int
    kv_heads: int | None
    head_dim: int | None
    causal: bool = False
    window: int | None = None
    bias: bool
    out_bias: bool | None
    rope: bool = False
    theta: float
    qk_norm: bool = False
    relative: int | None = None
    tie: bool = False
    scale: bool
    dropout: float

    def check(self) -> None:
        if self.heads % (self.kv_heads or self.heads):
            raise DlkitError(f"{self.op}'s {self.heads} heads are not divisible by its {self.kv_heads} kv_heads")
        if self.window and not self.causal:
            raise DlkitError("attn's window counts back from each position: it needs causal=1")
        if self.tie and not self.relative:
            raise DlkitError("attn's tie=1 shares the table of a relative bias: it needs relative, e.g. relative=32")

    def widths(self, x: Shape) -> tuple[int, int]:
        """The width of all query heads, and of all key (or value) heads."""
        _, width = sequence(x)
        if self.head_dim is None and width % self.heads:
            raise DlkitError(f"its input's width {width} is not divisible by {self.heads} heads")
        head = self.head_dim or width // self.heads
        if self.rope and head % 2:
            raise DlkitError(f"rotary embedding needs heads of an even width, not {head}")
        return self.heads * head, (self.kv_heads or self.heads) * head

    def shape(self, x: Shape) -> Shape:
        self.widths(x)
        return x

    def params(self, x: Shape) -> int:
        query, keys = self.widths(x)
        out_bias = self.bias if self.out_bias is None else self.out_bias
        extra = 2 * self.qk_norm * query // self.heads
        extra += 0 if self.tie else (self.relative or 0) * self.heads
        return 2 * x[1] * (query + keys) + self.bias * (query + 2 * keys) + out_bias * x[1] + extra

    def offers(self, x: Shape) -> str:
        return self._table() if self.relative and not self.tie else ""

    def shares(self, x: Shape) -> str:
        return self._table() if self.tie else ""

    def _table(self) -> str:
        return f"attn:{self.heads},relative={self.relative}{',causal=1' if self.causal else ''}"

    def macs(self, x: Shape, y: Shape) -> int:
        return self.projection_macs(x) + self.product_macs(x)

    def projection_macs(self, x: Shape) -> int:
        """Queries, keys, values and the output projection."""
        query, keys = self.widths(x)
        return 2 * x[0] * x[1] * (query + keys)

    def product_macs(self, x: Shape) -> int:
        """Scores QKᵀ and the weighted values, all heads together (N-S024)."""
        return 2 * x[0] * self.keys(x) * self.widths(x)[0]

    def keys(self, x: Shape) -> int:
        """Positions that a query is multiplied with."""
        return min(x[0], self.window or x[0])

    def reads(self, x: Shape) -> Reads:
        if self.window:
            return (field.window(self.window, 1, 1, self.window - 1),)
        return PAST if self.causal else WHOLE


class CrossAttention(Attention):
    """Attention of a sequence over a memory: its input holds the memory's positions first, its output the others."""

    names = ("crossattn",)
    arguments = (
        _HEADS,
        Argument("memory", Whole(), what="number of memory positions"),
        *(_KV_HEADS, _HEAD_DIM, _BIAS, _OUT_BIAS, _SCALE, _DROPOUT),
    )
    bare = "heads memory"
    example = "crossattn:8,512"

    memory: int

    def shape(self, x: Shape) -> Shape:
        self.widths(x)
        return self.queries(x), x[1]

    def queries(self, x: Shape) -> int:
        if x[0] <= self.memory:
            raise DlkitError(f"it needs more positions than the memory's {self.memory}")
        return x[0] - self.memory

    def projection_macs(self, x: Shape) -> int:
        query, keys = self.widths(x)
        return 2 * x[1] * (self.queries(x) * query + self.memory * keys)

    def product_macs(self, x: Shape) -> int:
        return 2 * self.queries(x) * self.memory * self.widths(x)[0]

    def keys(self, x: Shape) -> int:
        return self.memory

    def reads(self, x: Shape) -> Reads:
        """The memory, and the position's own, which comes after it: as an interval, all up to there."""
        return PAST


# Feed-forward -----------------------------------------------------------------------------------

_HIDDEN = Argument("hidden", Whole(), what="hidden width")
_ACTIVATIONS = Choice("gelu", "gelu-tanh", "relu", "silu")


class Mlp(Layer):
    """D → hidden → D at every position, with an activation between."""

    names = ("mlp",)
    arguments = (_HIDDEN, Argument("act", _ACTIVATIONS, "gelu"), _BIAS)
    bare = "hidden"
    example = "mlp:3072"
    layout, mixes = LAST, True

    hidden: int
    act: str
    bias: bool

    def params(self, x: Shape) -> int:
        return 2 * x[-1] * self.hidden + self.bias * (self.hidden + x[-1])

    def macs(self, x: Shape, y: Shape) -> int:
        return 2 * prod(x) * self.hidden


class GatedMlp(Layer):
    """act(xG) ⊙ xU, then back to D (Shazeer 2020): SwiGLU with silu, GeGLU with gelu. No biases unless bias=1."""

    names = ("gmlp", "swiglu")
    arguments = (_HIDDEN, Argument("act", _ACTIVATIONS, "silu"), Argument("bias", Flag(), False))
    bare = "hidden"
    example = "gmlp:11008"
    layout, mixes = LAST, True

    hidden: int
    act: str
    bias: bool

    def params(self, x: Shape) -> int:
        return 3 * x[-1] * self.hidden + self.bias * (2 * self.hidden + x[-1])

    def macs(self, x: Shape, y: Shape) -> int:
        return 3 * prod(x) * self.hidden


class Moe(Layer):
    """A mixture of feed-forward experts: a router sends each position to the `top` best of them."""

    names = ("moe",)
    arguments = (
        Argument("experts", Whole(), what="number of experts"),
        _HIDDEN,
        Argument("top", Whole(), 2),
        Argument("gated", Flag(), True),
        Argument("act", _ACTIVATIONS, "silu"),
    )
    bare = "experts hidden"
    example = "moe:8,14336"
    layout, mixes = LAST, True

    experts: int
    hidden: int
    top: int
    gated: bool
    act: str

    def check(self) -> None:
        if self.top > self.experts:
            raise DlkitError(f"moe's top {self.top} is more than its {self.experts} experts")

    def expert(self, width: int) -> int:
        """Weights of one expert."""
        return (2 + self.gated) * width * self.hidden

    def params(self, x: Shape) -> int:
        return x[-1] * self.experts + self.experts * self.expert(x[-1])

    def active_params(self, x: Shape) -> int:
        return x[-1] * self.experts + self.top * self.expert(x[-1])

    def macs(self, x: Shape, y: Shape) -> int:
        return prod(x[:-1]) * self.active_params(x)


class LmHead(Layer):
    """Scores for each of V tokens. With tie=1 its weights are those of embed: MACs, but no parameters of its own."""

    names = ("lmhead",)
    arguments = (
        Argument("vocab", Whole(), what="vocabulary size"),
        Argument("tie", Flag(), False),
        Argument("bias", Flag(), False),
    )
    bare = "vocab"
    example = "lmhead:50257,tie=1"
    layout, mixes = LAST, True

    vocab: int
    tie: bool
    bias: bool

    def shape(self, x: Shape) -> Shape:
        if len(x) > 2:
            raise DlkitError("it needs a sequence T×D or a vector")
        return (*x[:-1], self.vocab)

    def params(self, x: Shape) -> int:
        return self.vocab * (x[-1] * (not self.tie) + self.bias)

    def shares(self, x: Shape) -> str:
        return f"embed:{self.vocab},{x[-1]}" if self.tie else ""

    def macs(self, x: Shape, y: Shape) -> int:
        return prod(x) * self.vocab


# Recurrent --------------------------------------------------------------------------------------


class Recurrent(SequenceLayer):
    """A recurrent layer over T steps; the output is the last layer's state at each step, both directions side by side.

    Parameters are torch's: each gate has weights for input and state, and two bias vectors.
    """

    arguments: ClassVar[tuple[Argument, ...]] = (
        Argument("hidden_size", Whole(), what="hidden size"),
        Argument("num_layers", Whole(), 1, "l"),
        Argument("bidirectional", Flag(), False),
        _BIAS,
        _DROPOUT,
    )
    bare = "hidden_size"
    mixes = True
    gates: ClassVar[int]

    hidden_size: int
    num_layers: int
    bidirectional: bool
    bias: bool
    dropout: float

    def shape(self, x: Shape) -> Shape:
        return sequence(x)[0], self.hidden_size * (1 + self.bidirectional)

    def weights(self, x: Shape) -> int:
        """Weights of all gates, layers and directions."""
        hidden, directions = self.hidden_size, 1 + self.bidirectional
        inputs = x[1] + (self.num_layers - 1) * hidden * directions
        return self.gates * hidden * directions * (inputs + self.num_layers * hidden)

    def params(self, x: Shape) -> int:
        biases = 2 * self.gates * self.hidden_size * self.num_layers * (1 + self.bidirectional)
        return self.weights(x) + biases * self.bias

    def macs(self, x: Shape, y: Shape) -> int:
        return x[0] * self.weights(x)

    def reads(self, x: Shape) -> Reads:
        return WHOLE if self.bidirectional else PAST


class Rnn(Recurrent):
    names = ("rnn",)
    arguments = (*Recurrent.arguments, Argument("nonlinearity", Choice("tanh", "relu"), "tanh"))
    example = "rnn:128"
    gates = 1

    nonlinearity: str


class Lstm(Recurrent):
    names = ("lstm",)
    example = "lstm:128"
    gates = 4


class Gru(Recurrent):
    names = ("gru",)
    example = "gru:128"
    gates = 3


# Shifted windows (Liu et al. 2021) --------------------------------------------------------------


def _image(x: Shape) -> tuple[int, int, int]:
    if len(x) != 3:
        raise DlkitError("it needs a map H×W×C; put channelslast before it")
    return x[0], x[1], x[2]


class WindowAttention(Layer):
    """Attention inside windows of a map H×W×C, with a learned bias for each relative position and head.

    The map is padded to whole windows after its end; padded positions are computed, and count. With shift=1 the
    windows begin half a window later and do not reach over the border; an axis of a single window is not shifted.
    """

    names = ("swinattn",)
    arguments = (_HEADS, Argument("window", Whole(), 7, "w"), Argument("shift", Flag(), False), _BIAS)
    bare = "heads"
    example = "swinattn:3"
    layout = LAST

    heads: int
    window: int
    shift: bool
    bias: bool

    def shape(self, x: Shape) -> Shape:
        if _image(x)[2] % self.heads:
            raise DlkitError(f"its input's width {x[2]} is not divisible by {self.heads} heads")
        return x

    def padded(self, x: Shape) -> int:
        """Positions of all windows."""
        return prod(-(-size // self.window) * self.window for size in x[:2])

    def offset(self, size: int) -> int:
        """By how much the windows of an axis are shifted."""
        return self.window // 2 if self.shift and size > self.window else 0

    def params(self, x: Shape) -> int:
        return 4 * x[2] * (x[2] + self.bias) + (2 * self.window - 1) ** 2 * self.heads

    def macs(self, x: Shape, y: Shape) -> int:
        return self.projection_macs(x) + self.product_macs(x)

    def projection_macs(self, x: Shape) -> int:
        """Queries, keys, values and the output projection."""
        return 4 * self.padded(x) * x[2] ** 2

    def product_macs(self, x: Shape) -> int:
        """Scores QKᵀ and the weighted values, all heads together."""
        return 2 * self.padded(x) * self.window**2 * x[2]

    def reads(self, x: Shape) -> Reads:
        return tuple(self._taps(self.offset(size)) for size in x[:2])

    def _taps(self, shift: int) -> Taps:
        window = self.window

        def at(r: int) -> range:
            first = (r - shift) // window * window + shift
            return range(first, first + window)

        return Taps(window, window, at)


class PatchMerge(Layer):
    """Each 2×2 of a map H×W×C side by side, layer norm, and a projection without bias: H/2×W/2×2C, rounded up."""

    names = ("patchmerge",)
    layout = LAST

    def shape(self, x: Shape) -> Shape:
        height, width, channels = _image(x)
        return -(-height // 2), -(-width // 2), 2 * channels

    def params(self, x: Shape) -> int:
        return 8 * x[2] ** 2 + 8 * x[2]

    def macs(self, x: Shape, y: Shape) -> int:
        return 4 * x[2] * prod(y)

    def reads(self, x: Shape) -> Reads:
        return (field.window(2, 2, 1, 0),) * 2


_CLASSES: tuple[type[Layer], ...] = (
    *(Embed, Positions, SinusoidalPositions, Segments, ClassToken),
    *(Tokens, ChannelsLast, ChannelsFirst, Select, Take, Drop),
    *(Attention, CrossAttention, Mlp, GatedMlp, Moe, LmHead),
    *(Rnn, Lstm, Gru, WindowAttention, PatchMerge, Columns),
)

CATALOGUE: Final[dict[str, type[Layer]]] = layers.CATALOGUE | {n: layer for layer in _CLASSES for n in layer.names}
"""Every layer of the network language, by each of its names."""
