"""The texts of the named convolutional networks. Each function takes the number of outputs and gives lines of text."""

RESNETS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
VGGS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
DENSENETS = {  # growth, channels of the stem, layers of each block
    121: (32, 64, (6, 12, 24, 16)),
    161: (48, 96, (6, 12, 36, 24)),
    169: (32, 64, (6, 12, 32, 32)),
    201: (32, 64, (6, 12, 48, 32)),
}


def concatenated(*branches: str) -> list[str]:
    """cat(…), a branch a line."""
    first, *rest = branches
    lines = [f"cat({first}", *(f"    | {branch}" for branch in rest)]
    return [*lines[:-1], f"{lines[-1]})"]


def conv_bn(arguments: str, then: str = " relu") -> str:
    """A convolution without bias, its batch norm, and the activation."""
    return f"conv:{arguments},bias=0 bn{then}"


def repeat(times: int, block: str) -> str:
    return block if times == 1 else f"{times}*({block})"


def head(classes: int, *before: str) -> list[str]:
    return ["# the classifier", " ".join([*before, "gap", f"linear:{classes}"])]


# Chains -----------------------------------------------------------------------------------------


def lenet(classes: int) -> list[str]:
    return [
        "conv:6,k5,p2 tanh avgpool:k2",
        "conv:16,k5 tanh avgpool:k2",
        f"flatten linear:120 tanh linear:84 tanh linear:{classes}",
    ]


def alexnet(classes: int) -> list[str]:
    return [
        "conv:64,k11,s4,p2 relu maxpool:k3,s2",
        "conv:192,k5,p2 relu maxpool:k3,s2",
        "conv:384,k3,p1 relu conv:256,k3,p1 relu conv:256,k3,p1 relu maxpool:k3,s2",
        "adaptiveavgpool:6x6 flatten  # the classifier",
        "dropout:0.5 linear:4096 relu",
        f"dropout:0.5 linear:4096 relu linear:{classes}",
    ]


def vgg(depth: int, norm: str, classes: int) -> list[str]:
    stages = []
    for channels, times in zip((64, 128, 256, 512, 512), VGGS[depth], strict=True):
        stages.append(f"{repeat(times, f'conv:{channels},k3,p1{norm} relu')} maxpool:k2")
    return [
        *stages,
        "adaptiveavgpool:7x7 flatten  # the classifier",
        "2*(linear:4096 relu dropout:0.5)",
        f"linear:{classes}",
    ]


def patchgan(outputs: int) -> list[str]:
    return [
        "conv:64,k4,s2,p1 lrelu:0.2",
        *(conv_bn(f"{channels},k4,s2,p1", " lrelu:0.2") for channels in (128, 256)),
        conv_bn("512,k4,p1", " lrelu:0.2"),
        f"conv:{outputs},k4,p1",
    ]


# Tables -----------------------------------------------------------------------------------------


def residual_mlp(outputs: int) -> list[str]:
    return [
        "linear:192",
        "3*(sum(bn linear:384 relu dropout:0.1 linear:192 | ))",
        f"bn relu linear:{outputs}",
    ]


# Residual networks ------------------------------------------------------------------------------


def resnet(depth: int, classes: int, groups: int = 1, wide: int = 1) -> list[str]:
    """With `groups` a ResNeXt of width 4 a group; `wide` multiplies the width of the 3×3."""
    lines = ["conv:64,k7,s2,p3,bias=0 bn relu maxpool:k3,s2,p1"]
    for stage, times in enumerate(RESNETS[depth]):
        width, stride = 64 << stage, 1 + (stage > 0)
        lines.append(f"# stage {stage + 1}")
        if depth < 50:
            lines += _basic(width, stride, times)
        else:
            inner = width * wide if groups == 1 else 4 * groups * width // 64
            lines += _bottleneck(width, stride, times, inner, f",g{groups}" if groups > 1 else "")
    return [*lines, *head(classes)]


