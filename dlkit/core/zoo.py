"""Named networks, written in the network language: texts to read, copy and change.

The definitions are torchvision's (ResNets with the stride in the 3×3), so that parameters and MACs are its
published ones; LeNet is LeNet-5 of LeCun et al. 1998 with full connections. Texts are made when asked for.
"""

from typing import NamedTuple

from dlkit.core.errors import DlkitError, nearest
from dlkit.core.layers import Shape, show


class Info(NamedTuple):
    """A named network: its input, what it is, and the options it takes with their defaults."""

    name: str
    input: Shape
    summary: str
    options: dict[str, int]


_RESNETS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_VGGS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_IMAGENET = {"classes": 1000, "channels": 3}

_INFOS = {
    info.name: info
    for info in (
        Info("lenet", (1, 28, 28), "LeNet-5, LeCun et al. 1998", {"classes": 10, "channels": 1}),
        Info("alexnet", (3, 224, 224), "AlexNet on one GPU, Krizhevsky 2014", _IMAGENET),
        *(Info(f"vgg{n}", (3, 224, 224), f"VGG-{n}, Simonyan and Zisserman 2014", _IMAGENET) for n in _VGGS),
        *(Info(f"vgg{n}_bn", (3, 224, 224), f"VGG-{n} with batch normalisation", _IMAGENET) for n in _VGGS),
        *(Info(f"resnet{n}", (3, 224, 224), f"ResNet-{n}, He et al. 2015", _IMAGENET) for n in _RESNETS),
    )
}


def names() -> list[str]:
    """The named networks, smallest family first."""
    return list(_INFOS)


def info(name: str) -> Info:
    """What is known about a named network; DlkitError names the nearest where there is none."""
    if name not in _INFOS:
        raise DlkitError(f"unknown network {name!r}: {nearest(name.lower(), names())}")
    return _INFOS[name]


def text(name: str, **overrides: int) -> str:
    """The network in the network language, one stage a line, its input shape first."""
    about = info(name)
    for option, value in overrides.items():
        if option not in about.options:
            raise DlkitError(f"{name} has no option {option!r}; it takes {', '.join(about.options)}")
        if value < 1:
            raise DlkitError(f"{option} of {name} must be a whole number of at least 1; got {value}")
    options = about.options | overrides
    classes, shape = options["classes"], show((options["channels"], *about.input[1:]))
    family, depth = name.rstrip("0123456789").removesuffix("_bn").rstrip("0123456789"), _depth(name)
    if family == "resnet":
        body = _resnet(depth, classes)
    elif family == "vgg":
        body = _vgg(depth, classes, name.endswith("_bn"))
    else:
        body = (_lenet if family == "lenet" else _alexnet)(classes)
    return "\n".join([f"# {name}: {about.summary}", shape, *body, ""])


def _depth(name: str) -> int:
    digits = "".join(c for c in name if c.isdigit())
    return int(digits or 0)


def _lenet(classes: int) -> list[str]:
    return [
        "conv:6,k5,p2 tanh avgpool:k2",
        "conv:16,k5 tanh avgpool:k2",
        f"flatten linear:120 tanh linear:84 tanh linear:{classes}",
    ]


def _alexnet(classes: int) -> list[str]:
    return [
        "conv:64,k11,s4,p2 relu maxpool:k3,s2",
        "conv:192,k5,p2 relu maxpool:k3,s2",
        "conv:384,k3,p1 relu conv:256,k3,p1 relu conv:256,k3,p1 relu maxpool:k3,s2",
        "adaptiveavgpool:6x6 flatten  # the classifier",
        "dropout:0.5 linear:4096 relu",
        f"dropout:0.5 linear:4096 relu linear:{classes}",
    ]


def _vgg(depth: int, classes: int, norm: bool) -> list[str]:
    layers = "conv:{},k3,p1 bn relu" if norm else "conv:{},k3,p1 relu"
    stages = []
    for channels, times in zip((64, 128, 256, 512, 512), _VGGS[depth], strict=True):
        block = layers.format(channels)
        stages.append(f"{block} maxpool:k2" if times == 1 else f"{times}*({block}) maxpool:k2")
    return [
        *stages,
        "adaptiveavgpool:7x7 flatten  # the classifier",
        "2*(linear:4096 relu dropout:0.5)",
        f"linear:{classes}",
    ]


def _resnet(depth: int, classes: int) -> list[str]:
    write = _basic if depth < 50 else _bottleneck
    lines = ["conv:64,k7,s2,p3,bias=0 bn relu maxpool:k3,s2,p1"]
    for stage, times in enumerate(_RESNETS[depth]):
        lines += [f"# stage {stage + 1}", *write(64 << stage, 1 + (stage > 0), times)]
    return [*lines, "# the classifier", f"gap linear:{classes}"]


def _blocks(first: str, shortcut: str, rest: str, times: int) -> list[str]:
    """The first block of a stage, and the ones after it, whose shortcut is the identity."""
    start = f"sum({first} | {shortcut}) relu"
    return [start, f"{times - 1}*(sum({rest} | ) relu)"]


def _basic(width: int, stride: int, times: int) -> list[str]:
    block = f"conv:{width},k3{{}},p1,bias=0 bn relu conv:{width},k3,p1,bias=0 bn"
    if stride == 1:  # 64 channels come in and go out: no projection
        return [f"{times}*(sum({block.format('')} | ) relu)"]
    return _blocks(block.format(f",s{stride}"), f"conv:{width},k1,s{stride},bias=0 bn", block.format(""), times)


def _bottleneck(width: int, stride: int, times: int) -> list[str]:
    block = f"conv:{width},k1,bias=0 bn relu conv:{width},k3{{}},p1,bias=0 bn relu conv:{4 * width},k1,bias=0 bn"
    step = f",s{stride}" if stride > 1 else ""
    return _blocks(block.format(step), f"conv:{4 * width},k1{step},bias=0 bn", block.format(""), times)
