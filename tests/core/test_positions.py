"""Where positions lie, T×D or C×L: fields of sequence networks, and the reach that autograd sees (N-S021)."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlkit.core.errors import DlkitError
from dlkit.core.field import WHOLE, Field
from dlkit.core.graph import totals, walk
from dlkit.core.positions import extent
from dlkit.core.receptive import answer
from dlkit.core.shapes import sizes, table
from dlkit.core.spec import parse
from dlkit.nn.build import build
from dlkit.nn.trace import trace


def last(text):
    net = parse(text)
    return walk(net.graph, net.input)[-1]


def size(text):
    net = parse(text)
    whole = totals(walk(net.graph, net.input))
    return sizes(whole.field, extent(net.graph.nodes, net.input), whole.positions)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("gpt2", [1024]),
        ("bert-base", [512]),
        ("mistral-7b", [131_041]),  # 32 windows of 4,096 add up
        ("llama-2-7b:context=64", [64]),
        ("vit_b_16", [224, 224]),
        ("128x64 attn:8", [128]),
        ("128x64 ln mlp:9 linear:5", [1]),
        ("100x32 lstm:8", [100]),
        ("100x32 gru:8,bidirectional=1 linear:4", [100]),
        ("64x100 conv:8,k5", [5]),
        ("64x100 relu bn conv:8,k5", [5]),
        ("64x100 conv:8,k5 channelslast attn:2", [100]),
        ("100x64 channelsfirst conv:8,k5,s2 conv:8,k3 channelslast mlp:4", [9]),
        ("64x100 linear:8", [1]),  # T×D: the first layer that minds works on the last axis
        ("8x100 conv:8,k1 linear:8", [100]),  # C×L: the same layer takes all positions in
        ("16x12 softmax mlp:4", [16]),  # torch's dimension 1 of T×D are the positions
        ("16x12 softmax:2 mlp:4", [1]),
        ("12x16 softmax conv:4,k1", [1]),
        ("12x16 softmax:2 conv:4,k1", [16]),
        ("3x32x32 conv:8,k4,s4 tokens mlp:9", [4, 4]),
        ("3x32x32 conv:8,k4,s4 tokens mlp:9 attn:2", [32, 32]),
        ("30x20x3 mlp:4", [1, 1]),
        ("3x30x20 conv:4,k3 mlp:4", [3, 20]),
        ("50 embed:9,8 take:20 attn:2", [20]),
        ("50 embed:9,8 drop:20 sum(ln attn:2 | )", [30]),
        ("50 take:20 embed:9,8 attn:2", [20]),
        ("50x8 take:20 attn:2,causal=1", [20]),
        ("50x8 take:20 gru:4", [20]),
        ("12x9 relu tanh", [1]),
    ],
)
def test_sizes(text, seen):
    assert size(text) == seen


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("9x8 attn:2,causal=1", Field(1, 1, (float("-inf"),), (0,))),
        ("9x8 attn:2,causal=1,w4 attn:2,causal=1,w3", Field(1, 1, (-5,), (0,))),
        ("9x8 lstm:4 channelsfirst conv:4,k3,p1 channelslast gru:4", Field(1, 1, (float("-inf"),), (1,))),
        ("9x8 drop:4 attn:2", Field(1, 0, (4,), (8,))),
        ("9x8 crossattn:2,5", Field(1, 1, (float("-inf"),), (5,))),
        ("9x8 attn:2,causal=1 select:first linear:3 relu", Field(1, 0, (float("-inf"),), (0,))),
    ],
)
def test_fields(text, field):
    assert last(text).field == (field,)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("9x8 linear:8 cat(take:4 | drop:4)", "one after the other"),
        ("t5-small", "cat1"),
        ("8x8 linear:8 sum(channelsfirst | )", "different axes"),
        ("9x8 drop:4 lstm:4", "cut off"),
        ("9x8 linear:8 maxpool:k2", "maxpool takes for channels"),
        ("3x8x8 tokens cls", "cls runs over"),
        ("9x8 linear:8 sum(take:5 attn:2 | drop:4)", "strides 0 and 1"),
    ],
)
def test_what_cannot_be_said_is_named(text, phrase):
    with pytest.raises(DlkitError) as caught:
        answer(text.split(" ", 2 if "(" in text else -1))
    assert phrase in caught.value.message


def test_a_vector_sees_its_input_whichever_way_it_lies():
    assert [row["rf"] for row in table(["8x16", "flatten", "linear:9"]).rows] == [[16], [16]]
    assert [row["rf"] for row in table(["16", "linear:9"]).rows] == [[16]]


def test_the_table_and_the_field_agree():
    found = table(["64x16", "attn:2,causal=1", "linear:4"])
    assert [(row["rf"], row["jump"]) for row in found.rows] == [([64], [1])] * 2
    assert found.summary["rf"] == [64]


def test_causal_is_said():
    assert "all that are before" in answer(["gpt2"]).notes[0]
    assert "131,040 before" in answer(["mistral-7b"]).notes[0]
    assert not answer(["bert-base"]).notes
    seen = answer(["20x8", "gru:8"], pixel="5").summary
    assert (seen["slice"], seen["box"], seen["padding"], seen["center"]) == ("0:6", [(0, 5)], None, None)


# Autograd's reach ----------------------------------------------------------------------------------


class Draw:
    """Random sequence networks; positions are fewer than 10 and channels more, so that shapes tell the axes apart."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def net(self):
        r = self.random
        length, width = r.randint(4, 9), 2 * r.randint(5, 8)
        last = r.random() < 0.7
        words = [f"{length}x{width} linear:{width}" if last else f"{width}x{length} conv:{width},k1"]
        for _ in range(r.randint(1, 4)):
            if r.random() < 0.25:
                words.append("channelsfirst" if last else "channelslast")
                last = not last
            words.append(self.along(width) if last else self.across(width))
        return " ".join(words)

    def along(self, width):
        r = self.random
        layer = r.choice(
            [
                f"attn:2,causal={r.randint(0, 1)}",
                f"attn:2,causal=1,w{r.randint(1, 3)}",
                f"{r.choice(['lstm', 'gru', 'rnn'])}:{width},l{r.randint(1, 2)}",
                f"gru:{width // 2},bidirectional=1",
                *(f"mlp:{r.randint(10, 13)}", f"gmlp:{r.randint(10, 13)}", f"linear:{width}", f"moe:2,{width}"),
                *("gelu", "rms", "pos", f"softmax:{r.choice(['1', '2', '-1'])}", "bn"),
            ]
        )
        shape = r.choice(["take:3", "drop:1", "cls", "sinpos"])
        return r.choice([layer, layer, f"sum(ln {layer} | )", f"mul({layer} | silu)", shape])

    def across(self, width):
        r = self.random
        k, d = r.choice([(1, 1), (2, 1), (3, 1), (3, 2)])
        layer = f"conv:{width},k{k},d{d},psame,g{r.choice([1, 2])}"
        shapes = ["upsample:k2", "avgpool:k2", "tokens channelsfirst", f"conv:{width},k{2 * d + 1},s2,p{d}"]
        others = ["bn silu", f"dwconv:k{k},psame", "softmax", f"linear:{r.randint(10, 13)}", "attn:1"]
        return r.choice([layer, f"sum({layer} | )", *shapes, *others])


