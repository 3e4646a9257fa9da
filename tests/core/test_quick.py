"""The quick form, one convolution from options, and its inverse against a search through every setting."""

import random

import pytest

from dlkit.core import inverse, quick
from dlkit.core.errors import DlkitError
from dlkit.core.layers import Conv, ConvTranspose, show
from dlkit.core.quick import Options
from dlkit.core.spec import parse


def headline(result):
    return result.summary[result.headline]


@pytest.mark.parametrize(
    ("word", "options", "output"),
    [
        ("224", Options("7", "2", "3"), [112]),  # N-S001
        ("3x224x224", Options("7", "2", "3"), [112, 112]),
        ("10", Options("4", None, "same"), [10]),  # N-S006
        ("11", Options("3", "2", "same-tf"), [6]),
        ("3x10x10", Options("3x5", None, "1.0x2.0"), [9, 8]),
        ("56", Options("4", "2", "1", transposed=True), [112]),  # N-S017
        ("56", Options("3", "2", "1", None, "1", transposed=True), [112]),
    ],
)
def test_one_convolution(word, options, output):
    result = quick.table([word], options)
    assert headline(result) == output
    assert result.bare and (result.summary["params"], result.summary["macs"]) == (None, None)


def test_filters_give_costs():
    result = quick.table(["3x224x224"], Options("7", "2", "3", filters=64))
    assert (result.summary["output"], result.summary["params"]) == ([64, 112, 112], 9_472)
    assert (
        quick.table(["224"], Options("7", filters=64)).summary["params"] is None
    )  # the input's channels are not known


def test_several_inputs():
    result = quick.table(["224", "256", "320"], Options("7", "2", "3"))
    assert headline(result) == "112\n128\n160"
    assert [(row["input"], row["output"]) for row in result.rows] == [([224], [112]), ([256], [128]), ([320], [160])]
    assert not result.bare and result.columns[0].name == "input"


def test_two_numbers_are_channels_and_length():
    result = quick.table(["224x100"], Options("3"))
    assert headline(result) == [98] and "C×L" in result.notes[0]


@pytest.mark.parametrize(
    ("words", "options", "phrases"),
    [
        (["224"], Options("0"), ["--kernel-size", "'0'", "1"]),
        (["224"], Options("3", "nan"), ["--stride", "'nan'"]),
        (["224"], Options("3", None, "-1"), ["--padding", "'-1'", "same-tf"]),
        (["224"], Options("3", None, "same", transposed=True), ["--padding", "'same'"]),
        (["224"], Options("3", None, None, "1.5"), ["--dilation", "'1.5'"]),
        (["224"], Options("3", output_padding="1"), ["--output-padding", "transposed"]),
        (["224"], Options(None, "2"), ["kernel size", "-k 3"]),
        (["224", "relu"], Options("3"), ["'relu'"]),
        (["5"], Options("7"), ["kernel 7", "padded input 5"]),
        (["224"], Options("3", "2", "same"), ["stride 1", "same-tf"]),
    ],
)
def test_refusals(words, options, phrases):
    with pytest.raises(DlkitError) as caught:
        quick.table(words, options)
    for phrase in phrases:
        assert phrase in caught.value.message, caught.value.message


# The inverse -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "want", "options", "first"),
    [
        ("224", "112", Options(), "k3,s2,p1"),
        ("224", "112", Options("7"), "k7,s2,p3"),
        ("224", "224", Options(), "k3,p1"),
        ("224", "222", Options(), "k3"),
        ("224", "56", Options("4"), "k4,s4"),
        ("224", "14", Options(), "k16,s16"),
        ("224", "7", Options("32"), "k32,s32"),
        ("224", "224", Options("5", padding="same"), "k5,psame"),
        ("3x224x112", "112x56", Options("3"), "k3,s2,p1"),
        ("3x32x32", "16", Options("3x5", padding="1x2"), "k3x5,s2,p1x2"),
        ("56", "112", Options(transposed=True), "k4,s2,p1"),
        ("56", "56", Options(transposed=True), "k3,p1"),
        ("1000000000", "500000000", Options("3"), "k3,s2,p1"),
        ("1000000000", "500000000", Options(), "k3,s2,p1"),
        ("3x224x112", "112x112", Options("3"), "k3,s2x1,p1"),  # a square kernel, its strides per axis
        ("3x224x112", "112x112", Options(), "k3,s2x1,p1"),
        ("224x112", "112x56", Options("3", padding="1"), "k3,s2,p1"),  # two sizes wanted of two: H×W
        ("56x28", "112x28", Options(transposed=True), "k4x3,s2x1,p1"),
    ],
)
def test_the_ordinary_setting_comes_first(word, want, options, first):
    assert headline(inverse.table([word], options, want)) == first