def resnet_v1(depth: int, classes: int) -> list[str]:
    """The stride in the first 1×1 of a stage, and TensorFlow's SAME in the first pooling."""
    lines = ["conv:64,k7,s2,p3,bias=0 bn relu maxpool:k3,s2,psame-tf"]
    for stage, times in enumerate(RESNETS[depth]):
        width, step = 64 << stage, ",s2" if stage else ""
        rest = f"{conv_bn(f'{width},k3,p1')} {conv_bn(f'{4 * width},k1', '')}"
        first, later = (f"{conv_bn(f'{width},k1{s}')} {rest}" for s in (step, ""))
        lines += [f"# stage {stage + 1}", *_blocks(first, f"{conv_bn(f'{4 * width},k1{step}', '')}", later, times)]
    return [*lines, *head(classes)]


def _blocks(first: str, shortcut: str, rest: str, times: int) -> list[str]:
    """The first block of a stage, and the ones after it, whose shortcut is the identity."""
    return [f"sum({first} | {shortcut}) relu", f"{times - 1}*(sum({rest} | ) relu)"]


def _basic(width: int, stride: int, times: int) -> list[str]:
    block = f"conv:{width},k3{{}},p1,bias=0 bn relu conv:{width},k3,p1,bias=0 bn"
    if stride == 1:  # 64 channels come in and go out: no projection
        return [f"{times}*(sum({block.format('')} | ) relu)"]
    return _blocks(block.format(f",s{stride}"), f"conv:{width},k1,s{stride},bias=0 bn", block.format(""), times)


def _bottleneck(width: int, stride: int, times: int, inner: int, groups: str) -> list[str]:
    out = 4 * width
    block = f"{conv_bn(f'{inner},k1')} conv:{inner},k3{{}},p1{groups},bias=0 bn relu {conv_bn(f'{out},k1', '')}"
    step = f",s{stride}" if stride > 1 else ""
    return _blocks(block.format(step), conv_bn(f"{out},k1{step}", ""), block.format(""), times)


# Concatenating networks -------------------------------------------------------------------------


def densenet(depth: int, classes: int) -> list[str]:
    growth, channels, blocks = DENSENETS[depth]
    layer = f"cat( | bn relu conv:{4 * growth},k1,bias=0 bn relu conv:{growth},k3,p1,bias=0)"
    lines = [f"conv:{channels},k7,s2,p3,bias=0 bn relu maxpool:k3,s2,p1"]
    for block, times in enumerate(blocks):
        lines += [f"# block {block + 1}", f"{times}*({layer})"]
        channels += times * growth
        if block < len(blocks) - 1:
            channels //= 2
            lines.append(f"bn relu conv:{channels},k1,bias=0 avgpool:k2")
    return [*lines, *head(classes, "bn", "relu")]


def _fire(squeeze: int, expand: int) -> str:
    return f"conv:{squeeze},k1 relu cat(conv:{expand},k1 relu | conv:{expand},k3,p1 relu)"


def squeezenet1_0(classes: int) -> list[str]:
    return [
        f"conv:96,k7,s2 relu {_HALVE}",
        repeat(2, _fire(16, 64)),
        f"{_fire(32, 128)} {_HALVE}",
        _fire(32, 128),
        repeat(2, _fire(48, 192)),
        f"{_fire(64, 256)} {_HALVE}",
        _fire(64, 256),
        f"dropout:0.5 conv:{classes},k1 relu gap",
    ]


