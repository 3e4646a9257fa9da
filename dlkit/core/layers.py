"""The layer catalogue: each layer's arguments, shape rule, parameters, MACs and reach, in one class.

Names, defaults and rules are torch's (2.13). A shape leaves out the batch: C×L, C×H×W, C×D×H×W, or
(features,). MACs are multiply-accumulates for one sample, counted as FlopCounterMode/2 counts them:
convolutions and linear layers only; bias, normalisation, pooling, activations and resizing are 0.
"""

from math import prod
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

from dlkit.core import field
from dlkit.core.arguments import REQUIRED, Argument, Choice, Flag, Padding, Pairs, Real, Sizes, Whole
from dlkit.core.errors import DlkitError
from dlkit.core.field import POINTWISE, WHOLE, Reads, Taps

Shape = tuple[int, ...]
T = TypeVar("T")

FIRST: Final = "channels first"  # C×L, C×H×W, C×D×H×W: positions lie after the channels
LAST: Final = "channels last"  # T×D, H×W×C: positions lie before them
AXES: Final = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}


def show(shape: Shape) -> str:
    """A shape as it is written in the network language: 3x224x224."""
    return "x".join(map(str, shape))


class Layer:
    """One layer. Its arguments are attributes; its canonical text parses back to an equal layer.

    Layers are not changed once made, and one object may stand at several places of a graph.
    """

    names: ClassVar[tuple[str, ...]] = ()  # the canonical one first
    arguments: ClassVar[tuple[Argument, ...]] = ()
    bare: ClassVar[str] = ""  # the arguments that bare numbers set, one after the other
    example: ClassVar[str] = ""
    layout: ClassVar[str] = ""  # FIRST or LAST, for a layer that tells channels from positions
    mixes: ClassVar[bool] = False  # every channel reads every other

    def __init__(self, **values: Any) -> None:
        for argument in self.arguments:
            value = values.pop(argument.name, argument.default)
            if value is REQUIRED:
                raise DlkitError(f"{self.names[0]} needs its {argument.what}, e.g. {self.example}")
            setattr(self, argument.name, argument.check(value))
        if values:
            raise DlkitError(f"{self.names[0]} has no argument {min(values)!r}; {self.takes()}")
        self.check()

    def check(self) -> None:
        """Refuse arguments that contradict each other."""

    @classmethod
    def takes(cls) -> str:
        """A phrase that lists the arguments."""
        return f"it takes {', '.join(a.label for a in cls.arguments) or 'no arguments'}"

    @property
    def op(self) -> str:
        return self.names[0]

    def output(self, *inputs: Shape) -> Shape:
        """The output's shape; DlkitError says why an input does not fit."""
        (x,) = inputs
        return self.shape(x)

    def shape(self, x: Shape) -> Shape:
        """The output's shape for the one input of a layer that is not a join."""
        return x

    def params(self, x: Shape) -> int:
        """Learned parameters; buffers such as running statistics are not counted."""
        return 0

    def active_params(self, x: Shape) -> int:
        """Parameters that one position uses: fewer than all in a mixture of experts."""
        return self.params(x)

    def offers(self, x: Shape) -> str:
        """What a later layer may share of this one, in the network language; empty for nothing."""
        return ""

    def shares(self, x: Shape) -> str:
        """What this layer shares of the nearest one before it that offers it; empty unless tied."""
        return ""

    def macs(self, x: Shape, y: Shape) -> int:
        """Multiply-accumulates for one sample with input `x` and output `y`."""
        return 0

    def reads(self, x: Shape) -> Reads:
        """What an output position reads of its input: Taps for each axis, POINTWISE or WHOLE."""
        return POINTWISE

    def minds(self, x: Shape) -> str:
        """Where this layer takes its input's positions to lie: FIRST, LAST, or empty where it does not mind."""
        return self.layout if len(x) > 1 else ""

    def crossed(self, x: Shape) -> Reads | None:
        """What an output reads where positions lie on an axis that this layer takes for channels; None: not known."""
        if self.mixes:
            return WHOLE if len(x) == 2 else (*(field.HERE,) * (len(x) - 2), field.all_of(x[-1]))
        return POINTWISE if self.reads(x) == POINTWISE else None

    def __str__(self) -> str:
        parts: list[str] = []
        numbers = self.bare.split()
        for argument in sorted(self.arguments, key=lambda a: a.name not in numbers):
            value = getattr(self, argument.name)
            default = argument.default
            if default is REQUIRED or value != (default if default is None else argument.check(default)):
                bare = numbers[len(parts) : len(parts) + 1] == [argument.name]
                parts.append(argument.write(value, bare))
        return f"{self.op}:{','.join(parts)}" if parts else self.op

    def __repr__(self) -> str:
        return f"<{self}>"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(str(self))


