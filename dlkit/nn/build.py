"""A graph made into a torch module: the same walk that counts a network also builds it."""

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from dlkit.core import layers
from dlkit.core.graph import SOURCE, Graph, Step, owners, walk
from dlkit.core.layers import Layer, Shape, Window


def build(graph: Graph, input: Shape) -> nn.Module:
    """The network that `graph` describes for one sample of shape `input`, with torch's own initial weights.

    Its state_dict keys are the node names (conv1.weight). DlkitError names the first layer that does not fit.
    """
    steps = walk(graph, input)
    modules = OrderedDict((step.name, module(step)) for step in steps)
    if owners(steps):
        from dlkit.nn.sequence import share

        share(steps, modules)
    chain = all(step.sources == (i - 1,) for i, step in enumerate(steps))
    if chain and graph.output == len(steps) - 1:
        return nn.Sequential(modules)
    return Net(modules, [step.sources for step in steps], graph.output)


def from_text(model: nn.Module) -> bool:
    """Whether a network is `build`'s, whose parts are called one after the other: none with a forward of its own."""
    return type(model) in (Net, nn.Sequential)


def module(step: Step) -> nn.Module:
    """The torch module of one layer, for the input that the walk brought it."""
    make = _MAKERS.get(type(step.layer)) or _sequence_maker(type(step.layer))
    return make(step.layer, step.inputs[0])


def _sequence_maker(kind: type[Layer]) -> Callable[..., nn.Module]:
    from dlkit.nn.sequence import MAKERS

    return MAKERS[kind]


class Net(nn.Module):
    """Modules run in topological order; a result is let go after its last use."""

    def __init__(self, modules: "OrderedDict[str, nn.Module]", sources: list[tuple[int, ...]], output: int) -> None:
        super().__init__()
        for name, child in modules.items():
            self.add_module(name, child)
        last = {source: i for i, row in enumerate(sources) for source in row}
        last[output] = len(sources)
        self._names = list(modules)
        self._plan = [(row, tuple(source for source in set(row) if last[source] == i)) for i, row in enumerate(sources)]
        self._output = output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(0, len(self._names), x)

    def run(self, start: int, end: int, x: torch.Tensor) -> torch.Tensor:
        """Steps `start` to `end`, the end left out, where `x` is the one value alive before them (`cuts`)."""
        values = {start - 1: x}  # before the first step that is SOURCE
        del x
        for i in range(start, end):
            sources, freed = self._plan[i]
            inputs = [values[source] for source in sources]
            for source in freed:
                del values[source]
            values[i] = self._modules[self._names[i]](*inputs)
            del inputs
        return values[self._output if end == len(self._names) else end - 1]

    def cuts(self) -> list[int]:
        """The steps, without the first, before which the output of the step before is the only value alive."""
        alive, found = {SOURCE}, []
        for i, (_, freed) in enumerate(self._plan):
            if i and alive == {i - 1}:
                found.append(i)
            alive = (alive - set(freed)) | {i}
        return found


class Sum(nn.Module):
    def forward(self, first: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        for other in rest:
            first = first + other
        return first


class Cat(nn.Module):
    def forward(self, *branches: torch.Tensor) -> torch.Tensor:
        return torch.cat(branches, 1)


class Mul(nn.Module):
    """The product; a vector multiplies the channels of a map."""

    def forward(self, *branches: torch.Tensor) -> torch.Tensor:
        rank = max(branch.dim() for branch in branches)
        product, *rest = (branch[(..., *[None] * (rank - branch.dim()))] for branch in branches)
        for other in rest:
            product = product * other
        return product


# Convolutions and pooling --------------------------------------------------------------------------

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_MAX_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVG_POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_ADAPTIVE_AVG = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
_ADAPTIVE_MAX = {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}
_BATCH_NORM = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE_NORM = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class _Uneven:
    """A convolution whose padding differs before and after, which torch's own arguments cannot say."""

    pads: list[int]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, self.pads))  # type: ignore[misc]


class UnevenConv1d(_Uneven, nn.Conv1d):
    pass


class UnevenConv2d(_Uneven, nn.Conv2d):
    pass


class UnevenConv3d(_Uneven, nn.Conv3d):
    pass


_UNEVEN_CONV = {1: UnevenConv1d, 2: UnevenConv2d, 3: UnevenConv3d}


class Padding(nn.Module):
    """Constant padding on the last dimensions; `pads` as F.pad takes them, the last axis first."""

    def __init__(self, pads: list[int], value: float) -> None:
        super().__init__()
        self.pads, self.value = pads, value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x, self.pads, value=self.value)


