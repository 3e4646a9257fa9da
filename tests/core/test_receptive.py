"""What `rf` answers: which layer, which box of the input, and what it says where there is no answer."""

import pytest
from test_contract import assert_error

from dlkit.core.errors import DlkitError
from dlkit.core.graph import walk
from dlkit.core.receptive import answer
from dlkit.core.spec import parse


def summary(text, **options):
    return answer(text.split(), **options).summary


def row(text, layer):
    return next(row for row in answer(text.split(), at=layer).rows if row["layer"] == layer)


@pytest.mark.published
@pytest.mark.parametrize(  # N-S019
    ("name", "size"),
    [("alexnet", "195"), ("vgg16", "212"), ("resnet50", "427"), ("resnet50_v1", "483"), ("patchgan", "70")],
)
def test_the_headline_is_one_number(name, size):
    result = answer([name])
    assert result.summary[result.headline] == size
    assert result.summary["rf"] == [int(size)] * 2


def test_a_row_by_hand():
    assert row("conv:8,k7,s2,p3 maxpool:k2 conv:8,k3,d2", "conv2") == {
        "layer": "conv2",
        "op": "conv:8,k3,d2",
        "rf": [25, 25],  # 7 + (2 − 1)·2 + 2·(3 − 1)·4
        "rf_min": [25, 25],
        "stride": [4, 4],
        "padding": [3, 3],
        "center": [9, 9],  # (−3 + 21)/2
    }


def test_axes_differ():
    found = summary("conv:8,k4x5,s1x2,p0x2")
    assert (found["size"], found["center"], found["stride"]) == ("4x5", [1.5, 0], [1, 2])


def test_a_transposed_convolution_gives_a_range():  # N-S017
    result = answer(["3x8x8", "conv:4,k3,p1", "convt:4,k3,s2,p1", "relu"])
    assert (result.summary["rf"], result.summary["rf_min"], result.summary["stride"]) == ([4, 4], [3, 3], [0.5, 0.5])
    assert "rf_min" in [column.name for column in result.columns]
    assert "rf_min" not in [column.name for column in answer(["conv:4,k3"]).columns]


def test_layers_that_see_everything():
    gated = summary("3x32x32 conv:8,k3 mul(gap linear:8 sigmoid | ) conv:8,k3")
    assert (gated["rf"], gated["stride"], gated["whole"]) == ([32, 32], None, True)
    assert row("3x32x32 conv:8,k3 gap linear:8", "linear1")["rf"] == [32, 32]
    assert summary("3x32x32 flatten linear:8")["rf"] == [32, 32]
    assert summary("conv:8,k3 mul(gap linear:8 sigmoid | )")["size"] == "whole"  # of an input not given


def test_the_last_map_is_the_answer_and_at_names_another():
    assert summary("3x32x32 conv:8,k3 relu gap linear:10")["layer"] == "relu1"
    assert summary("3x32x32 conv:8,k3 conv:8,k5 gap linear:10", at="conv1")["size"] == "3"
    assert len(list(answer(["conv:8,k3", "relu", "conv:8,k3"], at="relu1").rows)) == 2


@pytest.mark.parametrize(
    ("want", "layer"), [("1", "conv1"), ("7", "conv1"), ("8", "maxpool1"), ("9", "maxpool1"), ("10", "conv2")]
)
def test_the_first_that_sees_so_much(want, layer):
    result = answer(["conv:8,k7,s2,p3", "relu", "maxpool:k2", "conv:8,k3"], want=want)
    assert result.summary[result.headline] == layer


def test_want_per_axis():
    assert summary("conv:8,k3x1 conv:8,k1x3", want="3x3")["layer"] == "conv2"
    assert summary("3x32x32 conv:8,k3 mul(gap linear:8 | ) conv:8,k3", want="32")["layer"] == "mul1"


