"""The formula behind a row of `convshape`, with its numbers: how the output, the parameters and the MACs come about."""

from math import prod

from dlkit.core import explain_sequence, layers
from dlkit.core.graph import Step
from dlkit.core.layers import AXES, Conv, ConvTranspose, Linear, Pool, Window


def formula(step: Step) -> str:
    """One line: the output's size axis by axis, then parameters and MACs where the layer has them."""
    parts = [_output(step), _params(step), _macs(step)]
    return "; ".join(part for part in parts if part)


def _output(step: Step) -> str:
    layer, x, y = step.layer, step.inputs[0], step.output
    if isinstance(layer, Conv | Pool):
        ceil = isinstance(layer, Pool) and layer.ceil_mode
        return _by_axis([_window(w, size, ceil) for w, size in zip(layer.windows(x), y[1:], strict=True)])
    if isinstance(layer, ConvTranspose):
        return _by_axis(_transposed(layer, step))
    if isinstance(layer, layers.Flatten):
        return f"{'·'.join(map(str, x[layer.start_dim - 1 :]))} = {y[-1]}"
    if isinstance(layer, layers.Cat):
        return f"{' + '.join(str(shape[0]) for shape in step.inputs)} = {y[0]} channels"
    return "shape kept" if x == y else f"{layers.show(x)} → {layers.show(y)}"


def _by_axis(texts: list[str]) -> str:
    """One text where all axes agree, else each with the name of its axis."""
    if len(set(texts)) == 1:
        return texts[0]
    return ", ".join(f"{axis}: {text}" for axis, text in zip(AXES[len(texts)], texts, strict=True))


def _window(w: Window, size: int, ceil: bool) -> str:
    padded = f"{w.size} + 2·{w.before}" if w.before == w.after else f"{w.size} + {w.before} + {w.after}"
    room = f"({padded} − {w.dilation}·({w.kernel} − 1) − 1)/{w.stride}"
    if not ceil:
        return f"⌊{room}⌋ + 1 = {size}"
    past = -(-(w.size + w.before + w.after - w.extent) // w.stride) + 1 > size
    return (
        f"⌈{room}⌉ + 1{' − 1' if past else ''} = {size}{' (a last window past the input is left out)' if past else ''}"
    )


def _transposed(layer: ConvTranspose, step: Step) -> list[str]:
    rank = len(step.output) - 1
    rows = zip(
        step.inputs[0][1:],
        layer.axes(rank),
        layers.per_axis("output_padding", layer.output_padding, rank),
        step.output[1:],
        strict=True,
    )
    return [f"({i} − 1)·{s} − 2·{p} + {d}·({k} − 1) + {extra} + 1 = {o}" for i, (k, s, d, p), extra, o in rows]


def _params(step: Step) -> str:
    layer, x = step.layer, step.inputs[0]
    if not step.params:
        return ""
    if isinstance(layer, Conv):
        channels, _ = layer.channels(x)
        return f"params {channels}·({_kernel(step)}{' + 1' if layer.bias else ''}) = {step.params}"
    if isinstance(layer, ConvTranspose):
        bias = f" + {layer.out_channels}" if layer.bias else ""
        return f"params {x[0]}·{_kernel(step)}{bias} = {step.params}"
    if isinstance(layer, Linear):
        return f"params {layer.out_features}·({x[-1]}{' + 1' if layer.bias else ''}) = {step.params}"
    if isinstance(layer, layers.BatchNorm | layers.InstanceNorm | layers.GroupNorm):
        return f"params 2·{x[0]} = {step.params}"
    if isinstance(layer, layers.TrailingNorm):
        both = "2·" if isinstance(layer, layers.LayerNorm) and layer.bias else ""
        return f"params {both}{'·'.join(map(str, layer.normalized_shape(x)))} = {step.params}"
    return _named("params", explain_sequence.params(step), step.params)


def _kernel(step: Step) -> str:
    """The weights of one output channel of a convolution, of one input channel of a transposed one."""
    layer, x = step.layer, step.inputs[0]
    assert isinstance(layer, Conv | ConvTranspose)
    sizes = layers.per_axis("kernel size", layer.kernel_size, len(x) - 1)
    channels, groups = layer.channels(x) if isinstance(layer, Conv) else (layer.out_channels, layer.groups)
    share = x[0] // groups if isinstance(layer, Conv) else channels // groups
    return "·".join(map(str, (share, *sizes)))


def _macs(step: Step) -> str:
    if not step.macs:
        return ""
    return _named("MACs", macs(step), step.macs)


def macs(step: Step) -> str:
    """A step's multiply-accumulates as a product of numbers; empty where there is no formula."""
    layer, x, y = step.layer, step.inputs[0], step.output
    if isinstance(layer, Conv | ConvTranspose):
        return f"{_kernel(step)}·{'·'.join(map(str, y if isinstance(layer, Conv) else x))}"
    if isinstance(layer, Linear):
        return f"{x[-1]}·{prod(y)}"
    return explain_sequence.macs(step)


def _named(what: str, formula: str, value: int) -> str:
    return f"{what} {formula} = {value}" if formula else f"{what} {value}"
