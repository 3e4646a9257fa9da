"""Shape rules, parameters and MACs against the formulas of the source notes, and what each layer refuses."""

import pytest

from dlkit.core.errors import DlkitError
from dlkit.core.graph import totals, walk
from dlkit.core.spec import parse, parse_shape


def run(text):
    """The totals of a net whose text starts with its input shape."""
    net = parse(text)
    return totals(walk(net.graph, net.input))


def shapes(text):
    net = parse(text)
    return [step.output for step in walk(net.graph, net.input)]


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("3x224x224 conv:64,k7,s2,p3", "64x112x112"),  # N-S001
        ("3x224x224 conv:96,k11,s4", "96x54x54"),
        ("1x28x28 conv:8,k3,d2", "8x24x24"),
        ("1x16000 conv:16,k400,s160", "16x98"),
        ("3x16x112x112 conv:64,k3x7x7,s1x2x2,p1x3x3", "64x16x56x56"),
        ("3x10x10 conv:4,k5,pvalid", "4x6x6"),  # N-S005
        ("3x10x10 conv:4,k4,psame", "4x10x10"),  # N-S006: an even kernel, the odd one after
        ("3x10x10 conv:4,k5,d2,psame", "4x10x10"),
        ("3x11x10 conv:4,k3,s2,psame-tf", "4x6x5"),  # N-S006: same does not keep the size at a stride
        ("3x10x10 conv:4,k3,p1.0.2.0", "4x9x10"),
        ("3x10x10 dwconv:k3,p1,m2", "6x10x10"),
        ("8x7x7 maxpool:k3,s2", "8x3x3"),  # N-S007
        ("8x6x6 maxpool:k3,s2,ceil_mode=1", "8x3x3"),  # N-S008
        ("8x4x4 maxpool:k2,s3,ceil_mode=1", "8x2x2"),
        ("8x3x3 maxpool:k2,s3,ceil_mode=1", "8x1x1"),  # a last window that starts past the input is dropped
        ("8x3x3 maxpool:k2,s2,p1,ceil_mode=1", "8x2x2"),
        ("8x14x14 avgpool:2", "8x7x7"),
        ("8x13x13 maxpool:k3,s2,psame-tf", "8x7x7"),
        ("8x13x17 adaptiveavgpool:7", "8x7x7"),
        ("8x13x17 gap", "8"),  # N-S012
        ("8x4x4 convt:4,k4,s2,p1", "4x8x8"),  # N-S017
        ("8x4x4 convt:4,k3,s2,p1,op1", "4x8x8"),
        ("8x4 convt:4,k3,s2,d2,op1", "4x12"),
        ("8x4x4 upsample:k2x3", "8x8x12"),
        ("8x4x4 upsample:size=7,mode=bilinear", "8x7x7"),
        ("8x4x4 flatten", "128"),
        ("8x4x4 flatten:2", "8x16"),
        ("5x16 linear:32", "5x32"),
        ("8x4x4 cat(conv:3,k1 | | conv:5,k3,p1)", "16x4x4"),
        ("8x4x4 sum(conv:8,k3,p1 | )", "8x4x4"),
        ("8x4x4 mul(gap linear:8 sigmoid | )", "8x4x4"),
        ("8x4x4 mul(conv:1,k1 | | adaptiveavgpool:1)", "8x4x4"),
        ("8x4x5 mul(adaptiveavgpool:4x1 | adaptiveavgpool:1x5 | )", "8x4x5"),
    ],
)
def test_output_shapes(text, output):
    assert run(text).output == parse_shape(output)


@pytest.mark.parametrize(
    ("text", "params", "macs"),
    [
        ("3x32x32 conv:16,k3x5", 16 * (3 * 5 * 3 + 1), 16 * 45 * 30 * 28),  # N-S002 N-S003
        ("8x32x32 conv:16,k3,g4", 16 * (9 * 2 + 1), 16 * 9 * 2 * 900),  # N-S004
        ("8x32x32 conv:16,k3,bias=0", 16 * 9 * 8, 16 * 9 * 8 * 900),
        ("8x32x32 dwconv:k3,p1,m2", 16 * 10, 16 * 9 * 1024),
        ("8x4x4 convt:6,k4,s2,p1,g2", 8 * 3 * 16 + 6, 8 * 3 * 16 * 16),
        ("64x8x8 bn", 128, 0),  # N-S009: running statistics are buffers
        ("64x8x8 bn:affine=0", 0, 0),
        ("64x8x8 in", 0, 0),
        ("64x8x8 in:affine=1", 128, 0),
        ("64x8x8 gn:32", 128, 0),
        ("64x8x8 ln", 2 * 64 * 64, 0),
        ("64x8x8 ln:1", 16, 0),
        ("10x64 ln", 128, 0),
        ("10x64 ln:bias=0", 64, 0),
        ("10x64 rms", 64, 0),
        ("2048 linear:1000", 2_049_000, 2_048_000),  # N-S018
        ("10x64 linear:32,bias=0", 64 * 32, 10 * 64 * 32),
        ("64x8x8 prelu:64 relu maxpool:k2 softmax dropout", 64, 0),
    ],
)
def test_parameters_and_macs(text, params, macs):
    whole = run(text)
    assert (whole.params, whole.macs) == (params, macs)


def test_any_input_size_has_the_same_parameters():  # N-S010 N-S011
    assert run("3x64x64 resnet18").params == run("3x224x224 resnet18").params
    assert run("3x9x9 conv:8,k1").params == run("3 linear:8").params  # a 1×1 conv is a per-pixel MLP


