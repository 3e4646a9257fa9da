"""The network language: what it reads, what it refuses and how it says so, and text -> graph -> text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import python_calls

from dlkit.core.arguments import Choice, Flag, Kind, Padding, Real, Sizes, Whole
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.graph import SOURCE, Builder, Graph
from dlkit.core.layers import CATALOGUE, Conv, Join, Layer
from dlkit.core.spec import MAX_LAYERS, parse, parse_shape


def ops(text):
    return [str(node.layer) for node in parse(text).graph.nodes]


def edges(text):
    return [(node.name, node.inputs) for node in parse(text).graph.nodes]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("conv:64,k7,s2,p3", "conv:64,k7,s2,p3"),
        ("conv:k7,s2,64,p3", "conv:64,k7,s2,p3"),
        ("conv:out_channels=64,kernel_size=7,stride=2,padding=3", "conv:64,k7,s2,p3"),
        ("conv:64,k=7,bias=false", "conv:64,k7,bias=0"),
        ("conv:64,k3,s1,p0,d1,g1,bias=1", "conv:64,k3"),
        ("conv:8,k3x5,p1x2", "conv:8,k3x5,p1x2"),
        ("conv:8,k3,psame", "conv:8,k3,psame"),
        ("conv:8,k3,padding=same-tf", "conv:8,k3,psame-tf"),
        ("conv:8,k3,pvalid", "conv:8,k3"),
        ("conv:8,k3,p1.2.0.1", "conv:8,k3,p1.2x0.1"),
        ("conv:8,k3,p1.2x0.1", "conv:8,k3,p1.2x0.1"),
        ("conv:8,k3,p1.1", "conv:8,k3,p1"),
        ("convt:8,k4,s2,p1,op1", "convt:8,k4,s2,p1,op1"),
        ("maxpool:3", "maxpool:k3"),
        ("maxpool:k3,s2,ceil_mode=1", "maxpool:k3,s2,ceil_mode=1"),
        ("dropout:0.5", "dropout"),
        ("dropout:.25", "dropout:0.25"),
        ("dropout:p=1e-3", "dropout:0.001"),
        ("lrelu:0.2", "lrelu:0.2"),
        ("leakyrelu", "lrelu"),
        ("upsample:2", "upsample:k2"),
        ("upsample:size=14x14,mode=bilinear", "upsample:size=14x14,mode=bilinear"),
        ("aap:7x7", "adaptiveavgpool:7x7"),
        ("gn:32", "gn:32"),
        ("in:affine=1", "in:affine=1"),
        ("softmax:-1", "softmax:-1"),
        ("bn:eps=1e-3", "bn:eps=0.001"),
    ],
)
def test_one_layer(text, canonical):
    assert ops(text) == [canonical]
    assert ops(canonical) == [canonical]


def test_structure():
    assert ops("2*(bn relu) tanh") == ["bn", "relu", "bn", "relu", "tanh"]
    assert ops("2*relu 1 * tanh") == ["relu", "relu", "tanh"]
    assert ops("2*2*(relu)") == ["relu"] * 4
    assert ops("(bn (relu))") == ["bn", "relu"]
    assert edges("relu sum(bn tanh | ) relu") == [
        ("relu1", (SOURCE,)),
        ("bn1", (0,)),
        ("tanh1", (1,)),
        ("sum1", (2, 0)),
        ("relu2", (3,)),
    ]
    assert edges("cat( | bn | relu)") == [
        ("bn1", (SOURCE,)),
        ("relu1", (SOURCE,)),
        ("cat1", (SOURCE, 0, 1)),
    ]


def test_blanks_comments_and_definitions():
    text = """
    # a small residual net
    3x32x32
    block = sum(
        conv:8,k3,p1 bn relu   # twice
        | ) relu
    two = 2*block
    conv:8,k3,p1
    two gap
    linear:10
    """
    net = parse(text)
    assert net.input == (3, 32, 32)
    names = "conv1 conv2 bn1 relu1 sum1 relu2 conv3 bn2 relu3 sum2 relu4 gap1 linear1"
    assert " ".join(node.name for node in net.graph.nodes) == names


def test_input_shape():
    assert parse("3x224x224 relu").input == (3, 224, 224)
    assert parse("784 linear:10").input == (784,)
    assert parse("relu").input is None
    assert parse("resnet18").input == (3, 224, 224)
    assert parse("3x64x64 resnet18").input == (3, 64, 64)
    assert parse("relu resnet18").input is None
    assert parse_shape("224") == (224,)


def test_named_networks_stand_where_a_layer_can():
    alone = parse("resnet18:classes=10").graph
    assert str(alone.nodes[-1].layer) == "linear:10"
    mixed = parse("relu 2*(resnet18) tanh").graph
    assert len(mixed) == 2 * len(alone) + 2
    assert mixed.nodes[5].position == len("relu 2*(")


def test_definition_wins_over_a_named_network():
    assert ops("vgg16 = relu\nvgg16") == ["relu"]


ERRORS = [
    # text, the part under the carets (its first offset and length), phrases of the message
    ("", 0, 1, ["empty"]),
    ("3x4x4", 5, 1, ["empty"]),
    ("# nothing", 9, 1, ["empty"]),
    ("cov:64,k3", 0, 3, ["unknown layer 'cov'", "position 1", "'conv'"]),
    ("bn ReLU", 3, 4, ["'ReLU'", "position 4", "'relu'"]),
    ("resnet5", 0, 7, ["'resnet50'"]),
    ("conv:64", 0, 7, ["conv needs its kernel size", "conv:64,k3"]),
    ("conv:k3", 0, 7, ["conv needs its number of output channels", "e.g. conv:64,k3"]),
    ("linear", 0, 6, ["number of output features", "linear:10"]),
    ("conv:64,k3,stide=2", 11, 5, ["no argument 'stide'", "position 12", "stride (s)", "'stride'"]),
    ("conv:64,k3,q2", 11, 2, ["no argument 'q2'", "kernel_size (k)"]),
    ("conv:64,k3,psane", 11, 5, ["no argument 'psane'", "'psame'"]),
    ("relu:3", 5, 1, ["relu takes no bare number", "no arguments"]),
    ("conv:0,k3", 5, 1, ["out_channels is '0'", "[1, 1000000000]"]),
    ("conv:64,k0", 9, 1, ["kernel_size is '0'", "[1, 1000000000]", "position 10"]),
    ("conv:64,k-3", 9, 2, ["kernel_size is '-3'"]),
    ("conv:64,k3,s1.5", 12, 3, ["stride is '1.5'", "whole number"]),
    ("conv:nan,k3", 5, 3, ["out_channels is 'nan'"]),
    ("conv:64,k99999999999", 9, 11, ["kernel_size"]),
    ("conv:64,k" + "9" * 5000, 9, None, ["kernel_size"]),
    ("conv:64,k٣", 8, 2, ["no argument"]),
    ("conv:64,k3x3x3x3", 9, 7, ["kernel_size is '3x3x3x3'"]),
    ("conv:64,k3,bias=maybe", 16, 5, ["bias is 'maybe'", "0 or 1"]),
    ("dropout:1.5", 8, 3, ["p is '1.5'", "[0, 1]"]),
    ("dropout:nan", 8, 3, ["p is 'nan'"]),
    ("lrelu:inf", 6, 3, ["negative_slope is 'inf'"]),
    ("lrelu:1_0", 6, 3, ["negative_slope"]),
    ("upsample:k2,mode=cubic", 17, 5, ["mode is 'cubic'", "nearest", "bicubic"]),
    ("upsample", 0, 8, ["scale factor or its size"]),
    ("upsample:k2,size=4", 0, 18, ["one of them"]),
    ("maxpool:k3,padding=same", 19, 4, ["padding is 'same'", "same-tf"]),
    ("conv:64,k3,kernel_size=5", 11, 13, ["kernel_size is given twice"]),
    ("conv:64,32,k3", 8, 2, ["out_channels is given twice"]),
    ("conv:64,,k3", 8, 1, ["empty argument"]),
    ("conv:", 5, 1, ["empty argument"]),
    ("conv:64,k", 8, 1, ["kernel_size has no value", "k1"]),
    ("conv:64,k3,bias=", 16, 1, ["bias has no value"]),
    ("conv:64,k3,bias", 11, 4, ["bias has no value", "bias=1"]),
    ("conv(64)", 4, 1, ["colon"]),
    ("relu (bn", 5, 1, ["'(' without ')'", "position 6"]),
    ("relu bn)", 7, 1, ["')' without '('", "position 8"]),
    ("relu | bn", 5, 1, ["'|' outside"]),
    ("(relu | bn)", 6, 1, ["'|' outside"]),
    ("sum(relu)", 0, 3, ["single branch"]),
    ("sum relu", 0, 3, ["sum without branches"]),
    ("sum:3(relu|)", 5, 1, ["'(' after 'sum:3'"]),
    ("3*()", 2, 2, ["empty parentheses"]),
    ("relu 3*", 5, 2, ["nothing to repeat"]),
    ("0*(relu)", 0, 2, ["repeat count '0'", "at least 1"]),
    ("-2*relu", 0, 3, ["repeat count '-2'"]),
    ("1.5*relu", 0, 4, ["repeat count '1.5'"]),
    ("*relu", 0, 1, ["without a count"]),
    ("99999*(99999*(relu))", 0, 6, ["9999800001 layers", "100000"]),
    ("(" * 101 + "relu" + ")" * 101, None, 1, ["too deep", "100"]),
    ("relu 3x4x4", 5, 5, ["shape '3x4x4'", "first word"]),
    ("3x0x4 relu", 2, 1, ["'0'", "'3x0x4'", "position 3"]),
    ("3x-4 relu", 2, 2, ["'-4'"]),
    ("3xx4 relu", 2, 1, ["''", "'3xx4'"]),
    ("resnet50:klasses=3", 9, 7, ["no option 'klasses'", "classes=1000", "channels=3"]),
    ("resnet50:classes=0", 17, 1, ["classes is '0'", "[1, "]),
    ("resnet50:10", 9, 2, ["resnet50:classes=10"]),
    ("resnet50:classes=2,classes=3", 19, 9, ["given twice"]),
    ("a = relu a\na", 9, 1, ["'a' uses itself", "line 1, position 10"]),
    ("a = relu b\nb = a\nb", 9, 1, ["'b' is used before its definition", "line 1"]),
    ("relu = bn\nrelu", 0, 4, ["'relu' is a layer"]),
    ("a = bn\na = relu\na", 0, 1, ["'a' is defined twice", "line 2, position 1"]),
    ("a =\nrelu", 0, 1, ["'a' is empty"]),
    ("a = bn\na:3", 1, 2, ["'a' is a definition"]),
    ("bn\nrelu\n  cov:3", 2, 3, ["line 3, position 3", "'conv'"]),
]


@pytest.mark.parametrize(("text", "start", "length", "phrases"), ERRORS)
def test_mistakes_are_pointed_at(text, start, length, phrases):
    with pytest.raises(DlkitError) as caught:
        parse(text)
    error = caught.value
    assert error.code is ExitCode.USAGE
    assert "\n" not in error.message
    for phrase in ["position", *phrases]:
        assert phrase in error.message
    _, carets = error.context.split("\n")
    assert set(carets.strip()) == {"^"}
    if start is not None:
        assert carets.index("^") == start
    if length is not None:
        assert carets.count("^") == length


def test_long_lines_show_a_window():
    with pytest.raises(DlkitError, match="position 1001") as caught:
        parse("relu " * 200 + "foo " + "bn " * 200)
    line, carets = caught.value.context.split("\n")
    assert line.startswith("…") and line.endswith("…") and len(line) <= 102
    assert line[carets.index("^") :].startswith("foo")


def test_foreign_characters_do_not_reach_the_context():
    with pytest.raises(DlkitError) as caught:
        parse("relu \x1b[31mfoo")
    assert "\x1b" not in caught.value.context + caught.value.message


@pytest.mark.parametrize(("text", "part"), [("3x0x2", "'0'"), ("", "''"), ("3x2.5", "'2.5'"), ("ax2", "'a'")])
def test_shape_mistakes_name_the_part(text, part):
    with pytest.raises(DlkitError, match=r"at least|range") as caught:
        parse_shape(text)
    assert part in caught.value.message


def test_limits_are_refused_at_once():
    def refuse(text):
        with pytest.raises(DlkitError, match=r"layers|deep"):
            parse(text)

    for text in ["99999*(99999*(relu))", "*".join(["9"] * 90) + "*relu", _doubling(60), _chain(5000)]:
        assert python_calls(lambda text=text: refuse(text)) < 500_000
    assert len(parse(f"{MAX_LAYERS}*relu").graph) == MAX_LAYERS


def _doubling(lines):
    return "a0 = relu\n" + "".join(f"a{i + 1} = a{i} a{i}\n" for i in range(lines)) + f"a{lines}"


def _chain(lines):
    return "a0 = relu\n" + "".join(f"a{i + 1} = a{i}\n" for i in range(lines)) + f"a{lines}"


# Round trips ---------------------------------------------------------------------------------------

_SMALL = st.integers(1, 9)


def values(kind: Kind):
    """Values of one kind of argument."""
    match kind:
        case Whole():
            return st.integers(max(kind.low, -9), min(kind.high, 9))
        case Sizes():
            return st.lists(st.integers(kind.item.low, 9), min_size=1, max_size=3).map(tuple)
        case Padding():
            pair = st.tuples(st.integers(0, 9), st.integers(0, 9))
            pairs = st.lists(pair, min_size=1, max_size=3).map(tuple)
            return st.sampled_from(kind.words).map(kind.check) | pairs
        case Flag():
            return st.booleans()
        case Real():
            return st.floats(max(kind.low, -1e300), min(kind.high, 1e300))
        case Choice():
            return st.sampled_from(kind.words)
    raise AssertionError(kind)


@st.composite
def a_layer(draw) -> Layer:
    kind = draw(st.sampled_from([c for c in CATALOGUE.values() if not issubclass(c, Join)]))
    given_values = {
        a.name: draw(values(a.kind) | (st.none() if a.default is None else st.nothing())) for a in kind.arguments
    }
    if kind.names[0] == "upsample":
        given_values["size" if draw(st.booleans()) else "scale_factor"] = None
        chosen = [given_values["size"], given_values["scale_factor"]]
        if chosen == [None, None]:
            given_values["size"] = (3,)
        given_values["align_corners"] &= not given_values["mode"].startswith("nearest")
    return kind(**given_values)


@settings(max_examples=300, deadline=None)
@given(a_layer())
def test_a_layer_is_its_text(layer):
    again = parse(str(layer)).graph.nodes[0].layer
    assert again == layer and hash(again) == hash(layer)
    assert str(again) == str(layer)


def nets():
    leaf = st.sampled_from(["relu", "conv:8,k3,p1", "bn", "2*(tanh gelu)", "lenet"])
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(" ".join),
            st.tuples(st.integers(1, 3), inner).map(lambda t: f"{t[0]}*({t[1]})"),
            st.tuples(st.sampled_from(["sum", "cat"]), st.lists(inner | st.just(""), min_size=2, max_size=3)).map(
                lambda t: f"{t[0]}({' | '.join(t[1])})"
            ),
        ),
        max_leaves=12,
    )


@settings(max_examples=200, deadline=None)
@given(nets())
def test_text_to_graph_to_text(text):
    graph = parse(text).graph
    written = str(graph)
    assert parse(written).graph == graph
    assert str(parse(written).graph) == written


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="conv:64,k3psame()|*#= \nreluxbn0.9-", max_size=40))
def test_any_text_is_a_network_or_a_mistake(text):
    try:
        assert len(parse(text).graph) > 0
    except DlkitError as error:
        assert error.code is ExitCode.USAGE and "\n" not in error.message and "^" in error.context


def test_a_graph_that_the_language_cannot_write():
    builder = Builder()
    relu, total = CATALOGUE["relu"](), CATALOGUE["sum"]()
    a = builder.add(relu, (SOURCE,))
    b = builder.add(relu, (a,))
    c = builder.add(total, (a, b))
    d = builder.add(total, (b, c))
    with pytest.raises(DlkitError, match="cannot write"):
        str(Graph(builder.nodes, d))


def test_programs_may_make_layers():
    assert str(Conv(out_channels=8, kernel_size=3, padding=1)) == "conv:8,k3,p1"
    assert str(Conv(out_channels=8, kernel_size=(3, 5), padding=(1, 2), bias=0)) == "conv:8,k3x5,p1x2,bias=0"
    with pytest.raises(DlkitError, match=r"kernel_size must be a whole number .* got 0"):
        Conv(out_channels=8, kernel_size=0)
    with pytest.raises(DlkitError, match="no argument 'width'"):
        Conv(out_channels=8, kernel_size=1, width=3)