# Spatial geometry -------------------------------------------------------------------------------


class Window(NamedTuple):
    """A sliding window on one axis: the input's size, the window, and the padding on either side."""

    axis: str
    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def extent(self) -> int:
        """Input positions from the first to the last tap."""
        return self.dilation * (self.kernel - 1) + 1

    def steps(self, ceil_mode: bool = False) -> int:
        """The output's size. With ceil_mode a partial last window counts unless it starts past the input."""
        room = self.size + self.before + self.after - self.extent
        if not ceil_mode:
            steps = room // self.stride + 1
        else:
            steps = -(-room // self.stride) + 1
            if (steps - 1) * self.stride >= self.size + self.before:
                steps -= 1
        if steps < 1:
            dilated = f" (spanning {self.extent})" if self.dilation > 1 else ""
            padded = f"the padded input {room + self.extent} on axis {self.axis}"
            raise DlkitError(f"kernel {self.kernel}{dilated} is larger than {padded}")
        return steps

    def taps(self) -> Taps:
        return field.window(self.kernel, self.stride, self.dilation, self.before)


def spatial(x: Shape) -> Shape:
    """The spatial part of a map; DlkitError where `x` is not one."""
    if not 2 <= len(x) <= 4:
        raise DlkitError("it needs a map: C×L, C×H×W or C×D×H×W")
    return x[1:]


def per_axis(name: str, value: tuple[T, ...], rank: int) -> tuple[T, ...]:
    """One value for each axis."""
    if len(value) == 1:
        return value * rank
    if len(value) != rank:
        raise DlkitError(f"its {name} is given for {len(value)} axes, and the input has {rank}")
    return value


def pad_sides(padding: str | Pairs, size: int, extent: int, stride: int) -> tuple[int, int]:
    """Padding before and after an axis for "same" (torch: stride 1 only) and "same-tf" (TensorFlow's SAME).

    The odd one goes after. TensorFlow's amount depends on the input's size: ceil(size/stride) is kept.
    """
    if padding == "same":
        if stride > 1:
            raise DlkitError("padding same needs stride 1; same-tf allows more, as does a padding in numbers")
        total = extent - 1
    else:
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2


class Windowed(Layer):
    """A layer that slides a window over each axis of a map."""

    layout = FIRST
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...] | None
    padding: str | Pairs
    dilation: tuple[int, ...] = (1,)

    def windows(self, x: Shape) -> list[Window]:
        sizes = spatial(x)
        rank = len(sizes)
        kernel = per_axis("kernel size", self.kernel_size, rank)
        stride = per_axis("stride", self.stride or self.kernel_size, rank)
        dilation = per_axis("dilation", self.dilation, rank)
        if isinstance(self.padding, str):
            pads: Any = [
                pad_sides(self.padding, i, d * (k - 1) + 1, s)
                for i, k, s, d in zip(sizes, kernel, stride, dilation, strict=True)
            ]
        else:
            pads = per_axis("padding", self.padding, rank)
        return [
            Window(*values, *pad)
            for *values, pad in zip(AXES[rank], sizes, kernel, stride, dilation, pads, strict=True)
        ]

    def reads(self, x: Shape) -> Reads:
        return tuple(w.taps() for w in self.windows(x))


