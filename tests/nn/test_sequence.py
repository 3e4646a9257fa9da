"""The sequence layers as torch runs them: shapes, parameters, MACs, and that they compute what they say."""

import copy
import pickle
import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dlkit.core.graph import totals, walk
from dlkit.core.layers import show
from dlkit.core.spec import parse
from dlkit.core.zoo_sequence import NETS
from dlkit.nn.build import build
from dlkit.nn.sequence import rotate

BATCH = 2


def made(text):
    """The built network of a text that starts with its shape, in eval mode."""
    net = parse(text)
    return build(net.graph, net.input).eval()


def sample(graph, shape, batch=BATCH):
    """Tokens where the network starts with an embedding, else numbers."""
    first = graph.nodes[0].layer
    if first.op == "embed":
        return torch.randint(first.num_embeddings, (batch, *shape))
    return torch.randn(batch, *shape)


def compare(graph, shape):
    """Every output shape, all parameters and all MACs of the walk against the module that torch runs.

    Attention runs as plain matrix products and recurrent layers without fused kernels, so that all are counted.
    """
    steps, model = walk(graph, shape), build(graph, shape).eval()
    seen = {}
    for name, child in model.named_children():
        child.register_forward_hook(lambda _m, _i, y, name=name: seen.__setitem__(name, tuple(y.shape[1:])))
    x = sample(graph, shape)
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        torch.backends.mkldnn.flags(enabled=False, allow_tf32=None),
        FlopCounterMode(display=False) as counter,
    ):
        model(x)
    whole = totals(steps)
    assert seen == {step.name: step.output for step in steps}
    for step in steps:
        assert sum(p.numel() for p in getattr(model, step.name).parameters()) == step.params, step.text
    assert sum(p.numel() for p in model.parameters()) == whole.params
    assert counter.get_total_flops() == 2 * BATCH * whole.macs