@pytest.mark.parametrize("seed", range(200))
def test_every_solution_and_no_other(seed):
    """One missing argument: all its values, against a search that asks the layer itself for each."""
    draw = random.Random(seed)
    transposed = draw.random() < 0.3
    kind, size = (ConvTranspose if transposed else Conv), draw.randint(3, 20)
    values = {"kernel_size": draw.randint(1, 5), "stride": draw.randint(1, 4), "dilation": draw.randint(1, 3)}
    values["padding"] = draw.randint(0, values["dilation"] * (values["kernel_size"] - 1))
    missing = draw.choice(sorted(values))
    want = output(kind, size, values) or draw.randint(1, 20)
    given = {name: str(value) for name, value in values.items() if name != missing}
    expected = {
        n for n in range(60) if sensible(missing, n, values) and output(kind, size, {**values, missing: n}) == want
    }
    try:
        rows = inverse.table([str(size)], Options(**given, transposed=transposed), str(want)).rows
    except DlkitError as error:
        assert error.code == 1 and not expected
        return
    found = [row[missing][0] for row in rows]
    assert len(found) == len(set(found)) and all(row["output"] == [want] for row in rows)
    assert {n for n in found if n <= size} == {n for n in expected if n <= size}


def sensible(missing, n, values):
    """Padding beyond the kernel sees nothing but padding; a kernel of 1 is not dilated."""
    if missing == "padding":
        return n <= values["dilation"] * (values["kernel_size"] - 1)
    return n > 0 and (missing != "dilation" or values["kernel_size"] > 1 or n == 1)


def output(kind, size, values):
    try:
        return kind(out_channels=1, **values).shape((1, size))[1]
    except DlkitError:
        return None


@pytest.mark.parametrize("seed", range(20))
def test_settings_of_each_axis_hold(seed):
    draw = random.Random(seed)
    sizes = [draw.randint(8, 300) for _ in range(2)]
    wants = [draw.randint(1, size) for size in sizes]
    result = inverse.table([show((3, *sizes))], Options(), show(wants))
    assert all(row["output"] == wants for row in result.rows)


@pytest.mark.parametrize("word", ["1", "1000000000"])
@pytest.mark.parametrize("want", ["1", "1000000000"])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_largest_sizes_are_solved(word, want, transposed):
    assert all(row["output"] == [int(want)] for row in inverse.table([word], Options(transposed=transposed), want).rows)


@pytest.mark.parametrize("seed", range(30))
def test_settings_of_several_missing_arguments_hold(seed):
    draw = random.Random(seed)
    size, transposed = draw.randint(8, 300), draw.random() < 0.3
    want = draw.randint(1, size) if not transposed else draw.randint(size, 4 * size)
    result = inverse.table([f"1x{size}x{size}"], Options(transposed=transposed), str(want))
    kind = "convt" if transposed else "conv"
    assert result.rows
    for row in result.rows:
        words = [f"{key}={'x'.join(map(str, row[key]))}" for key in quick.NAMES]
        made = parse(f"{kind}:1,{','.join(words)}").graph.nodes[0].layer
        assert made.shape((1, size, size)) == (1, want, want)


@pytest.mark.parametrize(
    ("words", "options", "want", "code", "phrases"),
    [
        (["224"], Options("7", None, "3", "1"), "113", 1, ["stride", "113 from 224"]),
        (["13"], Options("3", "1", None, "1"), "100", 1, ["padding", "100 from 13"]),
        (["224"], Options("7", "2", "3", "1"), "112", 2, ["nothing to solve for"]),
        (["224"], Options(), "0", 2, ["--want", "'0'"]),
        (["224"], Options(), "112x112", 2, ["--want", "2 axes", "input has 1"]),
        (["224", "256"], Options(), "112", 2, ["one input size"]),
        (["resnet50"], Options(), "112", 2, ["no layers", "'resnet50'"]),
        (["3x64x32"], Options("3", "2", "1"), "32x32", 1, ["32x32 from 64x32"]),
    ],
)
def test_no_solution(words, options, want, code, phrases):
    with pytest.raises(DlkitError) as caught:
        inverse.table(words, options, want)
    assert caught.value.code == code
    for phrase in phrases:
        assert phrase in caught.value.message, caught.value.message
