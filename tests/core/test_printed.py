"""A printed nn.Module read as a network: in order, checked against the numbers it prints."""

import pytest

from dlkit.core.errors import DlkitError
from dlkit.core.graph import totals, walk
from dlkit.core.network import read
from dlkit.core.printed import layer_of
from dlkit.core.printed import read as read_printed

LENET = """LeNet(
  (features): Sequential(
    (0): Conv2d(1, 6, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2))
    (1): Tanh()
    (2): AvgPool2d(kernel_size=2, stride=2, padding=0)
    (3): Conv2d(6, 16, kernel_size=(5, 5), stride=(1, 1))
    (4): Tanh()
    (5): AvgPool2d(kernel_size=2, stride=2, padding=0)
  )
  (fc): Linear(in_features=400, out_features=10, bias=True)
)
"""


def whole(text, shape):
    graph, notes = read_printed(text, shape)
    return totals(walk(graph, shape)), notes, [node.name for node in graph.nodes]


def test_layers_are_read_in_order():
    found, notes, names = whole(LENET, (1, 28, 28))
    assert (found.params, found.output) == (156 + 2416 + 4010, (10,))
    assert names[:2] == ["features.0", "features.1"] and names[-2:] == ["fc.flatten", "fc"]
    assert "residual sums" in notes[0]


def test_repeated_blocks_are_written_out():
    text = "Net(\n  (blocks): Sequential(\n    (0-2): 3 x Sequential(\n      (conv): Conv1d(4, 4, kernel_size=(3,), "
    text += "stride=(1,), padding=(1,), bias=False)\n      (act): ReLU(inplace=True)\n    )\n  )\n)"
    found, _, names = whole(text, (4, 9))
    assert found.params == 3 * 48 and names == [f"blocks.{i}.{part}" for i in range(3) for part in ("conv", "act")]


def test_a_projection_is_a_branch_from_its_blocks_input():
    text = """Block(
  (conv): Conv2d(4, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)
  (bn): BatchNorm2d(8, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
  (downsample): Sequential(
    (0): Conv2d(4, 8, kernel_size=(1, 1), stride=(2, 2), bias=False)
    (1): BatchNorm2d(8, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
  )
)"""
    found, notes, names = whole(
        f"Net(\n  (stem): Identity()\n  (block): {text.replace(chr(10), chr(10) + '  ')}\n)", (4, 8, 8)
    )
    assert (found.params, found.output) == (4 * 8 * 9 + 16 + 32 + 16, (8, 4, 4))
    assert names[-1] == "block.downsample.sum" and "block.downsample" in notes[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LENET.replace("in_features=400", "in_features=401"), ["fc", "401 features", "16x5x5"]),
        (LENET.replace("(3): Conv2d(6,", "(3): Conv2d(7,"), ["features.3", "7 channels", "6x14x14"]),
        (LENET.replace("Conv2d(6, 16, kernel_size=(5, 5)", "Conv2d(6, 16, kernel_size=(50, 50)"), ["features.3", "50"]),
        (LENET.replace("Conv2d(1, 6", "Conv3d(1, 6"), ["features.0", "3 spatial axes"]),
        (LENET.replace("(1): Tanh()", "(1): PixelShuffle(upscale_factor=2)"), ["features.1", "PixelShuffle"]),
        (LENET.rstrip()[:-1], ["')' is missing"]),
        (LENET + ")", ["closes more"]),
        ("Mystery(\n  (a): Riddle()\n)", ["no layer", "Riddle"]),
        ("Sequential()", ["no layer", "containers"]),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(text, words):
    with pytest.raises(DlkitError) as refused:
        read_printed(text, (1, 28, 28))
    assert all(word in refused.value.message for word in words), refused.value.message


def test_unknown_modules_are_listed():
    _, notes, _ = whole(LENET.replace("Tanh()", "StochasticDepth(p=0.1, mode=row)"), (1, 28, 28))
    assert "StochasticDepth 2" in notes[-1]


def test_the_language_is_not_taken_for_a_print():
    assert [node.name for node in read(["1x8x8", "sum(relu | tanh)"]).graph.nodes] == ["relu1", "tanh1", "sum1"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Conv2d(3, 64, kernel_size=(7, 7), stride=(2, 2), padding=(3, 3), bias=False)", "conv:64,k7,s2,p3,bias=0"),
        ("Conv1d(3, 6, kernel_size=(3,), stride=(1,), padding=same, groups=3)", "conv:6,k3,psame,g3"),
        ("ConvTranspose2d(8, 4, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))", "convt:4,k4,s2,p1"),
        ("MaxPool2d(kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=False)", "maxpool:k3,s2,p1"),
        ("AdaptiveAvgPool2d(output_size=(6, 6))", "adaptiveavgpool:6"),
        ("GroupNorm(4, 8, eps=1e-05, affine=True)", "gn:4"),
        ("LayerNorm((16,), eps=1e-05, elementwise_affine=True)", "ln:1"),
        ("Upsample(scale_factor=2.0, mode='nearest')", "upsample:2"),
        ("LeakyReLU(negative_slope=0.2)", "lrelu:0.2"),
        ("Linear(in_features=3, out_features=7, bias=False)", "linear:7,bias=0"),
    ],
)
def test_one_line_is_one_layer(text, word):
    from dlkit.core.spec import parse

    (node,) = parse(word).graph.nodes
    assert layer_of(text) == node.layer


def test_no_layer_of_the_catalogue():
    assert layer_of("StochasticDepth(p=0.1, mode=row)") is None