class Draw:
    """Random sequence layers from one seed, each fitted to the width that it gets."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def net(self):
        r = self.random
        length, width = r.randint(1, 9), 4 * r.randint(1, 4)
        start = (length,), f"embed:{r.randint(2, 30)},{width}"
        if r.random() < 0.3:
            start = (length, width), ""
        elif r.random() < 0.2:
            start = (width, 3, length), "tokens"
        words = [start[1], *(self.item(width) for _ in range(r.randint(1, 4)))]
        words.append(r.choice(["", "select:last linear:3", "select:mean", f"lmhead:{r.randint(2, 30)},bias=1"]))
        return start[0], " ".join(words)

    def item(self, width):
        layer = getattr(self, self.random.choice(["attention", "attention", "feed", "recurrent", "simple"]))(width)
        return f"sum(ln {layer} | )" if self.random.random() < 0.5 else layer

    def attention(self, width):
        r = self.random
        heads = r.choice([1, 2, 4])
        kv = r.choice([h for h in (1, 2, 4) if heads % h == 0])
        causal, dim = r.randint(0, 1), r.choice(["", f",dim={2 * r.randint(1, 4)}"])
        rope = ",rope=1" if (width // heads) % 2 == 0 or dim else ""
        extra = r.choice(["", rope, ",relative=8", ",qk_norm=1", ",scale=0", ",dropout=0.1"])
        bias = f",bias={r.randint(0, 1)}" + r.choice(["", ",out_bias=0"])
        return f"attn:{heads},kv={kv},causal={causal}{dim}{extra}{bias}"

    def feed(self, width):
        r = self.random
        act, bias = r.choice(["gelu", "relu", "silu", "gelu-tanh"]), r.randint(0, 1)
        if r.random() < 0.3:
            return f"moe:{r.randint(2, 4)},{r.randint(1, 9)},top={r.randint(1, 2)},gated={bias},act={act}"
        return f"{r.choice(['mlp', 'gmlp'])}:{r.randint(1, 20)},act={act},bias={bias}"

    def recurrent(self, width):
        r = self.random
        both = r.randint(0, 1)
        kind, hidden = r.choice(["rnn", "lstm", "gru"]), width // (1 + both)
        return f"{kind}:{hidden},l{r.randint(1, 3)},bidirectional={both},bias={r.randint(0, 1)}"

    def simple(self, width):
        return self.random.choice(["rms", "ln", "dropout:0.2", "pos:40", "sinpos", "segments", "gelu"])


def compare_drawn(seed):
    shape, text = Draw(seed).net()
    try:
        compare(parse(text).graph, shape)
    except Exception as error:
        error.add_note(f"{show(shape)} {text}")
        raise


@settings(max_examples=250, deadline=None)
@given(st.integers(0, 2**32))
def test_random_stacks_agree_with_torch(seed):
    compare_drawn(seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_random_stacks_agree_with_torch():
    for seed in range(2000):
        compare_drawn(seed)


@pytest.mark.parametrize(
    "text",
    [
        "4x8 cls cls pos",
        "12 embed:9,8 cat(take:5 attn:2 | drop:5 attn:4,causal=1) crossattn:2,5,kv=1,dim=6 lmhead:9,tie=1",
        "12 embed:9,8 sum(attn:2,relative=8 | ) 2*(sum(attn:2,relative=8,tie=1 | )) lmhead:9,tie=1,bias=1",
        "3x16x16 conv:8,k2,s2 channelslast ln:1 sum(swinattn:2,w4,shift=1 | ) patchmerge channelsfirst gap",
        "3x10x7 conv:8,k1 channelslast swinattn:4,w4,shift=1 swinattn:2,w3 patchmerge swinattn:2,w9,shift=1 mlp:5",
        "4x9 tokens select:first",
        "2x3x4x5 tokens channelslast",
    ],
)
def test_networks_agree_with_torch(text):
    net = parse(text)
    compare(net.graph, net.input)


SMALL = {"context": 16, "vocab": 100, "target": 8}
ONE_OF_EACH = {"gpt2", "llama-2-7b", "llama-3-8b", "mixtral-8x7b", "bert-base", "t5-small", "vit_b_16", "swin_t"}


@pytest.mark.parametrize("name", [n if n in ONE_OF_EACH else pytest.param(n, marks=pytest.mark.slow) for n in NETS])
def test_named_networks_on_the_meta_device(name):
    """Parameters and MACs of the whole network as built, against FlopCounterMode; routing needs numbers."""
    options = {key: value for key, value in SMALL.items() if key in NETS[name].options}
    net = parse(":".join([name, ",".join(f"{k}={v}" for k, v in options.items())]) if options else name)
    steps = walk(net.graph, net.input)
    whole = totals(steps)
    with torch.device("meta"):
        model = build(net.graph, net.input).eval()
        assert sum(p.numel() for p in model.parameters()) == whole.params
        if any(step.op == "moe" for step in steps):
            return
        x = torch.zeros(1, *net.input, dtype=torch.long if options else torch.float)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            assert tuple(model(x).shape[1:]) == whole.output
    assert counter.get_total_flops() == 2 * whole.macs


# What they compute -------------------------------------------------------------------------------


def test_causal_attention_sees_no_later_token():  # N-S025
    for extra in ("", ",rope=1", ",w3", ",relative=8"):
        model = made(f"9 embed:20,8 2*(sum(ln attn:2,causal=1{extra} | ) sum(ln mlp:16 | )) lmhead:20,tie=1")
        x = torch.randint(20, (1, 9))
        later = x.clone()
        later[:, 5:] = (x[:, 5:] + 1) % 20
        a, b = model(x), model(later)
        torch.testing.assert_close(a[:, :5], b[:, :5])
        assert not torch.allclose(a[:, 5:], b[:, 5:])


def test_a_window_forgets():
    """Two layers with a window of 3 see 2·2 + 1 positions, which is what the walk says."""
    text = "12x8 2*attn:2,causal=1,w3"
    model, x = made(text), torch.randn(1, 12, 8, requires_grad=True)
    model(x)[0, 9].sum().backward()
    seen = x.grad.abs().sum(-1)[0].nonzero().flatten().tolist()
    (field,) = walk(parse(text).graph, (12, 8))[-1].field
    assert (seen[0], seen[-1]) == field.interval(9) == (5, 9)


@pytest.mark.parametrize("shift", [0, 1])
def test_shifted_windows_see_what_the_walk_says(shift):
    text = f"12x10x8 swinattn:2,w4,shift={shift} patchmerge"
    model, steps = made(text), walk(parse(text).graph, (12, 10, 8))
    x = torch.randn(1, 12, 10, 8, requires_grad=True)
    for row, column in [(0, 0), (2, 3), (5, 4)]:
        (grad,) = torch.autograd.grad(model(x)[0, row, column].sum(), x)
        seen = grad.abs().sum((0, 3)).nonzero()
        for axis, at in enumerate((row, column)):
            low, high = steps[-1].field[axis].interval(at)
            size = (12, 10)[axis]
            assert (seen[:, axis].min(), seen[:, axis].max()) == (max(low, 0), min(high, size - 1))


def test_grouped_queries_are_repeated_keys():
    model, full = made("7x16 attn:4,kv=2,causal=1"), made("7x16 attn:4,causal=1")
    state = model.state_dict()
    for name in ("attn1.k", "attn1.v"):
        for part in ("weight", "bias"):
            heads = state[f"{name}.{part}"].unflatten(0, (2, 4))
            state[f"{name}.{part}"] = heads.repeat_interleave(2, 0).flatten(0, 1)
    full.load_state_dict(state)
    x = torch.randn(BATCH, 7, 16)
    torch.testing.assert_close(model(x), full(x))


def test_attention_is_torchs():
    model, theirs = made("7x16 attn:4"), nn.MultiheadAttention(16, 4, batch_first=True).eval()
    attn = model.attn1
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([attn.q.weight, attn.k.weight, attn.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([attn.q.bias, attn.k.bias, attn.v.bias]))
        theirs.out_proj.load_state_dict(attn.out.state_dict())
    x = torch.randn(BATCH, 7, 16)
    torch.testing.assert_close(model(x), theirs(x, x, x, need_weights=False)[0])


def test_rotation_depends_on_the_distance_alone():
    q, k = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    a, b = rotate(q.expand(1, 1, 30, 8), 10000.0)[0, 0], rotate(k.expand(1, 1, 30, 8), 10000.0)[0, 0]
    scores = a @ b.T
    for distance in (0, 3, -7):
        row = scores.diagonal(distance)
        torch.testing.assert_close(row, row[:1].expand_as(row), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(a.norm(dim=-1), q.norm().expand(30), rtol=1e-5, atol=1e-6)


def test_a_tied_head_shares_the_weight():
    model = made("5 embed:20,8 lmhead:20,tie=1")
    assert list(model.state_dict()) == ["embed1.weight"]
    for copied in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model).double()):
        with torch.no_grad():
            copied.embed1.weight.fill_(1.0)
        assert torch.all(copied(torch.zeros(1, 5, dtype=torch.long)) == 8)


def test_experts_are_weighted():
    model = made("5x8 moe:4,16,top=2")
    moe, x = model.moe1, torch.randn(1, 5, 8)
    scores = moe.router(x)
    top, chosen = scores.topk(2, -1)
    expected = torch.stack(
        [
            sum(w * moe.experts[i](x[:, t]) for w, i in zip(top[0, t].softmax(-1), chosen[0, t], strict=True))
            for t in range(5)
        ],
        1,
    )
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    "text",
    [
        "9 embed:20,8 pos sum(rms attn:2,kv=1,causal=1,w4,rope=1,qk_norm=1 | ) sum(rms moe:4,9 | ) lmhead:20,tie=1",
        "9 embed:20,8 sinpos attn:2,relative=8 attn:2,relative=8,tie=1 lstm:8 crossattn:2,3 gmlp:9",
        "3x20x20 conv:8,k2,s2 channelslast swinattn:2,shift=1 patchmerge ln:1 mlp:9 channelsfirst tokens cls pos",
    ],
)
def test_mixed_precision(text):
    """Forward and backward under autocast, near the full precision; and with all weights in bfloat16."""
    torch.manual_seed(0)
    net, model = parse(text), made(text)
    x = sample(net.graph, net.input)
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    torch.testing.assert_close(y.float(), exact, rtol=0.1, atol=0.2)
    half = model.bfloat16()
    assert half(x if x.dtype == torch.long else x.bfloat16()).dtype == torch.bfloat16


def test_recurrent_layers_are_torchs():
    model = made("6x5 gru:7,l2,bidirectional=1")
    theirs = nn.GRU(5, 7, 2, bidirectional=True, batch_first=True)
    theirs.load_state_dict(model.gru1.network.state_dict())
    x = torch.randn(BATCH, 6, 5)
    assert torch.equal(model(x), theirs(x)[0])


def test_sinusoidal_positions():
    y = made("5x4 sinpos")(torch.zeros(1, 5, 4))[0]
    torch.testing.assert_close(y[:, 0], torch.arange(5.0).sin())
    torch.testing.assert_close(y[:, 3], (torch.arange(5.0) / 100).cos())


def test_cross_attention_looks_at_the_memory_alone():
    model = made("9x8 crossattn:2,4")
    x = torch.randn(1, 9, 8, requires_grad=True)
    model(x)[0, 2].sum().backward()
    seen = x.grad.abs().sum(-1)[0].nonzero().flatten().tolist()
    assert seen == [0, 1, 2, 3, 6]


def test_a_transformer_learns():
    """Gradients reach every parameter, and the loss falls."""
    torch.manual_seed(0)
    model = made("8 embed:10,16 pos 2*(sum(ln attn:2,causal=1 | ) sum(ln mlp:32 | )) ln lmhead:10,tie=1").train()
    x = torch.arange(8).repeat(4, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
