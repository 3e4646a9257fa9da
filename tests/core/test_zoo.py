"""The named networks against their published parameters, GMACs and receptive fields."""

import pytest

from dlkit.core import zoo
from dlkit.core.errors import DlkitError
from dlkit.core.graph import totals, walk
from dlkit.core.spec import parse

# torchvision's metadata; LeNet-5 is 61,706 with full connections
PUBLISHED = {
    "lenet": (61_706, 0.000),
    "alexnet": (61_100_840, 0.714),
    "vgg11": (132_863_336, 7.609),
    "vgg13": (133_047_848, 11.308),
    "vgg16": (138_357_544, 15.470),
    "vgg19": (143_667_240, 19.632),
    "vgg11_bn": (132_868_840, 7.609),
    "vgg13_bn": (133_053_736, 11.308),
    "vgg16_bn": (138_365_992, 15.470),
    "vgg19_bn": (143_678_248, 19.632),
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
}

# N-S019: receptive field, effective stride, effective padding
FIELDS = {
    "alexnet": (195, 32, 66),
    "vgg16": (212, 32, 90),
    "resnet18": (435, 32, 217),
    "resnet50": (427, 32, 213),
    "resnet101": (971, 32, 485),
}


def whole(name):
    net = parse(name)
    return totals(walk(net.graph, net.input))


def test_every_name_is_checked():
    assert sorted(zoo.names()) == sorted(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)  # N-S092 N-S093 N-S095
def test_published_counts(name):
    params, giga = PUBLISHED[name]
    counted = whole(name)
    assert counted.params == params
    assert round(counted.macs / 1e9, 3) == giga
    assert counted.output == ((10,) if name == "lenet" else (1000,))


@pytest.mark.parametrize("name", FIELDS)
def test_published_receptive_fields(name):
    for axis in whole(name).field:
        assert (axis.size, axis.stride, axis.padding) == FIELDS[name]


def test_stride_in_the_first_one_by_one():  # N-S019: ResNet-50 v1 sees 483, on a stride of 32
    text = zoo.text("resnet50")
    for width in (128, 256, 512):
        text = text.replace(f"sum(conv:{width},k1,bias=0", f"sum(conv:{width},k1,s2,bias=0", 1)
        text = text.replace(f"conv:{width},k3,s2,p1", f"conv:{width},k3,p1", 1)
    axis = whole(text).field[0]
    assert (axis.size, axis.stride) == (483, 32)


def test_options():
    net = parse("resnet18:classes=10,channels=1")
    assert net.input == (1, 224, 224)
    assert walk(net.graph, net.input)[-1].output == (10,)
    assert whole("vgg11:classes=7").params == 132_863_336 - 993 * 4097


@pytest.mark.parametrize("name", zoo.names())
def test_texts_are_networks(name):
    about = zoo.info(name)
    net = parse(zoo.text(name))
    assert net.input == about.input
    assert net.graph == parse(name).graph
    assert about.summary in zoo.text(name)
    assert max(len(line) for line in zoo.text(name).splitlines()) < 130


def test_mistakes():
    with pytest.raises(DlkitError, match="'resnet50'"):
        zoo.info("resnet5")
    with pytest.raises(DlkitError, match="unknown network"):
        zoo.text("nothing")
    with pytest.raises(DlkitError, match="no option 'width'; it takes classes, channels"):
        zoo.text("vgg16", width=2)
    with pytest.raises(DlkitError, match="at least 1; got 0"):
        zoo.text("vgg16", classes=0)