def reached(gradient, axis):
    """First and last position along an axis of the input with a gradient."""
    hit = gradient.abs().sum(1 - axis).nonzero().flatten().tolist()
    return (hit[0], hit[-1]) if hit else None


def compare_with_autograd(seed):
    """Every position of the last map; False where the walk has no field, or the drawn network does not fit."""
    text = Draw(seed).net()
    net = parse(text)
    try:
        step = walk(net.graph, net.input)[-1]
    except DlkitError:
        return False
    if step.field is None or step.positions == step.output[:-1] == step.output[1:]:
        return False
    (end,) = extent(net.graph.nodes, net.input)
    torch.manual_seed(seed)
    model = build(net.graph, net.input).double().eval()
    x = torch.randn(1, *net.input, dtype=torch.float64, requires_grad=True)
    y = model(x)
    weights = torch.randn_like(y)
    # the ends of what is cut off are borders, which a field does not clip
    cut = any(f" {word}" in text for word in ("take", "drop", "avgpool"))
    at = 1 if step.positions == step.output[1:] and step.positions != step.output[:-1] else 0
    for o in range(step.output[at]):
        (gradient,) = torch.autograd.grad((y * weights).select(1 + at, o).sum(), x, retain_graph=True)
        found = reached(gradient[0], 0 if end == net.input[0] else 1)
        if found is None and " cls" in text:  # the position of a learned vector sees nothing yet
            continue
        seen = (0, end - 1) if step.field == WHOLE else step.field[0].interval(o)
        low, high = (max(seen[0], 0), min(seen[1], end - 1)) if seen else (0, -1)
        inside = seen is None or seen in ((low, high), (float("-inf"), high))
        if inside and not cut:
            assert found == (seen and (low, high)), (text, o)
        elif found is not None:
            assert low <= found[0] and found[1] <= high, (text, o)
    return True


def traced_as_walked(seed):
    """A built network traced: the field that the walk has, or none. A mask that is written out hides what it hides."""
    text = Draw(seed).net().replace("moe:2,", "mlp:")  # which routes by value, and is not traced
    net = parse(text)
    try:
        step = walk(net.graph, net.input)[-1]
    except DlkitError:
        return False
    traced = trace(build(net.graph, net.input), net.input)
    found, seen = traced.steps[-1].field, step.field
    assert traced.extent == extent(net.graph.nodes, net.input), text
    if found is None or seen is None:
        return False
    said, known = (sizes(f, traced.extent, step.positions) for f in (found, seen))
    # A mask as long as the sequence, or longer, does not tell a window from all that is before.
    start = isinstance(seen, tuple) and seen[0].interval(max(step.positions[0] - 1, 0))
    long = start and start[0] <= 0 and found[0].lo[0] == float("-inf")
    assert found == seen or said == known or long, (text, found, seen)
    return True


def test_random_sequences_trace_as_they_walk():
    assert sum(map(traced_as_walked, range(40))) > 25


def test_random_sequences_reach_as_far_as_gradients():
    assert sum(map(compare_with_autograd, range(120))) > 60


@pytest.mark.slow
def test_random_sequences_trace_as_they_walk_at_length():
    assert sum(map(traced_as_walked, range(40, 600))) > 400


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(st.integers(0, 2**32))
def test_random_sequences_reach_as_far_as_gradients_at_length(seed):
    compare_with_autograd(seed)
