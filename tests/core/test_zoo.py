"""The named networks against their published parameters, GMACs and receptive fields."""

import pytest

from dlkit.core import zoo
from dlkit.core.errors import DlkitError
from dlkit.core.field import WHOLE
from dlkit.core.graph import totals, walk
from dlkit.core.spec import parse
from dlkit.core.zoo_sequence import NETS

# torchvision's metadata, Inception v3 without its auxiliary head (3,326,696); LeNet-5 is 61,706 with full connections
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
    "resnext50_32x4d": (25_028_904, 4.230),
    "wide_resnet50_2": (68_883_240, 11.398),
    "googlenet": (6_624_904, 1.498),
    "inception_v3": (27_161_264 - 3_326_696, 5.713),
    "densenet121": (7_978_856, 2.834),
    "densenet161": (28_681_000, 7.728),
    "densenet169": (14_149_480, 3.360),
    "densenet201": (20_013_928, 4.291),
    "squeezenet1_0": (1_248_424, 0.819),
    "squeezenet1_1": (1_235_496, 0.349),
    "mobilenet_v2": (3_504_872, 0.301),
    "efficientnet_b0": (5_288_548, 0.386),
    "mobilenet_v1": (4_231_976, 0.569),  # Howard et al. 2017: 4.2 million, 569 million
}

# The papers' rounded figures, in millions of parameters and GMACs where given
ROUNDED = {
    "resnet50_v1": (25.557, 3.858),  # He et al. 2015, table 1: 3.8, 7.6, 11.3
    "resnet101_v1": (44.549, 7.570),
    "resnet152_v1": (60.193, 11.282),
    "inception_v2": (11.188, 1.935),
    "unet": (54.414, None),  # as the pix2pix code prints them
    "patchgan": (2.769, None),
}

# N-S019: receptive field, effective stride, effective padding
FIELDS = {
    "alexnet": (195, 32, 66),
    "vgg16": (212, 32, 90),
    "resnet18": (435, 32, 217),
    "resnet50": (427, 32, 213),
    "resnet101": (971, 32, 485),
    "densenet121": (2071, 32, 1021),
    "mobilenet_v2": (491, 32, 245),
    "resnet50_v1": (483, 32, 239),  # Araujo, Norris and Sim, Distill 2019, of TensorFlow-slim's definitions
    "resnet101_v1": (1027, 32, 511),
    "mobilenet_v1": (315, 32, 126),
    "inception_v2": (699, 32, 318),
    "patchgan": (70, 8, 23),  # N-S016
}


def whole(name):
    net = parse(name)
    return totals(walk(net.graph, net.input))


def test_every_name_is_checked():
    assert {*PUBLISHED, *ROUNDED, "residual_mlp"} == set(zoo.names()) - set(NETS)


def test_the_residual_mlp_is_gorishniys():
    """First layer, 3 × (norm, d → 2d, 2d → d), norm and head; its input and output are those of the data."""
    d = 192
    block = 2 * d + (d + 1) * 2 * d + (2 * d + 1) * d
    assert whole("residual_mlp").params == (32 + 1) * d + 3 * block + 2 * d + (d + 1) * 2


@pytest.mark.published
@pytest.mark.parametrize("name", PUBLISHED)  # N-S092 N-S093 N-S095
def test_published_counts(name):
    params, giga = PUBLISHED[name]
    counted = whole(name)
    assert counted.params == params
    assert round(counted.macs / 1e9, 3) == giga
    assert counted.output == ((10,) if name == "lenet" else (1000,))


@pytest.mark.published
@pytest.mark.parametrize("name", FIELDS)
def test_published_receptive_fields(name):
    for axis in whole(name).field:
        assert (axis.size, axis.stride, axis.padding) == FIELDS[name]


@pytest.mark.published
@pytest.mark.parametrize("name", ROUNDED)
def test_rounded_counts(name):
    millions, giga = ROUNDED[name]
    counted = whole(name)
    assert round(counted.params / 1e6, 3) == millions
    assert giga is None or round(counted.macs / 1e9, 3) == giga


def test_maps_that_are_made():  # N-S016
    assert whole("patchgan").output == (1, 30, 30)
    assert whole("unet").output == (3, 256, 256)
    assert whole("unet").field[0].stride == 1


def test_squeeze_excite_sees_everything():
    assert whole("efficientnet_b0").field == WHOLE


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
