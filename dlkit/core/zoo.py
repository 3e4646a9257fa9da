"""Named networks: what there is, and the text that each name stands for.

Texts are made when asked for. Where no other source is named they are torchvision's definitions (ResNets
with the stride in the 3×3), so that parameters and MACs are its published ones; auxiliary heads are left out.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from dlkit.core import zoo_conv as conv
from dlkit.core.errors import DlkitError, nearest
from dlkit.core.layers import Shape, show

if TYPE_CHECKING:
    from dlkit.core.zoo_sequence import Net


class Info(NamedTuple):
    """A named network: its input, what it is, the options it takes with their defaults, and who writes it."""

    name: str
    input: Shape
    summary: str
    options: dict[str, int]
    write: Callable[..., list[str]]  # number of outputs (transformers: their options) -> lines of text


WIDTH = 120
_IMAGENET = {"classes": 1000, "channels": 3}


def _imagenet(name: str, summary: str, write: Callable[[int], list[str]], size: int = 224) -> Info:
    return Info(name, (3, size, size), summary, _IMAGENET, write)


_DIGITS = {"classes": 10, "channels": 1}
_VGG, _RESNET = "VGG-{}, Simonyan and Zisserman 2014", "ResNet-{}, He et al. 2015"
_V1 = "ResNet-{} with the stride in the 1×1 and TensorFlow's pooling, He et al. 2015"
_DENSENET, _SQUEEZENET = "DenseNet-{}, Huang et al. 2016", "SqueezeNet {}, Iandola et al. 2016"
_RESNEXT, _WIDE = "ResNeXt-50 32×4d, Xie et al. 2016", "Wide ResNet-50-2, Zagoruyko and Komodakis 2016"
_V2, _V3 = "Inception v2 (BN-Inception) of TensorFlow-slim", "Inception v3, Szegedy et al. 2015"
_MOBILE1, _MOBILE2 = "MobileNet v1 of TensorFlow-slim, Howard et al. 2017", "MobileNet v2, Sandler et al. 2018"

_INFOS = {
    info.name: info
    for info in (
        Info("lenet", (1, 28, 28), "LeNet-5 with full connections, LeCun et al. 1998", _DIGITS, conv.lenet),
        _imagenet("alexnet", "AlexNet on one GPU, Krizhevsky 2014", conv.alexnet),
        *(_imagenet(f"vgg{n}", _VGG.format(n), partial(conv.vgg, n, "")) for n in conv.VGGS),
        *(_imagenet(f"vgg{n}_bn", f"VGG-{n} with batch normalisation", partial(conv.vgg, n, " bn")) for n in conv.VGGS),
        *(_imagenet(f"resnet{n}", _RESNET.format(n), partial(conv.resnet, n)) for n in conv.RESNETS),
        *(_imagenet(f"resnet{n}_v1", _V1.format(n), partial(conv.resnet_v1, n)) for n in conv.RESNETS if n >= 50),
        _imagenet("resnext50_32x4d", _RESNEXT, partial(conv.resnet, 50, groups=32)),
        _imagenet("wide_resnet50_2", _WIDE, partial(conv.resnet, 50, wide=2)),
        _imagenet("googlenet", "GoogLeNet, Szegedy et al. 2014 (its 5×5 branch a 3×3, as published)", conv.googlenet),
        _imagenet("inception_v2", _V2, conv.inception_v2),
        _imagenet("inception_v3", _V3, conv.inception_v3, 299),
        *(_imagenet(f"densenet{n}", _DENSENET.format(n), partial(conv.densenet, n)) for n in conv.DENSENETS),
        _imagenet("squeezenet1_0", _SQUEEZENET.format("1.0"), conv.squeezenet1_0),
        _imagenet("squeezenet1_1", _SQUEEZENET.format("1.1"), conv.squeezenet1_1),
        _imagenet("mobilenet_v1", _MOBILE1, conv.mobilenet_v1),
        _imagenet("mobilenet_v2", _MOBILE2, conv.mobilenet_v2),
        _imagenet("efficientnet_b0", "EfficientNet-B0 (squeeze-excite), Tan and Le 2019", conv.efficientnet_b0),
        Info("unet", (3, 256, 256), "pix2pix generator: a U-Net of 8 levels, Isola et al. 2016",
             {"classes": 3, "channels": 3}, conv.unet),
        Info("patchgan", (6, 256, 256), "pix2pix discriminator: 70×70 PatchGAN, Isola et al. 2016",
             {"classes": 1, "channels": 6}, conv.patchgan),
        Info("residual_mlp", (32,), "Residual MLP for tables, the ResNet of Gorishniy et al. 2021",
             {"classes": 2, "channels": 32}, conv.residual_mlp),
    )
}  # fmt: skip


def names() -> list[str]:
    """The named networks, family by family."""
    return [*_INFOS, *_transformers()]


def _transformers() -> "dict[str, Net]":
    from dlkit.core.zoo_sequence import NETS

    return NETS


def info(name: str) -> Info:
    """What is known about a named network; DlkitError names the nearest where there is none."""
    if name in _INFOS:
        return _INFOS[name]
    if name not in _transformers():
        raise DlkitError(f"unknown network {name!r}: {nearest(name.lower(), names())}")
    net = _transformers()[name]
    shape = tuple(map(int, net.write(**net.options)[0].split("x")))
    return Info(name, shape, net.summary, net.options, net.write)


def text(name: str, **overrides: int) -> str:
    """The network in the network language, one stage a line, its input shape first."""
    about = info(name)
    for option, value in overrides.items():
        if option not in about.options:
            raise DlkitError(f"{name} has no option {option!r}; it takes {', '.join(about.options)}")
        if value < 1:
            raise DlkitError(f"{option} of {name} must be a whole number of at least 1; got {value}")
    options = about.options | overrides
    if name in _INFOS:
        lines = [show((options["channels"], *about.input[1:])), *about.write(options["classes"])]
    else:
        lines = about.write(**options)
    return "\n".join([f"# {name}: {about.summary}", *map(_fold, lines), ""])


def _fold(line: str) -> str:
    """A long line as several: the language reads on over the end of a line."""
    from textwrap import fill

    if len(line) <= WIDTH:
        return line
    return fill(line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