def divides(groups: int, channels: int, what: str) -> None:
    if channels % groups:
        raise DlkitError(f"{what} {channels} is not divisible by {groups} groups")


# Convolutions -----------------------------------------------------------------------------------

_KERNEL = Argument("kernel_size", Sizes(), short="k")
_STRIDE = Argument("stride", Sizes(), (1,), "s")
_DILATION = Argument("dilation", Sizes(), (1,), "d")
_GROUPS = Argument("groups", Whole(), 1, "g")
_BIAS = Argument("bias", Flag(), True)
_CHANNELS = Argument("out_channels", Whole(), what="number of output channels")
_SAME = Argument("padding", Padding("same", "same-tf"), ((0, 0),), "p")


class Conv(Windowed):
    """Convolution: floor((i + before + after − d(k−1) − 1)/s) + 1 on each axis."""

    names: ClassVar[tuple[str, ...]] = ("conv",)
    arguments: ClassVar[tuple[Argument, ...]] = (
        _CHANNELS,
        _KERNEL,
        _STRIDE,
        _SAME,
        _DILATION,
        _GROUPS,
        _BIAS,
    )
    bare = "out_channels"
    example = "conv:64,k3"

    out_channels: int
    groups: int
    bias: bool

    def crossed(self, x: Shape) -> Reads | None:
        return WHOLE if len(x) == 2 and self.channels(x)[1] == 1 else None

    def channels(self, x: Shape) -> tuple[int, int]:
        """Output channels and groups."""
        divides(self.groups, x[0], "its input's channel count")
        divides(self.groups, self.out_channels, "its output's channel count")
        return self.out_channels, self.groups

    def shape(self, x: Shape) -> Shape:
        steps = tuple(w.steps() for w in self.windows(x))
        return (self.channels(x)[0], *steps)

    def _weights(self, x: Shape) -> int:
        """Weights of one output channel."""
        _, groups = self.channels(x)
        return x[0] // groups * prod(per_axis("kernel size", self.kernel_size, len(x) - 1))

    def params(self, x: Shape) -> int:
        return self.channels(x)[0] * (self._weights(x) + self.bias)

    def macs(self, x: Shape, y: Shape) -> int:
        return self._weights(x) * prod(y)


class DepthwiseConv(Conv):
    """Depthwise convolution: each channel has its own `multiplier` kernels (groups = channels)."""

    names = ("dwconv", "depthwise")
    arguments = (_KERNEL, _STRIDE, _SAME, _DILATION, Argument("multiplier", Whole(), 1, "m"), _BIAS)
    bare = ""
    example = "dwconv:k3,p1"

    multiplier: int

    def channels(self, x: Shape) -> tuple[int, int]:
        return x[0] * self.multiplier, x[0]


class Yolo(Conv):
    """A YOLO head: a 1×1 convolution to anchors·(4 + classes + 1) channels, a box, its classes and objectness."""

    names = ("yolo",)
    arguments = (Argument("anchors", Whole()), Argument("classes", Whole()), _BIAS)
    bare = "anchors classes"
    example = "yolo:3,80"
    kernel_size, stride, padding = (1,), (1,), ((0, 0),)

    anchors: int
    classes: int

    def channels(self, x: Shape) -> tuple[int, int]:
        return self.anchors * (4 + self.classes + 1), 1


def transposed_size(size: int, kernel: int, stride: int, dilation: int, padding: int, extra: int) -> int:
    """The output of a transposed convolution on one axis; less than 1 where the padding takes it all away."""
    return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1


