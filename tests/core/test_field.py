"""Receptive fields: known formulas, joins, and the reach that autograd sees (the oracle of N-S021)."""

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from dlkit.core import receptive
from dlkit.core.errors import DlkitError
from dlkit.core.field import INPUT, PERIOD_LIMIT, WHOLE, Field, Taps, Verdict, advance
from dlkit.core.graph import totals, walk
from dlkit.core.spec import parse
from dlkit.nn.build import build


def last(text):
    net = parse(text)
    return walk(net.graph, net.input)[-1]


def field(text):
    return last(text).field[0]


def test_the_recurrence():  # N-S019: l_k = l_{k−1} + D(f_k − 1)·∏ s_i
    size, jump, text = 1, 1, "1x4096"
    for kernel, stride, dilation in [(3, 1, 1), (5, 2, 1), (3, 2, 4), (2, 3, 1), (7, 1, 2)]:
        size += dilation * (kernel - 1) * jump
        jump *= stride
        text += f" conv:4,k{kernel},s{stride},d{dilation}"
        axis = field(text)
        assert (axis.size, axis.stride, axis.padding) == (size, jump, 0)


def test_axes_are_separate():
    axes = last("1x64x64 conv:4,k3x5,s1x2,p1x2").field
    assert [(a.size, a.stride, a.padding) for a in axes] == [(3, 1, 1), (5, 2, 2)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1x64 convt:1,k4,s2,p1", Field(2, 1, (-1, 0), (0, 1))),
        ("1x64 convt:1,k2,s2", Field(2, 1, (0, 0), (0, 0))),
        ("1x64 convt:1,k1,s2", Field(2, 1, (0, None), (0, None))),  # every other output has no input
        ("1x64 convt:1,k2,s2,d3", Field(2, 1, (0, -1), (0, -1))),  # the phases are not in order
        ("1x64 convt:1,k1,s2 conv:1,k2,d2", Field(2, 1, (0, None), (1, None))),
        ("1x64 convt:1,k3,s1,p1", Field(1, 1, (-1,), (1,))),
        ("1x64 convt:1,k4,s2,p1 conv:1,k4,s2,p1", Field(1, 1, (-1,), (1,))),
        ("1x64 upsample:k3", Field(3, 1, (0, 0, 0), (0, 0, 0))),
        ("1x64 upsample:k2,mode=linear", Field(2, 1, (-1, 0), (0, 1))),
        ("1x64 upsample:k2 avgpool:k2", INPUT),
        ("1x12 adaptiveavgpool:4", Field(1, 3, (0,), (2,))),
        ("1x12 adaptiveavgpool:12", INPUT),
        ("1x7 adaptiveavgpool:6", Field(6, 7, (0, 1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6))),
        ("1x10 conv:1,k4,psame", Field(1, 1, (-1,), (2,))),
        ("1x10 conv:1,k3,s2,psame-tf", Field(1, 2, (0,), (2,))),  # all of its padding comes after
        ("1x11 conv:1,k3,s2,psame-tf", Field(1, 2, (-1,), (1,))),
        ("1x64 sum(conv:1,k3,p1 | conv:1,k1,p0 | conv:1,k5,p2.2)", Field(1, 1, (-2,), (2,))),
        ("1x64 cat(maxpool:k2 | conv:1,k6,s2,p2)", Field(1, 2, (-2,), (3,))),
        ("1x64 sum(convt:1,k4,s2,p1 | upsample:k2)", Field(2, 1, (-1, 0), (0, 1))),
    ],
)
def test_exact_fields(text, expected):
    assert field(text) == expected


def test_what_sees_everything():
    for text in ["gap", "flatten linear:10", "adaptiveavgpool:1", "conv:2,k3,p1 gap relu linear:2", "flatten:2"]:
        assert last(f"2x8x8 {text}").field == WHOLE
    assert last("2x8x8 sum(adaptiveavgpool:1 upsample:k8 | )").field == WHOLE
    assert last("2x8x8 adaptiveavgpool:1x8").field[0].size == 8