def squeezenet1_1(classes: int) -> list[str]:
    stages = [f"{repeat(2, _fire(width // 4, width))} {_HALVE}" for width in (64, 128)]
    rest = [repeat(2, _fire(width // 4, width)) for width in (192, 256)]
    return [f"conv:64,k3,s2 relu {_HALVE}", *stages, *rest, f"dropout:0.5 conv:{classes},k1 relu gap"]


def unet(outputs: int) -> list[str]:
    """Each level halves the map, runs the level below it, and doubles it again beside what came in."""
    channels = [64, 128, 256, 512, 512, 512, 512, 512]
    lines = ["lrelu:0.2 conv:512,k4,s2,p1,bias=0 relu convt:512,k4,s2,p1,bias=0 bn  # level 8"]
    for level in range(6, 0, -1):
        down, up = channels[level], channels[level - 1]
        drop = " dropout:0.5" if level > 3 else ""
        start = f"lrelu:0.2 conv:{down},k4,s2,p1,bias=0 bn  # level {level + 1}"
        end = f"relu convt:{up},k4,s2,p1,bias=0 bn{drop}"
        lines = [start, "cat( |", *(f"  {line}" for line in lines), ")", end]
    return [
        "conv:64,k4,s2,p1,bias=0",
        "cat( |",
        *(f"  {line}" for line in lines),
        ")",
        f"relu convt:{outputs},k4,s2,p1 tanh",
    ]


# Inception --------------------------------------------------------------------------------------

_BN = " bn:eps=0.001 relu"
_HALVE = "maxpool:k3,s2,ceil_mode=1"


def _unit(arguments: str) -> str:
    return f"conv:{arguments},bias=0{_BN}"


def _units(*arguments: str) -> str:
    return " ".join(map(_unit, arguments))


def googlenet(classes: int) -> list[str]:
    def block(one: int, three_in: int, three: int, five_in: int, five: int, pooled: int) -> list[str]:
        return concatenated(
            _unit(f"{one},k1"),
            _units(f"{three_in},k1", f"{three},k3,p1"),
            _units(f"{five_in},k1", f"{five},k3,p1"),
            f"maxpool:k3,s1,p1,ceil_mode=1 {_unit(f'{pooled},k1')}",
        )

    return [
        f"{_unit('64,k7,s2,p3')} {_HALVE}",
        f"{_units('64,k1', '192,k3,p1')} {_HALVE}",
        *block(64, 96, 128, 16, 32, 32),
        *block(128, 128, 192, 32, 96, 64),
        _HALVE,
        *block(192, 96, 208, 16, 48, 64),
        *block(160, 112, 224, 24, 64, 64),
        *block(128, 128, 256, 24, 64, 64),
        *block(112, 144, 288, 32, 64, 64),
        *block(256, 160, 320, 32, 128, 128),
        "maxpool:k2,s2,ceil_mode=1",
        *block(256, 160, 320, 32, 128, 128),
        *block(384, 192, 384, 48, 128, 128),
        f"gap dropout:0.2 linear:{classes}",
    ]


def inception_v2(classes: int) -> list[str]:
    pool, mean = "maxpool:k3,s2,psame-tf", "avgpool:k3,s1,p1,count_include_pad=0"

    def block(one: int, three_in: int, three: int, double_in: int, double: int, pooled: int, by: str) -> list[str]:
        branches = _units(f"{three_in},k1", f"{three},k3,p1"), _units(f"{double_in},k1", *[f"{double},k3,p1"] * 2)
        return concatenated(_unit(f"{one},k1"), *branches, f"{by} {_unit(f'{pooled},k1')}")

    def halve(three_in: int, three: int, double_in: int, double: int) -> list[str]:
        down = "k3,s2,psame-tf"
        deep = _units(f"{double_in},k1", f"{double},k3,p1", f"{double},{down}")
        return concatenated(_units(f"{three_in},k1", f"{three},{down}"), deep, pool)

    return [
        f"dwconv:k7,s2,psame-tf,m8,bias=0 {_unit('64,k1')} {pool}",
        f"{_units('64,k1', '192,k3,p1')} {pool}",
        *block(64, 64, 64, 64, 96, 32, mean),
        *block(64, 64, 96, 64, 96, 64, mean),
        *halve(128, 160, 64, 96),
        *block(224, 64, 96, 96, 128, 128, mean),
        *block(192, 96, 128, 96, 128, 128, mean),
        *block(160, 128, 160, 128, 160, 96, mean),
        *block(96, 128, 192, 160, 192, 96, mean),
        *halve(128, 192, 192, 256),
        *block(352, 192, 320, 160, 224, 128, mean),
        *block(352, 192, 320, 192, 224, 128, "maxpool:k3,s1,p1"),
        f"gap dropout:0.2 linear:{classes}",
    ]


_MEAN = "avgpool:k3,s1,p1"


def inception_v3(classes: int) -> list[str]:
    def wide(pooled: int) -> list[str]:
        deep = _units("64,k1", "96,k3,p1", "96,k3,p1")
        return concatenated(_unit("64,k1"), _units("48,k1", "64,k5,p2"), deep, f"{_MEAN} {_unit(f'{pooled},k1')}")

    def narrow(inner: int) -> list[str]:
        """7×7 convolutions as 1×7 and 7×1."""
        row, column = f"{inner},k1x7,p0x3", f"{inner},k7x1,p3x0"
        single = _units(f"{inner},k1", row, "192,k7x1,p3x0")
        double = _units(f"{inner},k1", column, row, column, "192,k1x7,p0x3")
        return concatenated(_unit("192,k1"), single, double, f"{_MEAN} {_unit('192,k1')}")

    return [
        f"{_units('32,k3,s2', '32,k3', '64,k3,p1')} maxpool:k3,s2",
        f"{_units('80,k1', '192,k3')} maxpool:k3,s2",
        *(line for pooled in (32, 64, 64) for line in wide(pooled)),
        *concatenated(_unit("384,k3,s2"), _units("64,k1", "96,k3,p1", "96,k3,s2"), "maxpool:k3,s2"),
        *(line for inner in (128, 160, 160, 192) for line in narrow(inner)),
        *_inception_v3_end(),
        f"gap dropout:0.5 linear:{classes}",
    ]


def _inception_v3_end() -> list[str]:
    split = f"cat({_unit('384,k1x3,p0x1')} | {_unit('384,k3x1,p1x0')})"
    factored = _units("192,k1", "192,k1x7,p0x3", "192,k7x1,p3x0", "192,k3,s2")
    last = concatenated(
        _unit("320,k1"),
        f"{_unit('384,k1')} {split}",
        f"{_units('448,k1', '384,k3,p1')} {split}",
        f"{_MEAN} {_unit('192,k1')}",
    )
    return [*concatenated(_units("192,k1", "320,k3,s2"), factored, "maxpool:k3,s2"), *last, *last]


# Depthwise networks -----------------------------------------------------------------------------


def mobilenet_v1(classes: int) -> list[str]:
    def pair(out: int, window: str) -> str:
        return f"dwconv:{window},bias=0 bn relu6 {conv_bn(f'{out},k1', ' relu6')}"

    same, halve = "k3,p1", "k3,s2,psame-tf"
    return [
        conv_bn(f"32,{halve}", " relu6"),
        pair(64, same),
        *(f"{pair(out, halve)} {pair(out, same)}" for out in (128, 256)),
        f"{pair(512, halve)}",
        repeat(5, pair(512, same)),
        f"{pair(1024, halve)} {pair(1024, same)}",
        f"gap dropout:0.001 linear:{classes}",
    ]


def _inverted(into: int, out: int, factor: int, window: str, act: str, squeeze: int = 0) -> str:
    """An inverted residual: expand by `factor`, depthwise, squeeze-excite where asked for, project."""
    inner = into * factor
    grow = [conv_bn(f"{inner},k1", f" {act}")] if factor > 1 else []
    gate = [f"mul(adaptiveavgpool:1 conv:{squeeze},k1 silu conv:{inner},k1 sigmoid | )"] if squeeze else []
    return " ".join([*grow, f"dwconv:{window},bias=0 bn {act}", *gate, conv_bn(f"{out},k1", "")])


def mobilenet_v2(classes: int) -> list[str]:
    lines, into = [conv_bn("32,k3,s2,p1", " relu6")], 32
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for factor, out, times, stride in stages:
        lines.append(_inverted(into, out, factor, f"k3,s{stride},p1", "relu6"))
        if times > 1:
            lines.append(repeat(times - 1, f"sum({_inverted(out, out, factor, 'k3,p1', 'relu6')} | )"))
        into = out
    return [*lines, conv_bn("1280,k1", " relu6"), f"gap dropout:0.2 linear:{classes}"]


def efficientnet_b0(classes: int) -> list[str]:
    """Stochastic depth, which only training has, is left out."""
    lines, into = [conv_bn("32,k3,s2,p1", " silu")], 32
    stages = [(1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3)]
    stages += [(6, 5, 2, 192, 4), (6, 3, 1, 320, 1)]
    for factor, kernel, stride, out, times in stages:
        window = f"k{kernel},s{stride},p{kernel // 2}"
        lines.append(_inverted(into, out, factor, window, "silu", into // 4))
        if times > 1:
            block = _inverted(out, out, factor, f"k{kernel},p{kernel // 2}", "silu", out // 4)
            lines.append(repeat(times - 1, f"sum({block} | )"))
        into = out
    return [*lines, conv_bn("1280,k1", " silu"), f"gap dropout:0.2 linear:{classes}"]
