"""Sequence layers and named transformers: published counts, text round trips, reach, and what they refuse."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import python_calls

from dlkit.core import explain, explain_sequence, layers, zoo
from dlkit.core.arguments import Choice, Flag, Real, Whole
from dlkit.core.columns import Widths
from dlkit.core.errors import DlkitError
from dlkit.core.field import WHOLE
from dlkit.core.graph import owners, totals, walk
from dlkit.core.sequence import CATALOGUE
from dlkit.core.spec import parse
from dlkit.core.zoo_sequence import NETS


def steps_of(text):
    net = parse(text)
    return walk(net.graph, net.input)


def whole(text):
    return totals(steps_of(text))


# Published figures ---------------------------------------------------------------------------------

# What transformers (Hugging Face) counts for the published checkpoints; a tied head is no second table.
PARAMETERS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
}
# GPT-3, table D.1, in millions, as printed
MILLIONS = {
    "gpt3-125m": 125,
    "gpt3-350m": 356,
    "gpt3-760m": 760,
    "gpt3-1.3b": 1320,
    "gpt3-2.7b": 2650,
    "gpt3-6.7b": 6660,
    "gpt3-13b": 12850,
    "gpt3-175b": 174600,
}
# torchvision's metadata: parameters and GMACs (named GFLOPS there)
VISION = {
    "vit_b_16": (86_567_656, 17.564),
    "vit_b_32": (88_224_232, 4.409),
    "vit_l_16": (304_326_632, 61.555),
    "vit_l_32": (306_535_400, 15.378),
    "swin_t": (28_288_354, 4.491),
    "swin_s": (49_606_258, 8.741),
    "swin_b": (87_768_224, 15.431),
}


def test_every_name_is_checked():
    assert {*PARAMETERS, *MILLIONS, *VISION, "gpt", "bert", "vit", "swin"} == set(NETS)


@pytest.mark.published
@pytest.mark.parametrize("name", PARAMETERS)
def test_published_parameters(name):
    assert whole(name).params == PARAMETERS[name]


@pytest.mark.published
def test_bert_of_any_size_is_that_of_the_published_masked_language_model():
    """What transformers counts of BertForMaskedLM: no pooler, a transform, a head tied to the embedding, its bias."""
    assert whole("bert:layers=12,width=768,heads=12,context=512").params == 109_514_298
    encoder = PARAMETERS["bert-base"] - 768 * 768 - 768
    assert whole("bert:layers=12,width=768,heads=12,context=512,classes=5").params == encoder + 5 * 769


@pytest.mark.published
@pytest.mark.parametrize(
    ("any_size", "name"),
    [
        ("gpt:layers=12,width=768,heads=12,context=1024,vocab=50257", "gpt2"),
        ("vit:layers=12,width=768,heads=12,patch=16,size=224,classes=1000", "vit_b_16"),
    ],
)
def test_of_any_size_is_that_of_the_published_size(any_size, name):
    assert (whole(any_size).params, whole(any_size).macs) == (whole(name).params, whole(name).macs)


@pytest.mark.published
def test_swin_of_any_size():
    """Counted by hand: two norms, four projections, a bias for each relative position and head, two dense layers."""
    width, wide = 64, 128
    block = lambda w, h: 4 * w + 4 * (w * w + w) + 7 * 7 * h + 8 * w * w + 5 * w  # noqa: E731
    parts = [3 * 4 * width + width + 2 * width, 2 * block(width, 2), 8 * width**2 + 8 * width, 2 * block(wide, 4)]
    assert whole("swin").params == sum(parts) + 2 * wide + 10 * wide + 10
    assert whole("swin:depth=3").params - whole("swin").params == block(width, 2) + block(wide, 4)


@pytest.mark.published
@pytest.mark.parametrize("name", MILLIONS)
def test_published_millions(name):  # table D.1 rounds to three or four digits
    assert whole(name).params / 1e6 == pytest.approx(MILLIONS[name], rel=0.004)


@pytest.mark.published
@pytest.mark.parametrize("name", VISION)
def test_published_vision_counts(name):
    counted = whole(name)
    assert (counted.params, round(counted.macs / 1e9, 3)) == VISION[name]
    assert counted.output == (1000,)


@pytest.mark.published
def test_a_mixture_uses_some_of_its_parameters():
    assert whole("mixtral-8x7b").active_params == 12_879_925_248
    assert whole("llama-2-7b").active_params == PARAMETERS["llama-2-7b"]


def test_options():
    assert whole("gpt2:vocab=50304").params == PARAMETERS["gpt2"] + 47 * 768
    assert whole("gpt2:context=64").params == PARAMETERS["gpt2"]
    assert whole("gpt2:context=2048").params == PARAMETERS["gpt2"] + 1024 * 768  # the table grows with the context
    assert whole("llama-3-8b:context=16").output == (16, 128256)
    assert whole("t5-small:context=100,target=7").output == (7, 32128)
    assert whole("vit_b_16:classes=10").output == (10,)


def test_the_largest_is_instant():
    assert whole("llama-3.1-405b").params == PARAMETERS["llama-3.1-405b"]
    assert python_calls(lambda: whole("llama-3.1-405b")) < 100_000


# Formulas -------------------------------------------------------------------------------------------


def test_attention_products():  # N-S024 N-S026 N-S028: projections N·d·d, products N·M·d each, of all heads together
    length, width = 100, 64
    (step,) = steps_of(f"{length}x{width} attn:8")
    assert step.params == 4 * width * (width + 1)
    assert step.layer.projection_macs((length, width)) == 4 * length * width**2
    assert step.layer.product_macs((length, width)) == 2 * length**2 * width
    assert step.macs == 4 * length * width**2 + 2 * length**2 * width
    assert steps_of(f"{length}x{width} attn:1")[0].macs == step.macs


def test_a_window_counts_what_is_in_it():
    (full,), (windowed,) = steps_of("100x64 attn:8,causal=1"), steps_of("100x64 attn:8,causal=1,w10")
    assert full.macs - windowed.macs == 2 * 100 * 90 * 64


@pytest.mark.parametrize(
    ("text", "params", "macs"),
    [
        ("9 embed:50,8", 400, 0),
        ("9x8 pos", 72, 0),
        ("9x8 pos:20 sinpos segments:3", 160 + 24, 0),
        ("9x8 cls pos", 8 + 80, 0),
        ("9x8 attn:4,kv=2,bias=0", 2 * 64 + 2 * 8 * 4, 9 * 192 + 2 * 81 * 8),
        ("9x8 attn:4,dim=6,qk_norm=1,out_bias=0", 4 * 8 * 24 + 72 + 12, 9 * 768 + 2 * 81 * 24),
        ("9x8 attn:2,relative=32 attn:2,relative=32,tie=1", 2 * 4 * 72 + 64, 2 * (4 * 9 * 64 + 2 * 81 * 8)),
        ("9x8 crossattn:2,5", 4 * 72, 2 * 64 * (4 + 5) + 2 * 4 * 5 * 8),
        ("9x8 mlp:32", 2 * 256 + 40, 9 * 512),
        ("9x8 gmlp:32", 768, 9 * 768),
        ("9x8 moe:4,32,top=1", 32 + 4 * 768, 9 * (32 + 768)),
        ("9x8 moe:4,32,top=2,gated=0", 32 + 4 * 512, 9 * (32 + 1024)),
        ("9x8 lmhead:50,bias=1", 450, 9 * 400),
        ("9 embed:50,8 lmhead:50,tie=1", 400, 9 * 400),
        ("9x8 lstm:16", 4 * 16 * (8 + 16 + 2), 9 * 4 * 16 * 24),
        ("9x8 gru:16,l2,bidirectional=1,bias=0", 2 * 3 * 16 * (8 + 16 + 32 + 16), 9 * 2 * 3 * 16 * 72),
        ("8x6x4 swinattn:2,w4", 4 * 20 + 49 * 2, 64 * 4 * 16 + 2 * 64 * 16 * 4),
        ("7x6x4 patchmerge", 16 * 8 + 32, 4 * 3 * 128),
    ],
)
def test_parameters_and_macs(text, params, macs):
    counted = whole(text)
    assert (counted.params, counted.macs) == (params, macs)


def test_numbers_are_python_integers():
    for step in steps_of("mixtral-8x7b") + steps_of("t5-small") + steps_of("swin_t"):
        numbers = (*step.output, step.params, step.macs, step.activations, step.active_params)
        assert all(type(n) is int for n in numbers)


EXPLAINED = [
    "9 embed:50,8 pos:20 segments:3 sum(ln attn:4,kv=2,causal=1,w5,qk_norm=1 | ) lmhead:50,tie=1,bias=1",
    "9x8 attn:2,relative=8,out_bias=0 attn:2,relative=8,tie=1,bias=0 mlp:5 mlp:7,bias=0 gmlp:5 gmlp:3,bias=1 pos",
    "9x8 crossattn:2,5,kv=1,dim=3 moe:4,6 moe:4,6,top=1,gated=0 lmhead:7",
    "9x8 lstm:6 gru:4,l3,bidirectional=1 rnn:5,bias=0 lmhead:7,bias=1",
    "3x15x9 channelslast swinattn:3,w4 swinattn:1,w2,bias=0,shift=1 patchmerge",
]


def test_norms_are_explained():
    steps = steps_of("3x8x8 ln rms ln:bias=0,dims=1")
    assert [explain.formula(step).partition("; ")[2] for step in steps] == [
        "params 2·3·8·8 = 384",
        "params 3·8·8 = 192",
        "params 8 = 8",
    ]


@pytest.mark.parametrize("text", EXPLAINED)
def test_formulas_give_the_numbers(text):
    explained = 0
    for step in steps_of(text):
        for formula, value in ((explain_sequence.params(step), step.params), (explain_sequence.macs(step), step.macs)):
            if formula:
                explained += 1
                written = formula.replace("·", "*").replace("²", "**2").replace("−", "-")
                assert eval(written, {"__builtins__": {}}) == value, (step.text, formula)
                assert f"{formula} = {value}" in explain.formula(step)
            else:
                assert not value or step.op in ("ln", "channelslast"), step.text
    assert explained >= 5


# Reach ----------------------------------------------------------------------------------------------


def test_tokens_become_an_axis():
    steps = steps_of("100 embed:9,8 3*(sum(rms attn:2,causal=1,w5 | ) sum(rms mlp:9 | )) lmhead:9")
    (field,) = steps[-1].field
    assert (field.size, field.stride, field.padding) == (1 + 3 * 4, 1, 12)
    assert steps_of("100 embed:9,8 attn:2")[-1].field == WHOLE
    assert steps_of("100 embed:9,8 drop:7 take:3")[-1].field[0].interval(0) == (7, 7)
    assert steps_of("100 embed:9,8 cls")[-1].field[0].interval(5) == (4, 4)


def test_mistral_sees_a_window_a_layer():
    (field,) = whole("mistral-7b").field
    assert field.size == 1 + 32 * 4095


# Text -----------------------------------------------------------------------------------------------

OWN = sorted({kind for kind in CATALOGUE.values() if kind not in layers.CATALOGUE.values()}, key=lambda k: k.names)


def values(kind):
    match kind:
        case Whole():
            return st.integers(kind.low, kind.low + 8)
        case Flag():
            return st.booleans()
        case Real():
            return st.floats(max(kind.low, -1e300), min(kind.high, 1e300))
        case Widths():
            return st.lists(st.integers(1, 9), min_size=1, max_size=6).map(tuple)
        case Choice():
            return st.sampled_from(kind.words)
    raise AssertionError(kind)


@st.composite
def a_layer(draw):
    kind = draw(st.sampled_from(OWN))
    given_values = {
        a.name: draw(values(a.kind) | (st.none() if a.default is None else st.nothing())) for a in kind.arguments
    }
    try:
        return kind(**given_values)
    except DlkitError:  # arguments that contradict each other
        assume(False)


@settings(max_examples=300, deadline=None)
@given(a_layer())
def test_a_layer_is_its_text(layer):
    again = parse(str(layer)).graph.nodes[0].layer
    assert again == layer and hash(again) == hash(layer)
    assert str(again) == str(layer)


@pytest.mark.parametrize("name", NETS)
def test_texts_are_networks(name):
    net = parse(zoo.text(name))
    assert net.input == zoo.info(name).input
    assert net.graph == parse(name).graph == parse(str(net.graph)).graph
    assert max(len(line) for line in zoo.text(name).splitlines()) <= 120


def test_words():
    graph = parse("attn:12,kv=4,causal=1,window=64,dim=32 moe:8,64,top=1 select:which=mean").graph
    assert str(graph) == "attn:12,kv4,dim32,causal=1,w64 moe:8,64,top=1 select:mean"
    assert parse("embed:50257,768").graph == parse("embed:embedding_dim=768,num_embeddings=50257").graph


def test_a_tied_layer_takes_the_nearest_before_it():
    steps = steps_of("5 embed:9,8 attn:2,relative=4 attn:2,relative=4,causal=1 attn:2,relative=4,tie=1 lmhead:9,tie=1")
    assert owners(steps) == {3: 1, 4: 0}


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("5x8 embed:9,8", ["embed1", "5x8", "tokens", "1024"]),
        ("5 attn:2", ["attn1", "T×D", "embed"]),
        ("5x8 attn:3", ["width 8", "3 heads"]),
        ("5x6 attn:2,rope=1", ["even width, not 3"]),
        ("5x7 sinpos", ["even width, not 7"]),
        ("5x8 pos:4", ["4 positions", "5"]),
        ("5x8 crossattn:2,5", ["more positions", "5"]),
        ("5x8 drop:5", ["nothing is left", "5"]),
        ("5x8 take:6", ["at least 6"]),
        ("5x8 lmhead:9,tie=1", ["lmhead1", "embed:9,8 before it"]),
        ("5 embed:10,8 lmhead:9,tie=1", ["embed:9,8 before it"]),
        ("5x8 attn:2,relative=8,tie=1", ["attn:2,relative=8 before it"]),
        ("5x8 attn:2,relative=8 attn:2,relative=8,causal=1,tie=1", ["causal=1 before it"]),
        ("5x8 swinattn:2", ["H×W×C", "channelslast"]),
        ("5x5x8 swinattn:3", ["width 8", "3 heads"]),
        ("5x8 tokens lstm:4 select:last tokens", ["tokens2", "C×H×W"]),
        ("5x5x8 lmhead:9", ["lmhead1", "T×D or a vector"]),
    ],
)
def test_misfits(text, phrases):
    net = parse(text)
    with pytest.raises(DlkitError) as caught:
        walk(net.graph, net.input)
    assert "\n" not in caught.value.message
    for phrase in phrases:
        assert phrase in caught.value.message


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("embed:50257", ["embed needs its width", "embed:50257,768"]),
        ("embed:1,2,3", ["given twice"]),
        ("attn:0", ["attn's heads is '0'", "[1, "]),
        ("attn:nan", ["attn's heads is 'nan'"]),
        ("attn:4,kv=3", ["4 heads", "3 kv_heads"]),
        ("attn:4,w3", ["window", "causal=1"]),
        ("attn:4,tie=1", ["relative"]),
        ("moe:2,8,top=3", ["top 3", "2 experts"]),
        ("mlp:8,act=tanh", ["act is 'tanh'", "gelu"]),
        ("select:middle", ["select", "middle"]),
        ("gpt2:layers=3", ["no option 'layers'", "context=1024, vocab=50257"]),
        ("gpt2:context=-1", ["context is '-1'"]),
        ("lama-2-7b", ["llama-2-7b"]),
    ],
)
def test_mistakes(text, phrases):
    with pytest.raises(DlkitError) as caught:
        parse(text)
    for phrase in phrases:
        assert phrase in caught.value.message, caught.value.message