def test_gates():
    """A gate that has seen everything makes the map see everything; one that has seen a part is undefined."""
    for gate in ["gap linear:2 sigmoid", "adaptiveavgpool:1 conv:2,k1", "conv:2,k8", "conv:1,k1 maxpool:k8"]:
        assert last(f"2x8x8 mul({gate} | conv:2,k3,p1) conv:2,k3").field == WHOLE
    axis = field("2x8x8 mul(conv:1,k1 sigmoid | conv:2,k3,p1)")
    assert axis == Field(1, 1, (-1,), (1,))
    step = last("2x8x8 mul(conv:2,k5,s4 | )")
    assert step.field is None and "a gate of 1x1" in step.undefined
    step = last("2x8x8 mul(adaptiveavgpool:1x8 | )")
    assert step.field is None and "a gate of 1x8" in step.undefined


def test_different_strides_at_a_join_are_undefined():
    step = last("2x2x2 sum(conv:2,k2,s2,p1 | ) relu")
    assert step.field is None
    assert "strides 1 and 2" in step.undefined


def test_periods_do_not_grow_without_end():
    step = last("1x4096 upsample:size=4095 relu")
    assert step.field[0].period == 4095 < PERIOD_LIMIT
    step = last("1x9999 upsample:size=10000 relu")
    assert step.field is None and "10000" in step.undefined
    assert last("1x4 convt:1,k4,s1000000").field is None


def test_sizes_stride_and_padding_of_a_periodic_field():
    axis = field("1x64 convt:1,k3,s2,p1")
    assert (axis.sizes, axis.size, axis.stride, axis.padding) == ((1, 2), 2, 0.5, 0)
    assert axis.interval(0) == (0, 0) and axis.interval(5) == (2, 3) and axis.interval(-1) == (-1, 0)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(0, 9), st.data())
def test_any_reads_of_any_field_by_hand(period, jump, data):
    """What a run of positions sees is the hull of what each one sees, however the field repeats."""
    ends = data.draw(st.lists(st.one_of(st.none(), st.integers(-9, 9)), min_size=period, max_size=period))
    spans = data.draw(st.lists(st.integers(0, 5), min_size=period, max_size=period))
    lo, hi = tuple(ends), tuple(None if e is None else e + s for e, s in zip(ends, spans, strict=True))
    start, step, count = (data.draw(st.integers(*bounds)) for bounds in [(-40, 40), (1, 15), (0, 30)])
    reads = range(start, start + step * count, step)
    before = Field(period, jump, lo, hi)
    after = advance(Verdict((before,)), (Taps(1, data.draw(st.integers(1, 4)), lambda r: reads),))
    seen = [interval for interval in map(before.interval, reads) if interval]
    expected = (min(i[0] for i in seen), max(i[1] for i in seen)) if seen else None
    assert after.reach[0].interval(0) == expected


def test_numbers_stay_bounded():
    """Strides multiply without end; beyond 1e30 a field is refused by name, at once (1e30 exactly is not)."""
    text = "3x8x8 20000*(conv:3,k3,s2,p1)"
    steps = walk(parse(text).graph, (3, 8, 8))
    assert steps[98].field[0].size == 2**100 - 1 and steps[99].field is None and "1e30" in steps[99].undefined
    with pytest.raises(DlkitError, match="conv100 "):
        receptive.answer(text.split(" ", 1))


@pytest.mark.parametrize(
    "text",
    ["1x64 convt:1,k4096,s4095,d4093 conv:2,k4096", "1x4 upsample:size=4095 conv:3,k99999,p50000",
     "1x64 convt:1,k1000000000,s4096", "1x64 convt:1,k4096,s4095 conv:3,k9999,d3,p15000 conv:3,k9,s7"],
)  # fmt: skip
def test_long_patterns_and_huge_kernels_are_no_trouble(text):
    (axis,) = last(text).field
    assert axis.period >= 1 and axis.size > 0


# Autograd's reach ----------------------------------------------------------------------------------