class InsideMean(nn.Module):
    """Average pooling that leaves out uneven padding: the padded mean over the share that is input."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(x) / self.pool(torch.ones_like(x[:1, :1]))


def _pads(windows: list[Window]) -> list[int]:
    return [side for w in reversed(windows) for side in (w.before, w.after)]


def _even(windows: list[Window]) -> bool:
    return all(w.before == w.after for w in windows)


def _axes(windows: list[Window], name: str) -> tuple[int, ...]:
    return tuple(getattr(w, name) for w in windows)


def _conv(layer: layers.Conv, x: Shape) -> nn.Module:
    windows = layer.windows(x)
    even, rank = _even(windows), len(windows)
    channels, groups = layer.channels(x)
    made = (_CONV if even else _UNEVEN_CONV)[rank](
        x[0],
        channels,
        _axes(windows, "kernel"),
        stride=_axes(windows, "stride"),
        padding=_axes(windows, "before") if even else 0,
        dilation=_axes(windows, "dilation"),
        groups=groups,
        bias=layer.bias,
    )
    if isinstance(made, _Uneven):
        made.pads = _pads(windows)
    return made


def _conv_transpose(layer: layers.ConvTranspose, x: Shape) -> nn.Module:
    rank = len(x) - 1
    names = ("stride", "padding", "output_padding", "dilation")
    axes = {name: layers.per_axis(name, getattr(layer, name), rank) for name in names}
    kernel = layers.per_axis("kernel size", layer.kernel_size, rank)
    return _CONV_TRANSPOSE[rank](x[0], layer.out_channels, kernel, groups=layer.groups, bias=layer.bias, **axes)


def _max_pool(layer: layers.MaxPool, x: Shape) -> nn.Module:
    windows = layer.windows(x)
    even = _even(windows)
    pool = _MAX_POOL[len(windows)](
        _axes(windows, "kernel"),
        _axes(windows, "stride"),
        padding=_axes(windows, "before") if even else 0,
        dilation=_axes(windows, "dilation"),
        ceil_mode=layer.ceil_mode,
    )
    return pool if even else nn.Sequential(Padding(_pads(windows), float("-inf")), pool)


def _avg_pool(layer: layers.AvgPool, x: Shape) -> nn.Module:
    windows = layer.windows(x)
    even = _even(windows)
    pool = _AVG_POOL[len(windows)](
        _axes(windows, "kernel"),
        _axes(windows, "stride"),
        padding=_axes(windows, "before") if even else 0,
        ceil_mode=layer.ceil_mode,
        count_include_pad=layer.count_include_pad,
    )
    if even:
        return pool
    padded = nn.Sequential(Padding(_pads(windows), 0.0), pool)
    return padded if layer.count_include_pad else InsideMean(padded)


def _adaptive(table: dict[int, type[nn.Module]]) -> Callable[[layers.AdaptivePool, Shape], nn.Module]:
    return lambda layer, x: table[len(x) - 1](layer.shape(x)[1:])


def _gap(layer: layers.GlobalAvgPool, x: Shape) -> nn.Module:
    return nn.Sequential(_ADAPTIVE_AVG[len(x) - 1](1), nn.Flatten())


def _upsample(layer: layers.Upsample, x: Shape) -> nn.Module:
    rank = len(x) - 1
    corners = None if layer.mode.startswith("nearest") else layer.align_corners
    if layer.size is not None:
        size = layers.per_axis("size", layer.size, rank)
        return nn.Upsample(size=size, mode=layer.mode, align_corners=corners)
    factors = tuple(float(f) for f in layers.per_axis("scale factor", layer.scale_factor or (1,), rank))
    return nn.Upsample(scale_factor=factors, mode=layer.mode, align_corners=corners)


# The rest ------------------------------------------------------------------------------------------


def _batch_norm(layer: layers.BatchNorm | layers.InstanceNorm, x: Shape) -> nn.Module:
    table = _INSTANCE_NORM if isinstance(layer, layers.InstanceNorm) else _BATCH_NORM
    return table[len(x) - 1](x[0], eps=layer.eps, momentum=layer.momentum, affine=layer.affine)


def _group_norm(layer: layers.GroupNorm, x: Shape) -> nn.Module:
    return nn.GroupNorm(layer.num_groups, x[0], eps=layer.eps, affine=layer.affine)


def _layer_norm(layer: layers.LayerNorm, x: Shape) -> nn.Module:
    return nn.LayerNorm(layer.normalized_shape(x), layer.eps, layer.elementwise_affine, layer.bias)


def _rms_norm(layer: layers.RMSNorm, x: Shape) -> nn.Module:
    return nn.RMSNorm(layer.normalized_shape(x), layer.eps, layer.elementwise_affine)


def _named(torch_class: type[nn.Module]) -> Callable[[Layer, Shape], nn.Module]:
    """A layer whose arguments are torch's, name by name, whatever its input."""
    return lambda layer, x: torch_class(**{a.name: getattr(layer, a.name) for a in layer.arguments})


_MAKERS: dict[type[Layer], Callable[..., nn.Module]] = {
    layers.Conv: _conv,
    layers.DepthwiseConv: _conv,
    layers.Yolo: _conv,
    layers.ConvTranspose: _conv_transpose,
    layers.MaxPool: _max_pool,
    layers.AvgPool: _avg_pool,
    layers.AdaptiveAvgPool: _adaptive(_ADAPTIVE_AVG),
    layers.AdaptiveMaxPool: _adaptive(_ADAPTIVE_MAX),
    layers.GlobalAvgPool: _gap,
    layers.Upsample: _upsample,
    layers.Linear: lambda layer, x: nn.Linear(x[-1], layer.out_features, layer.bias),
    layers.BatchNorm: _batch_norm,
    layers.InstanceNorm: _batch_norm,
    layers.GroupNorm: _group_norm,
    layers.LayerNorm: _layer_norm,
    layers.RMSNorm: _rms_norm,
    layers.Sum: lambda layer, x: Sum(),
    layers.Cat: lambda layer, x: Cat(),
    layers.Mul: lambda layer, x: Mul(),
    **{
        getattr(layers, torch_class.__name__): _named(torch_class)
        for torch_class in (
            *(nn.Flatten, nn.Identity, nn.Dropout, nn.Sigmoid, nn.Tanh, nn.ReLU, nn.ReLU6, nn.LogSigmoid),
            *(nn.SELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.LeakyReLU, nn.ELU, nn.Softplus),
            *(nn.GELU, nn.PReLU, nn.Softmax, nn.Softmin, nn.LogSoftmax),
        )
    },
}