@pytest.mark.parametrize(
    ("text", "options", "code", "phrases"),
    [
        ("vgg16", {"want": "213"}, 1, ["213", "largest field is 212"]),
        ("vgg16", {"want": "0"}, 2, ["--want", "'0'"]),
        ("vgg16", {"want": "nan"}, 2, ["--want", "'nan'"]),
        ("vgg16", {"want": "3x3x3"}, 2, ["--want", "3 axes", "has 2"]),
        ("vgg16", {"at": "conv33"}, 2, ["--at", "'conv33'", "'conv13'"]),
        ("vgg16", {"pixel": "7,0"}, 2, ["--pixel", "0 to 6 and 0 to 6", "'7,0'"]),
        ("vgg16", {"at": "linear1", "pixel": "0"}, 2, ["--pixel", "linear1's output has none"]),
        ("vgg16", {"pixel": "1"}, 2, ["--pixel", "'1'"]),
        ("vgg16", {"pixel": "-1,0"}, 2, ["--pixel", "'-1,0'"]),
        ("conv:8,k3", {"pixel": "1,1"}, 2, ["--pixel", "input's shape"]),
        ("10 linear:4", {}, 2, ["vector"]),
        ("attn:8", {}, 2, ["sequences", "shape"]),
        ("embed:9,8 attn:2", {}, 2, ["sequences", "shape"]),
        ("adaptiveavgpool:7 conv:8,k3", {}, 2, ["adaptiveavgpool1", "input's size"]),
        ("3x2x2 relu sum(conv:3,k2,s2,p1 | ) relu", {}, 2, ["sum1", "position 12", "strides 1 and 2"]),
        ("3x9x9 sum(conv:3,k3,s2,p1 | conv:3,k1)", {}, 2, ["sum1", "strides 1 and 2", "3x5x5 and 3x9x9"]),
        ("sum(conv:3,k3,s2,p1 | conv:3,k1)", {}, 2, ["sum1", "strides 1 and 2"]),
        ("conv:8,k3,g2", {}, 2, ["3 is not divisible by 2 groups"]),
    ],
)
def test_no_answer(text, options, code, phrases):
    with pytest.raises(DlkitError) as caught:
        answer(text.split(), **options)
    assert caught.value.code == code
    for phrase in phrases:
        assert phrase in caught.value.message, caught.value.message


def test_before_a_crossed_join_there_is_an_answer():
    assert summary("3x2x2 conv:3,k1 sum(conv:3,k2,s2,p1 | ) relu", at="conv1")["size"] == "1"


@pytest.mark.parametrize(
    "text", ["resnet50", "mobilenet_v1", "unet", "conv:8,k3x5,s2 conv:4,k2,d3", "conv:8,k3x3x3 relu"]
)
def test_a_shape_is_not_needed_where_it_does_not_matter(text):
    bare = text if text.startswith("conv") else str(parse(text).graph).partition(" gap")[0]
    rank = 3 if "x3x3" in text else 2
    shaped = answer([f"3{'x256' * rank}", *bare.split()]).summary
    assert answer(bare.split()).summary == shaped | {"input": None}


@pytest.mark.parametrize("text", ["3x64x64 conv:4,k5,s2,p2 maxpool:k3,s2", "3x16x16 convt:4,k4,s2,p1 conv:4,k3,p1"])
@pytest.mark.parametrize("pixel", [(0, 0), (3, 5), (12, 7)])
def test_the_box_of_a_position(text, pixel):
    net = parse(text)
    step = walk(net.graph, net.input)[-1]
    found = summary(text, pixel=f"{pixel[0]},{pixel[1]}")
    box = [axis.interval(o) for axis, o in zip(step.field, pixel, strict=True)]
    assert found["box"] == box
    end = net.input[1] - 1
    assert found["clipped"] == [(max(low, 0), min(high, end)) for low, high in box]
    slices = eval(f"numpy.s_[{found['slice']}]", {"numpy": __import__("numpy")})
    assert [(s.start, s.stop - 1) for s in slices] == found["clipped"]


def test_a_position_that_sees_everything():
    found = summary("3x8x8 mul(gap linear:3 | )", pixel="1,1")
    assert found["box"] == found["clipped"] == [(0, 7), (0, 7)]


def test_a_position_without_an_input():
    assert summary("3x8 convt:4,k1,s2", pixel="1")["slice"] == "nothing"


@pytest.mark.parametrize("at", [None, "conv20", "linear1"])
def test_a_long_network_is_shown_by_block(at):
    result = answer(["resnet50"], at=at)
    rows = list(result.rows)
    assert len(result.overview) < 14 < len(rows)
    assert result.overview[-1] == rows[-1]
    assert result.overview[-1]["layer"] == result.summary["layer"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["rf", "vgg16", "--samples", "3"], "--samples"),
        (["rf", "vgg16", "--seed", "3"], "--seed"),
        (["rf", "vgg16", "--effective", "--pixel", "1,1"], "--pixel"),
        (["convshape", "224", "--want", "112", "-f", "8"], "-f"),
        (["convshape", "3x8x8", "conv:3,k3", "--explain", "--depth", "1"], "--explain"),
        (["convshape", "3x8x8", "conv:3,k3", "--dtype", "float16"], "--dtype"),
    ],
)
def test_options_without_effect_are_refused_by_name(inside, words, named):
    assert_error(inside(*words), 2, named)


def test_a_pipe_gets_the_one_value(inside):
    assert inside("rf", "vgg16", "--pixel", "3,3").out == "6:218,6:218\n"