def positive(model):
    """The model with every weight positive, so that no path cancels another."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_().add_(0.1)
    return model.double().eval()


def reach(model, size, o):
    """First and last input position that output position `o` has a gradient at; None where it has none."""
    x = torch.ones(1, 1, size, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[..., o].sum(), x)
    found = (gradient[0, 0].abs() > gradient.abs().max() * 1e-9).nonzero().flatten().tolist()
    return (found[0], found[-1]) if found else None


def agree(text, size, margin=0):
    """Compare every output whose field lies inside the input with what autograd reaches; how many there were."""
    net = parse(text)
    step = walk(net.graph, (1, size))[-1]
    assert isinstance(step.field, tuple), step.undefined
    (axis,) = step.field
    model = positive(build(net.graph, (1, size)))
    length = step.output[1]
    middle = [o for o in range(length) if margin <= o < length - margin]
    start = max(0, len(middle) // 2 - axis.period)
    compared = 0
    for o in middle[start : start + 2 * axis.period][:24]:
        expected = axis.interval(o)
        if expected is None or (expected[0] >= 0 and expected[1] < size):
            assert reach(model, size, o) == expected, (text, o)
            compared += 1
    return compared


_small = st.integers(1, 4)


@st.composite
def local_layer(draw):
    """A layer with a local field on one axis; averages stand for maxima, whose gradient picks one position."""
    k, s, d = draw(_small), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    pad = draw(st.integers(0, k // 2))
    return draw(
        st.sampled_from(
            [
                f"conv:2,k{k},s{s},d{d},p{before}.{after}",
                f"conv:2,k{k},d{d},psame",
                f"conv:2,k{k},s{s},psame-tf",
                f"dwconv:k{k},s{s},p{before}",
                f"avgpool:k{k},s{s},p{pad}",
                f"avgpool:k{k},s{s},psame-tf,count_include_pad=0",
                f"convt:2,k{k},s{s},d{d},p{pad}",
                f"upsample:k{s}",
                f"upsample:k{s},mode=linear",
                f"upsample:k{s},mode=nearest-exact",
                "relu bn",
            ]
        )
    )


@st.composite
def local_net(draw):
    words = draw(st.lists(local_layer(), min_size=1, max_size=4))
    k, d = draw(_small), draw(st.integers(1, 3))
    join = draw(
        st.sampled_from(
            [
                "",
                f"sum(conv:2,k{k},d{d},psame | conv:2,k1)",
                f"cat(conv:2,k{k},d{d},psame | )",
                f"mul(conv:1,k{k},d{d},psame | conv:2,k3,p1)",
            ]
        )
    )
    at = draw(st.integers(0, len(words)))
    return " ".join([*words[:at], join, *words[at:]])


def check_reach(text):
    try:
        compared = agree(text, 240)
    except DlkitError:  # kernels that outgrew the map
        assume(False)
    assume(compared > 0)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(local_net())
@example("convt:2,k2,s2,d3 conv:2,k2")
@example("convt:2,k1,s3 conv:2,k2,d3 convt:2,k3,s2,d3")
def test_reach_agrees_with_autograd(text):
    check_reach(text)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(local_net())
def test_reach_agrees_with_autograd_at_length(text):
    check_reach(text)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear", "linear,align_corners=1"])
@pytest.mark.parametrize(("size", "new"), [(24, 36), (36, 24), (20, 60), (60, 20), (17, 23), (21, 7), (9, 33)])
def test_resizing_agrees_with_autograd(mode, size, new):
    assert agree(f"upsample:size={new},mode={mode}", size, margin=1) > 0
    assert agree(f"upsample:size={new},mode={mode} conv:2,k3,s2", size, margin=1) > 0


@pytest.mark.parametrize(("size", "new"), [(24, 36), (36, 24), (17, 23), (23, 17), (40, 10)])
def test_adaptive_pooling_agrees_with_autograd(size, new):
    assert agree(f"adaptiveavgpool:{new}", size) > 0
    assert agree(f"conv:2,k3,p1 adaptiveavgpool:{new} conv:2,k3,s2", size) > 0


def test_bicubic_reads_four():
    assert field("1x64x64 upsample:k2,mode=bicubic") == Field(2, 1, (-2, -1), (1, 2))


@pytest.mark.parametrize("name", ["resnet18", "alexnet"])
def test_named_networks_agree_with_autograd(name):
    """The whole field of one output pixel, on an input larger than it (N-S021)."""
    text = str(parse(name).graph).partition(" adaptiveavgpool")[0].partition(" gap")[0].replace("maxpool", "avgpool")
    size = {"resnet18": 480, "alexnet": 256}[name]
    net = parse(text)
    step = walk(net.graph, (3, size, size))[-1]
    assert step.field == totals(walk(parse(name).graph, (3, 224, 224))).field
    model = positive(build(net.graph, (3, size, size)))
    x = torch.ones(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    o = step.output[1] // 2
    (gradient,) = torch.autograd.grad(model(x)[0, 0, o, o], x)
    rows = gradient[0].abs().sum((0, 2)).nonzero().flatten().tolist()
    assert (rows[0], rows[-1]) == step.field[0].interval(o)