class ConvTranspose(Layer):
    """Transposed convolution: (i − 1)s − 2p + d(k−1) + output_padding + 1 on each axis."""

    layout = FIRST

    names = ("convt", "convtranspose")
    arguments = (
        _CHANNELS,
        _KERNEL,
        _STRIDE,
        Argument("padding", Sizes(0), (0,), "p"),
        Argument("output_padding", Sizes(0), (0,), "op"),
        _GROUPS,
        _BIAS,
        _DILATION,
    )
    bare = "out_channels"
    example = "convt:64,k4,s2,p1"

    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    bias: bool

    def crossed(self, x: Shape) -> Reads | None:
        return WHOLE if len(x) == 2 and self.groups == 1 else None

    def shape(self, x: Shape) -> Shape:
        sizes = spatial(x)
        divides(self.groups, x[0], "its input's channel count")
        divides(self.groups, self.out_channels, "its output's channel count")
        extras = per_axis("output_padding", self.output_padding, len(sizes))
        rows = zip(AXES[len(sizes)], sizes, self.axes(len(sizes)), extras, strict=True)
        return (self.out_channels, *(self._size(*row) for row in rows))

    def _size(self, axis: str, size: int, tap: tuple[int, int, int, int], extra: int) -> int:
        k, s, d, p = tap
        if extra >= max(s, d):
            raise DlkitError(f"output_padding {extra} must be smaller than the stride {s} or the dilation {d}")
        out = transposed_size(size, k, s, d, p, extra)
        if out < 1:
            raise DlkitError(f"padding {p} leaves an output of {out} on axis {axis}")
        return out

    def axes(self, rank: int) -> list[tuple[int, int, int, int]]:
        """Kernel, stride, dilation and padding of each axis."""
        named = {
            "kernel size": self.kernel_size,
            "stride": self.stride,
            "dilation": self.dilation,
            "padding": self.padding,
        }
        return list(zip(*(per_axis(name, value, rank) for name, value in named.items()), strict=True))

    def _weights(self, x: Shape) -> int:
        """Weights of one input channel."""
        return self.out_channels // self.groups * prod(per_axis("kernel size", self.kernel_size, len(x) - 1))

    def params(self, x: Shape) -> int:
        return x[0] * self._weights(x) + self.out_channels * self.bias

    def macs(self, x: Shape, y: Shape) -> int:
        return self._weights(x) * prod(x)

    def reads(self, x: Shape) -> Reads:
        return tuple(field.transposed(*axis) for axis in self.axes(len(x) - 1))


# Pooling and resizing ---------------------------------------------------------------------------

_POOL_STRIDE = Argument("stride", Sizes(), None, "s")
_POOL_PADDING = Argument("padding", Padding("same-tf"), ((0, 0),), "p")
_CEIL = Argument("ceil_mode", Flag(), False)


class Pool(Windowed):
    """Pooling, channel by channel. The stride is the kernel size unless given."""

    bare = "kernel_size"
    ceil_mode: bool

    def shape(self, x: Shape) -> Shape:
        windows = self.windows(x)
        for w in windows:
            padding = max(w.before, w.after)
            if 2 * padding > w.kernel:  # torch's rule, whatever the dilation
                raise DlkitError(f"padding {padding} is more than half the kernel's {w.kernel} on axis {w.axis}")
            if self.ceil_mode and w.before != w.after:
                raise DlkitError("ceil_mode needs equal padding before and after")
        return (x[0], *(w.steps(self.ceil_mode) for w in windows))


class MaxPool(Pool):
    names = ("maxpool",)
    arguments = (_KERNEL, _POOL_STRIDE, _POOL_PADDING, _DILATION, _CEIL)
    example = "maxpool:k2"