def test_depthwise_separable_cost():  # N-S013: 1/Cout + 1/K²
    separable = run("32x56x56 dwconv:k3,p1,bias=0 conv:64,k1,bias=0").macs
    full = run("32x56x56 conv:64,k3,p1,bias=0").macs
    assert separable / full == pytest.approx(1 / 64 + 1 / 9)


def test_stacked_small_kernels():  # N-S014
    for times, kernel, weights in [(2, 5, 25), (3, 7, 49)]:
        stack = run(f"16x32x32 {times}*conv:16,k3,p1,bias=0")
        one = run(f"16x32x32 conv:16,k{kernel},p{kernel // 2},bias=0")
        assert stack.field == one.field
        assert (stack.params, one.params) == (times * 9 * 16**2, weights * 16**2)


def test_resnet50_chain():  # N-S015
    sizes = shapes("resnet50")
    for expected in [(64, 112, 112), (64, 56, 56), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]:
        assert expected in sizes
    assert sizes[-2:] == [(2048,), (1000,)]


def test_patch_discriminator():  # N-S016
    net = "6x256x256 conv:64,k4,s2,p1 lrelu:0.2 conv:128,k4,s2,p1 lrelu:0.2 conv:256,k4,s2,p1 lrelu:0.2"
    net += " conv:512,k4,p1 lrelu:0.2 conv:1,k4,p1"
    assert [s[1] for s in shapes(net)[::2]] == [128, 64, 32, 31, 30]
    assert run(net).output == (1, 30, 30)
    assert run(net).field[0].size == 70  # N-S019


def test_yolo_head():  # N-S228: anchors · (4 + 1 + classes)
    head, conv = run("1024x13x13 yolo:3,80"), run("1024x13x13 conv:255,k1")
    assert head.output == (255, 13, 13)  # COCO
    assert (head.params, head.macs, head.field) == (conv.params, conv.macs, conv.field)
    assert run("1024x13x13 yolo:anchors=5,classes=20").output == (125, 13, 13)  # Pascal VOC


def test_numbers_are_python_integers():
    net = parse("resnet18")
    for step in walk(net.graph, net.input):
        assert all(type(n) is int for n in (*step.output, step.params, step.macs, step.activations))


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("3x5x5 relu conv:64,k7", ["conv1 (conv:64,k7)", "3x5x5", "kernel 7", "padded input 5", "axis H"]),
        ("3x9x5 conv:64,k3,d4", ["spanning 9", "padded input 5", "axis W"]),
        ("3x5x5 conv:64,k3,g2", ["channel count 3", "2 groups"]),
        ("4x5x5 conv:5,k3,g2", ["output's channel count 5", "2 groups"]),
        ("3 conv:64,k3", ["C×H×W"]),
        ("1x2x3x4x5 conv:64,k3", ["C×H×W"]),
        ("3x5x5 conv:64,k3x3x3", ["kernel size", "3 axes", "input has 2"]),
        ("3x5x5 conv:64,k3,p1x1x1", ["padding", "3 axes"]),
        ("3x8x8 conv:64,k3,s2,psame", ["padding same", "stride 1", "same-tf"]),
        ("3x8x8 maxpool:k2,p2", ["padding 2", "half"]),
        ("3x8x8 maxpool:k2,p0.1x0.1,ceil_mode=1", ["ceil_mode", "equal padding"]),
        ("3x1x1 maxpool:k2", ["kernel 2", "padded input 1"]),
        ("3x1x1 convt:4,k1,p1", ["padding 1", "output of -1"]),
        ("3x4x4 convt:4,k3,s2,op2", ["output_padding 2", "stride 2"]),
        ("8x4x4 linear:10", ["linear1 (linear:10)", "8x4x4", "flatten or gap"]),
        ("8 gap", ["C×H×W"]),
        ("8x4x4 flatten:4", ["start_dim 4", "3 dimensions"]),
        ("6x4x4 gn:4", ["6", "4 groups"]),
        ("6x1x1 in", ["more than one position"]),
        ("6x4x4 ln:4", ["4 dimensions", "has 3"]),
        ("6x4x4 prelu:5", ["num_parameters", "6 channels", "5"]),
        ("6x4x4 softmax:4", ["dim 4", "1 to 3"]),
        ("6x4x4 softmax:0", ["dim 0"]),
        ("6x4 upsample:k2,mode=bilinear", ["mode bilinear", "linear"]),
        ("8x4x4 sum(conv:4,k1 | )", ["sum1", "4x4x4 and 8x4x4", "equal shapes"]),
        ("8x4x4 mul(gap linear:4 | )", ["mul1", "4 and 8x4x4", "8x4x4", "vector of 8"]),
        ("8x4x4 mul(maxpool:k2 | )", ["mul1", "8x2x2 and 8x4x4", "1 where it is smaller"]),
        ("8x4x4 cat(maxpool:k2 | )", ["cat1", "8x2x2 and 8x4x4", "channels only"]),
    ],
)
def test_misfits_name_the_layer(text, phrases):
    net = parse(text)
    with pytest.raises(DlkitError) as caught:
        walk(net.graph, net.input)
    error = caught.value
    assert "\n" not in error.message
    for phrase in ["position", *phrases]:
        assert phrase in error.message
    line, carets = error.context.split("\n")
    assert line[carets.index("^") :].startswith(error.message.split("(")[1].split(")")[0])