class AvgPool(Pool):
    names = ("avgpool",)
    arguments = (_KERNEL, _POOL_STRIDE, _POOL_PADDING, _CEIL, Argument("count_include_pad", Flag(), True))
    example = "avgpool:k2"

    count_include_pad: bool

    def shape(self, x: Shape) -> Shape:
        y = super().shape(x)
        windows = self.windows(x)
        even = all(w.before == w.after for w in windows)
        small = next((w for w in windows if w.kernel > w.size), None)
        if len(windows) == 3 and even and small:  # avg_pool3d alone refuses what padding would make fit
            raise DlkitError(f"kernel {small.kernel} is larger than the input {small.size} on axis {small.axis}")
        return y


class AdaptivePool(Layer):
    """Pooling to a given size: output o covers floor(o·i/n) up to ceil((o+1)·i/n) of the input."""

    layout = FIRST

    arguments = (Argument("output_size", Sizes()),)
    bare = "output_size"

    output_size: tuple[int, ...]

    def shape(self, x: Shape) -> Shape:
        return (x[0], *per_axis("output size", self.output_size, len(spatial(x))))

    def reads(self, x: Shape) -> Reads:
        y = self.shape(x)
        if y == x:
            return POINTWISE
        if prod(y[1:]) == 1:
            return WHOLE
        return tuple(self._taps(size, new) for size, new in zip(x[1:], y[1:], strict=True))

    @staticmethod
    def _taps(size: int, new: int) -> Taps:
        return field.resized(size, new, lambda o: range(o * size // new, -(-(o + 1) * size // new)))


class AdaptiveAvgPool(AdaptivePool):
    names = ("adaptiveavgpool", "aap")
    example = "adaptiveavgpool:7x7"


class AdaptiveMaxPool(AdaptivePool):
    names = ("adaptivemaxpool", "amp")
    example = "adaptivemaxpool:7x7"


class GlobalAvgPool(Layer):
    """The mean of each channel: a map becomes a vector."""

    names = ("gap",)
    layout = FIRST

    def shape(self, x: Shape) -> Shape:
        spatial(x)
        return x[:1]

    def reads(self, x: Shape) -> Reads:
        return WHOLE


_LINEAR_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Upsample(Layer):
    """Resizing by a whole factor, or to a size."""

    names = ("upsample",)
    layout = FIRST
    arguments = (
        Argument("scale_factor", Sizes(), None, "k"),
        Argument("size", Sizes(), None),
        Argument(
            "mode",
            Choice("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear"),
            "nearest",
        ),
        Argument("align_corners", Flag(), False),
    )
    bare = "scale_factor"
    example = "upsample:k2"

    scale_factor: tuple[int, ...] | None
    size: tuple[int, ...] | None
    mode: str
    align_corners: bool

    def check(self) -> None:
        if (self.scale_factor is None) == (self.size is None):
            raise DlkitError("upsample needs its scale factor or its size, one of them, e.g. upsample:k2")
        if self.align_corners and self.mode.startswith("nearest"):
            raise DlkitError(f"upsample has no align_corners in mode {self.mode}")

    def shape(self, x: Shape) -> Shape:
        sizes = spatial(x)
        rank = len(sizes)
        near = self.mode.startswith("nearest")
        if not near and self.mode not in (_LINEAR_MODES[rank], "bicubic" if rank == 2 else ""):
            raise DlkitError(f"its mode {self.mode} does not fit {rank} axes; use nearest or {_LINEAR_MODES[rank]}")
        if self.size is not None:
            return (x[0], *per_axis("size", self.size, rank))
        factors = per_axis("scale factor", self.scale_factor or (1,), rank)
        return (x[0], *(i * factor for i, factor in zip(sizes, factors, strict=True)))

    def reads(self, x: Shape) -> Reads:
        y = self.shape(x)
        if x == y:
            return POINTWISE
        return tuple(self._taps(size, new) for size, new in zip(x[1:], y[1:], strict=True))

    def _taps(self, size: int, new: int) -> Taps:
        if self.mode == "nearest":
            return field.resized(size, new, lambda o: range(o * size // new, o * size // new + 1))
        if self.mode == "nearest-exact":
            return field.resized(
                size,
                new,
                lambda o: range((2 * o + 1) * size // (2 * new), (2 * o + 1) * size // (2 * new) + 1),
            )
        if self.align_corners and new > 1:
            return field.resized(size - 1, new - 1, lambda o: self._around(o * (size - 1), new - 1))
        if self.align_corners:
            return field.resized(size, new, lambda o: range(1))
        return field.resized(size, new, lambda o: self._around((2 * o + 1) * size - new, 2 * new))

    def _around(self, numerator: int, denominator: int) -> range:
        """The input positions with a weight at the exact source position numerator/denominator."""
        low, between = divmod(numerator, denominator)
        if not between:
            return range(low, low + 1)
        return range(low - 1, low + 3) if self.mode == "bicubic" else range(low, low + 2)


# Linear and shape -------------------------------------------------------------------------------


class Linear(Layer):
    """A fully connected layer on a vector, or on the last axis of a sequence T×features."""

    names = ("linear", "fc")
    arguments = (Argument("out_features", Whole(), what="number of output features"), _BIAS)
    bare = "out_features"
    layout, mixes = LAST, True
    example = "linear:10"

    out_features: int
    bias: bool

    def shape(self, x: Shape) -> Shape:
        if len(x) > 2:
            raise DlkitError("it needs a vector; put flatten or gap before it")
        return (*x[:-1], self.out_features)

    def params(self, x: Shape) -> int:
        return self.out_features * (x[-1] + self.bias)

    def macs(self, x: Shape, y: Shape) -> int:
        return x[-1] * prod(y)

    def reads(self, x: Shape) -> Reads:
        return WHOLE if len(x) == 1 else POINTWISE


class Flatten(Layer):
    """A map becomes a vector; dimensions before start_dim are kept (the batch is 0, as in torch)."""

    names = ("flatten",)
    arguments = (Argument("start_dim", Whole(1, 4), 1),)
    bare = "start_dim"

    start_dim: int

    def shape(self, x: Shape) -> Shape:
        if self.start_dim > len(x):
            raise DlkitError(f"its start_dim {self.start_dim} is beyond the input's {len(x)} dimensions")
        kept = self.start_dim - 1
        return (*x[:kept], prod(x[kept:]))

    def reads(self, x: Shape) -> Reads:
        return POINTWISE if self.start_dim == len(x) else WHOLE


class Identity(Layer):
    names = ("identity",)


class Dropout(Layer):
    names = ("dropout",)
    arguments = (Argument("p", Real(0, 1), 0.5),)
    bare = "p"

    p: float


# Normalisation (statistics are taken as given: none of these widens the receptive field) --------

_AFFINE = Argument("affine", Flag(), True)
_MOMENTUM = Argument("momentum", Real(0, 1), 0.1)
_EPS = Argument("eps", Real(0), 1e-5)
_DIMS = Argument("dims", Whole(1, 4), None)
_ELEMENTWISE = Argument("elementwise_affine", Flag(), True)


class BatchNorm(Layer):
    """(x − μ)/√(σ² + ε), a scale and a shift for each channel; the running statistics are buffers."""

    names = ("bn", "batchnorm")
    layout = FIRST
    arguments = (_EPS, _MOMENTUM, _AFFINE)

    eps: float
    momentum: float
    affine: bool

    def shape(self, x: Shape) -> Shape:
        if len(x) > 4:
            raise DlkitError("it needs a vector, C×L, C×H×W or C×D×H×W")
        return x

    def params(self, x: Shape) -> int:
        return 2 * x[0] * self.affine


class InstanceNorm(Layer):
    """Each channel of each sample by its own statistics; without scale and shift unless affine=1."""

    names = ("in", "instancenorm")
    layout = FIRST
    arguments = (_EPS, _MOMENTUM, Argument("affine", Flag(), False))

    eps: float
    momentum: float
    affine: bool

    def shape(self, x: Shape) -> Shape:
        if prod(spatial(x)) == 1:
            raise DlkitError("it needs more than one position for each channel")
        return x

    def params(self, x: Shape) -> int:
        return 2 * x[0] * self.affine


class GroupNorm(Layer):
    """Groups of channels of each sample by their own statistics."""

    names = ("gn", "groupnorm")
    layout = FIRST
    arguments = (Argument("num_groups", Whole(), what="number of groups"), _EPS, _AFFINE)
    bare = "num_groups"
    example = "gn:32"

    num_groups: int
    eps: float
    affine: bool

    def shape(self, x: Shape) -> Shape:
        divides(self.num_groups, x[0], "its input's channel count")
        return x

    def params(self, x: Shape) -> int:
        return 2 * x[0] * self.affine


class TrailingNorm(Layer):
    """Over the last `dims` dimensions: unless given, one of a vector or sequence, all of a map."""

    bare = "dims"

    dims: int | None
    eps: float
    elementwise_affine: bool

    def normalized_shape(self, x: Shape) -> Shape:
        dims = self.dims or (1 if len(x) <= 2 else len(x))
        if dims > len(x):
            raise DlkitError(f"it normalises {dims} dimensions, and the input has {len(x)}")
        return x[-dims:]

    def shape(self, x: Shape) -> Shape:
        self.normalized_shape(x)
        return x

    def params(self, x: Shape) -> int:
        return prod(self.normalized_shape(x)) * self.elementwise_affine


class LayerNorm(TrailingNorm):
    names = ("ln", "layernorm")
    arguments = (_DIMS, _EPS, _ELEMENTWISE, _BIAS)

    bias: bool

    def params(self, x: Shape) -> int:
        return super().params(x) * (1 + self.bias)


class RMSNorm(TrailingNorm):
    """x/√(mean(x²) + ε) with a scale; ε is the type's machine epsilon unless given, as in torch."""

    names = ("rms", "rmsnorm")
    arguments = (_DIMS, Argument("eps", Real(0), None), _ELEMENTWISE)


# Activations ------------------------------------------------------------------------------------


class Sigmoid(Layer):
    names = ("sigmoid",)


class Tanh(Layer):
    names = ("tanh",)


class ReLU(Layer):
    names = ("relu",)


class ReLU6(Layer):
    names = ("relu6",)


class LogSigmoid(Layer):
    names = ("logsigmoid",)


class SELU(Layer):
    names = ("selu",)


class SiLU(Layer):
    names = ("silu", "swish")


class Mish(Layer):
    names = ("mish",)


class Hardswish(Layer):
    names = ("hardswish",)


class Hardsigmoid(Layer):
    names = ("hardsigmoid",)


class LeakyReLU(Layer):
    names = ("lrelu", "leakyrelu")
    arguments = (Argument("negative_slope", Real(), 0.01),)
    bare = "negative_slope"

    negative_slope: float


class ELU(Layer):
    names = ("elu",)
    arguments = (Argument("alpha", Real(), 1.0),)
    bare = "alpha"

    alpha: float


class Softplus(Layer):
    names = ("softplus",)
    arguments = (Argument("beta", Real(), 1.0), Argument("threshold", Real(), 20.0))
    bare = "beta"

    beta: float
    threshold: float


class GELU(Layer):
    names = ("gelu",)
    arguments = (Argument("approximate", Choice("none", "tanh"), "none"),)

    approximate: str


class PReLU(Layer):
    """ReLU with a learned slope: one, or one for each channel."""

    names = ("prelu",)
    arguments = (Argument("num_parameters", Whole(), 1), Argument("init", Real(), 0.25))
    bare = "num_parameters"

    num_parameters: int
    init: float

    def shape(self, x: Shape) -> Shape:
        if self.num_parameters not in (1, x[0]):
            raise DlkitError(f"its num_parameters must be 1 or the {x[0]} channels, not {self.num_parameters}")
        return x

    def params(self, x: Shape) -> int:
        return self.num_parameters


class Softmax(Layer):
    """Over one dimension: the channels or features unless given (the batch is dimension 0, as in torch)."""

    names = ("softmax",)
    arguments = (Argument("dim", Whole(-4, 4), 1),)
    bare = "dim"
    layout = FIRST

    dim: int

    def shape(self, x: Shape) -> Shape:
        if not 1 <= abs(self.dim) <= len(x):
            raise DlkitError(f"its dim {self.dim} is not one of the input's dimensions 1 to {len(x)}")
        return x

    def minds(self, x: Shape) -> str:
        return ""

    def reads(self, x: Shape) -> Reads:
        return self._along(x, 1, x[1:])

    def crossed(self, x: Shape) -> Reads | None:
        return self._along(x, len(x), x[:-1])

    def _along(self, x: Shape, channels: int, positions: Shape) -> Reads:
        """Every position of one axis, or of none where the channels are dimension `channels`."""
        dim = self.dim if self.dim > 0 else len(x) + 1 + self.dim
        if dim == channels or len(x) == 1:
            return POINTWISE if len(x) > 1 else WHOLE
        axis = dim - 1 - (channels == 1)
        return tuple(field.all_of(n) if i == axis else field.HERE for i, n in enumerate(positions))


class Softmin(Softmax):
    names = ("softmin",)


class LogSoftmax(Softmax):
    names = ("logsoftmax",)


# Joins ------------------------------------------------------------------------------------------


class Join(Layer):
    """Branches that start at one place and end here."""


class Sum(Join):
    """The sum of the branches, which have equal shapes."""

    names = ("sum",)
    example = "sum(conv:64,k3,p1 bn | )"

    def output(self, *inputs: Shape) -> Shape:
        if len(set(inputs)) > 1:
            raise DlkitError("branches that are added must have equal shapes")
        return inputs[0]


class Cat(Join):
    """The branches one after the other along the channels; their spatial shapes are equal."""

    names = ("cat",)
    example = "cat(conv:64,k1 | conv:64,k3,p1)"

    def output(self, *inputs: Shape) -> Shape:
        if len({x[1:] for x in inputs}) > 1:
            raise DlkitError("branches that are concatenated may differ in channels only")
        return (sum(x[0] for x in inputs), *inputs[0][1:])


class Mul(Join):
    """The product of the branches. A gate may be smaller: 1 along an axis, or a vector with one value a channel."""

    names = ("mul",)
    example = "mul(gap linear:64 sigmoid | )"

    def output(self, *inputs: Shape) -> Shape:
        y = max(inputs, key=lambda x: (len(x), x))
        for x in inputs:
            if len(x) not in (1, len(y)) or any(a not in (1, b) for a, b in zip(x, y, strict=False)):
                raise DlkitError(f"a gate must be {show(y)}, 1 where it is smaller, or a vector of {y[0]}")
        return y


_CLASSES: tuple[type[Layer], ...] = (
    *(Conv, DepthwiseConv, Yolo, ConvTranspose),
    *(MaxPool, AvgPool, AdaptiveAvgPool, AdaptiveMaxPool, GlobalAvgPool, Upsample),
    *(Linear, Flatten, Identity, Dropout),
    *(BatchNorm, InstanceNorm, GroupNorm, LayerNorm, RMSNorm),
    *(Sigmoid, Tanh, ReLU, ReLU6, LogSigmoid, SELU, SiLU, Mish, Hardswish, Hardsigmoid),
    *(LeakyReLU, ELU, Softplus, GELU, PReLU, Softmax, Softmin, LogSoftmax),
    *(Sum, Cat, Mul),
)

CATALOGUE: Final[dict[str, type[Layer]]] = {name: layer for layer in _CLASSES for name in layer.names}
