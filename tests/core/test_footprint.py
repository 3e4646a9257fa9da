"""`memory` against published figures: ZeRO, Megatron's activations, KV caches, LoRA and QLoRA, Adafactor's rows."""

import math
import re
from itertools import pairwise

import pytest
from support import python_calls

from dlkit.core import hardware, matrices, memory, model
from dlkit.core.errors import DlkitError
from dlkit.core.footprint import Plan, cache_elements, parts
from dlkit.core.graph import walk
from dlkit.core.matrices import Lora, adapter_params, parse_lora
from dlkit.core.memory import Room, largest_batch, levers
from dlkit.core.saved import blocks
from dlkit.core.spec import parse

GIB = 1 << 30


def total(words, context=None, **settings):
    return sum(part.bytes or 0 for part in parts(model.read([words], context, "memory"), Plan(**settings)))


def component(name, words, context=None, **settings):
    found = parts(model.read([words], context, "memory"), Plan(**settings))
    return next(part.bytes for part in found if part.component == name)


# Model states ---------------------------------------------------------------------------------------


@pytest.mark.published
@pytest.mark.parametrize(("stage", "gigabytes"), list(enumerate((120, 31.4, 16.6, 1.9))))
def test_zero(stage, gigabytes):  # N-S163
    """Rajbhandari et al. 2020, figure 1: 7.5B parameters on 64 GPUs, in GB of 10⁹."""
    assert total("7.5B", gpus=64, zero=stage) / 1e9 == pytest.approx(gigabytes, abs=0.05)


@pytest.mark.published
def test_sixteen_bytes_a_parameter():  # N-S030 N-S031
    assert total("1B") == 16 * 10**9
    assert total("1B", precision="fp32") == 16 * 10**9
    assert total("1B", precision="pure-bf16") == 8 * 10**9
    named = {part.component: part.bytes // 10**9 for part in parts(10**9, Plan()) if part.bytes}
    assert named == {"weights": 2, "gradients": 2, "optimiser states": 8, "fp32 master weights": 4}


@pytest.mark.published
@pytest.mark.parametrize("ranks", [1, 2, 8, 64])
def test_megatron_counts_18_or_6_plus_12_over_dp(ranks):
    assert total("64B", convention="megatron") == 18 * 64 * 10**9
    assert total("64B", convention="megatron", gpus=ranks, zero=1) == 6 * 64 * 10**9 + 12 * 64 * 10**9 // ranks


@pytest.mark.parametrize(
    ("optimizer", "each"), {"sgd": 0, "momentum": 4, "lion": 4, "adam": 8, "adamw": 8, "adam8bit": 2}.items()
)
def test_optimisers(optimizer, each):
    states = component("optimiser states", "2048M", optimizer=optimizer)
    constants = 8 * 10**6 if optimizer == "adam8bit" else 0  # two 32-bit ones for each block of 2,048
    assert states == each * 2048 * 10**6 + constants


def test_factored_states_need_shapes():
    assert component("optimiser states", "1B", optimizer="adafactor") is None
    assert component("optimiser states", "12 linear:8", optimizer="adafactor") == 4 * (12 + 8 + 8)
    text = "16 embed:100,32 attn:4,bias=0 ln:bias=0 lmhead:100"
    assert component("optimiser states", text, optimizer="muon") == 4 * (4 * 32**2 + 2 * (2 * 3200 + 32))


def test_sharding_is_by_data_parallel_ranks_not_the_world():
    assert total("64B", gpus=64, tensor=8, zero=3) == 16 * 64 * 10**9 // 64
    assert component("weights", "64B", gpus=64, tensor=8, zero=1) == 2 * 8 * 10**9
    assert component("optimiser states", "64B", gpus=64, tensor=8, pipeline=2, zero=1) == 8 * 4 * 10**9 // 4
    with pytest.raises(DlkitError, match=r"6 GPUs do not divide into --tp 4"):
        total("1B", gpus=6, tensor=4)


# Activations ----------------------------------------------------------------------------------------


def gpt_layers(s, h, a, layers):
    """GPT layers alone, with their dropout, as Korthikanti et al. 2022 count them."""
    block = f"sum(ln attn:{a},causal=1,dropout=0.1 dropout:0.1 | ) sum(ln mlp:{4 * h} dropout:0.1 | )"
    return f"{s}x{h} {layers}*({block})"


def layer_bytes(t=1, **settings):
    """Bytes that one layer of GPT-3 175B keeps of a sample of 2,048 tokens; statistics of norms (2·8·s) left out."""
    s, h, a = 2048, 12288, 96
    many, few = (
        sum(
            p.bytes
            for p in parts(
                model.read([gpt_layers(s, h, a, n)], None, "memory"),
                Plan(tensor=t, gpus=t, attention="plain", **settings),
            )
            if "activ" in p.component
        )
        for n in (3, 2)
    )
    norms = 2 * 8 * s
    return many - few - (norms // t if settings.get("sequence_parallel") else norms)


@pytest.mark.published
@pytest.mark.parametrize("t", [1, 2, 8])
def test_activations_of_a_layer(t):
    """Korthikanti et al. 2022, table 2: sbh(10 + 24/t + 5as/ht); with sequence parallelism sbh/t·(34 + 5as/h)."""
    s, h, a = 2048, 12288, 96
    assert layer_bytes(t) == s * h * (10 * t + 24) // t + 5 * a * s * s // t
    assert layer_bytes(t, checkpoint="selective") == s * h * (10 * t + 24) // t
    assert layer_bytes(t, sequence_parallel=True) == (34 * s * h + 5 * a * s * s) // t
    assert layer_bytes(t, sequence_parallel=True, checkpoint="selective") == 34 * s * h // t


@pytest.mark.published
def test_gpt3_175b_at_tensor_parallel_8():
    """552 MiB a layer, 312 MiB with selective recomputation."""
    assert layer_bytes(8) == 552 << 20
    assert layer_bytes(8, checkpoint="selective") == 312 << 20


def test_full_checkpointing_keeps_block_inputs():  # N-S160
    """2sbh a layer, and what the block at hand needs while it is recomputed."""
    s, h, a, layers = 512, 256, 4, 6
    text = gpt_layers(s, h, a, layers)
    assert component("block inputs", text, checkpoint="full") == 2 * s * h * layers
    whole = component("activations", text, attention="plain")
    again = component("block being recomputed", text, checkpoint="full", attention="plain")
    # the last block's output is nobody's input, and a block's own input is counted with the inputs
    assert whole == layers * (again + 2 * s * h)


def test_flash_keeps_no_scores():
    """It keeps one fp32 number a row and head instead; without dropout a score is kept once, at 16 bits."""
    plain, flash = (component("activations", "llama-2-7b", context=2048, attention=kind) for kind in ("plain", "flash"))
    s, a, layers = 2048, 32, 32
    assert plain - flash == layers * a * (2 * s * s - 4 * s)


def test_pipeline_holds_a_micro_batch_a_stage():
    text = gpt_layers(128, 64, 4, 8)
    one = component("activations", text)
    assert component("activations", text, gpus=4, pipeline=4) == -(-one // 4)
    assert component("activations", text, gpus=4, pipeline=4, accumulate=8) == one
    assert component("activations", text, accumulate=8) == one


def test_activations_are_linear_in_the_batch():
    for name in ("gpt2", "mixtral-8x7b"):
        assert component("activations", name, batch=7) == 7 * component("activations", name)


def test_statistics_of_batch_norm_are_kept_once_a_batch():
    """Two fp32 numbers a channel, whatever the batch: 26,560 channels in ResNet-50."""
    one, two = (component("activations", "resnet50", batch=batch) for batch in (1, 2))
    assert 2 * one - two == 8 * 26_560


@pytest.mark.parametrize(
    ("name", "count"), {"gpt2": 12, "llama-2-7b": 32, "resnet50": 16, "resnet18": 8, "vgg16": 0}.items()
)
def test_blocks(name, count):
    net = parse(name)
    found = blocks(walk(net.graph, net.input))
    assert len(found) == count
    assert all(stop == start for (_, stop), (start, _) in pairwise(found))


def test_no_blocks_to_checkpoint():
    with pytest.raises(DlkitError, match="needs blocks"):
        total("vgg16", checkpoint="full")


def test_full_checkpointing_of_a_residual_net():
    whole = component("activations", "resnet50", precision="fp32")
    full = sum(
        p.bytes for p in parts(model.read(["resnet50"], None, "memory"), Plan(precision="fp32", checkpoint="full"))[3:]
    )
    assert full < 0.6 * whole


def test_contradictions_are_named():
    for settings, words in (
        ({"inference": True, "zero": 1}, "--zero has no meaning"),
        ({"inference": True, "accumulate": 2, "checkpoint": "full"}, "--checkpoint and --accumulate has no"),
        ({"sequence_parallel": True}, "--sp splits.*--tp"),
    ):
        with pytest.raises(DlkitError, match=words):
            memory.answer(["gpt2"], Plan(**settings), None, Room())
    with pytest.raises(DlkitError, match=r"--tp splits attention"):
        total("resnet50", gpus=2, tensor=2)


def test_notes_say_what_is_missing():
    assert "the layers of a network" in memory.answer(["7B"], Plan(), None, Room()).notes[0]
    assert "swinattn, patchmerge" in memory.answer(["swin_t"], Plan(), None, Room()).notes[0]
    assert "--gpus" in memory.answer(["7B"], Plan(zero=2), None, Room()).notes[1]
    assert "upper bound" in memory.answer(["gpt2"], Plan(lora=Lora(8, ("q",))), None, Room()).notes[0]
    assert "--accumulate 4" in memory.answer(["gpt2"], Plan(gpus=4, pipeline=4), None, Room()).notes[0]
    assert memory.answer(["gpt2"], Plan(), None, Room()).notes == []
    assert memory.answer(["gpt2"], Plan(gpus=4, pipeline=4, accumulate=8), None, Room()).notes == []


def test_unknown_is_none():
    assert component("activations", "7B") is None
    assert component("activations", "16x8 lstm:32") is None


# Inference ------------------------------------------------------------------------------------------


@pytest.mark.published
def test_kv_cache_of_llama_2_70b():
    """80 layers, 8 key heads of 128: 1.25 GiB at 4,096 tokens in 16 bits."""
    assert component("KV cache", "llama-2-70b", context=4096, inference=True) == 5 * GIB // 4
    assert component("KV cache", "llama-2-70b", context=4096, inference=True, batch=8) == 10 * GIB


def test_kv_cache_of_a_window_and_of_an_encoder():
    steps = model.read(["mistral-7b"], 32768, "memory").steps
    assert cache_elements(steps) == 2 * 32 * 8 * 128 * 4096
    assert not any(
        p.component == "KV cache" for p in parts(model.read(["bert-base"], None, "memory"), Plan(inference=True))
    )


def test_inference_weights():
    assert component("weights", "llama-2-7b", inference=True) == 2 * 6_738_415_616
    assert component("weights", "70B", inference=True, quantize="int8") == 70 * 10**9
    assert component("activations", "3x4x4 conv:5,k1 relu", inference=True) == 2 * (80 + 80)


# LoRA and QLoRA -------------------------------------------------------------------------------------


@pytest.mark.published
@pytest.mark.parametrize(("rank", "params"), [(1, 4_718_592), (4, 18_874_368)])
def test_lora_on_gpt3(rank, params):  # N-S164
    """Hu et al. 2021: adapters on the queries and values of GPT-3."""
    assert adapter_params(model.read(["gpt3-175b"], None, "memory").steps, Lora(rank, ("q", "v"))) == params


@pytest.mark.published
def test_qlora_bits():  # N-S165 N-S166
    """Dettmers et al. 2023: 4.5 bits a parameter, 4.127 with double quantisation."""
    assert component("weights", "1B", inference=True, quantize="nf4") * 8 / 1e9 == 4.5
    assert component("weights", "1B", inference=True, quantize="nf4-double") * 8 / 1e9 == pytest.approx(4.127, abs=5e-4)
    frozen = component("frozen weights", "llama-2-7b", lora=Lora(8, ("q", "v")), quantize="nf4")
    small = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert frozen == small * 9 // 16 + 2 * (6_738_415_616 - small)


def test_lora_trains_its_adapters_alone():
    named = {p.component: p.bytes for p in parts(model.read(["gpt2"], None, "memory"), Plan(lora=Lora(8, ("q", "v"))))}
    adapters = 12 * 2 * 8 * (768 + 768)
    assert named["frozen weights"] == 2 * 124_439_808
    assert named["adapter optimiser states"] == 8 * adapters and named["adapter gradients"] == 2 * adapters


@pytest.mark.parametrize(
    "text",
    [
        "",
        "r=0",
        "r=-1",
        "r=nan",
        "r=1.5",
        "8",
        "r=8,targets=q;v",
        "r=8,r=9",
        "targets=q",
        "r=8,b=2",
        "r=8,alpha=1,alpha=2",
    ],
)
def test_lora_refused(text):
    with pytest.raises(ValueError, match=r"must be a rank, an alpha and matrices.*Got"):
        parse_lora(text)


@pytest.mark.parametrize("alpha", ["0", "-1", "inf", "nan", "x", ""])
def test_an_alpha_is_a_number_above_0(alpha):
    with pytest.raises(ValueError, match=r"alpha above 0.*Got"):
        parse_lora(f"r=8,alpha={alpha}")


def test_lora_targets():
    assert (parse_lora("r=8"), parse_lora("r=8").scale) == (Lora(8), 1.0)
    assert parse_lora("r=8,alpha=16") == Lora(8, (), 16.0) and parse_lora("r=8,alpha=16").scale == 2.0
    assert str(parse_lora("alpha=16,r=8,targets=q,v")) == "r=8,alpha=16,targets=q,v"
    assert memory.answer(["gpt2"], Plan(lora=Lora(8)), None, Room()).summary["lora"] == "r=8,targets=q,v"
    assert memory.answer(["vgg11"], Plan(lora=Lora(8)), None, Room()).summary["lora"] == "r=8,targets=linear"
    assert parse_lora("r=16,targets=q,k,v,o,up,q") == Lora(16, ("q", "k", "v", "o", "up"))
    with pytest.raises(DlkitError, match=r"'gate' for --lora: this network has q, k, v, o, up, down"):
        total("gpt2", lora=Lora(1, ("gate",)))
    with pytest.raises(DlkitError, match=r"--lora needs the layers"):
        total("7B", lora=Lora(1, ("q",)))
    with pytest.raises(DlkitError, match="quantised weights are not trained"):
        total("7B", quantize="nf4")


@pytest.mark.parametrize(
    "name", ["gpt2", "llama-2-7b", "mixtral-8x7b", "bert-base", "resnet50", "mobilenet_v2", "t5-small"]
)
def test_matrices_never_exceed_the_walk(name):
    """What is no matrix are biases, norms, positions: the walk's parameters less the matrices, less than 2 %."""
    net = parse(name)
    for step in walk(net.graph, net.input):
        weights = sum(matrix.params for matrix in matrices.matrices(step))
        vectors = step.params - weights
        assert vectors >= 0
        if weights:
            assert vectors <= sum(m.outputs * m.times for m in matrices.matrices(step)) + 32 * 16


# Fitting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"checkpoint": "full"}, {"precision": "fp32", "optimizer": "sgd"}])
@pytest.mark.parametrize("name", ["gpt2", "resnet50"])
def test_the_largest_batch_fits_and_one_more_does_not(name, settings):
    given, plan = model.read([name], None, "memory"), Plan(**settings)
    capacity = Room("l4").bytes
    assert capacity == pytest.approx(24 * GIB * 0.9, abs=1)
    batch = largest_batch(given, plan, capacity)
    fits = [sum(p.bytes for p in parts(given, plan._replace(batch=b))) <= capacity for b in (batch, batch + 1)]
    assert fits == [True, False]


def test_where_nothing_fits():
    result = memory.answer(["gpt2"], Plan(), None, Room("1GiB"))
    assert result.ok is False and result.summary["largest_batch"] == 0
    assert result.notes[0].startswith("not even one sample fits")


def test_levers_save_what_they_say():
    given, plan = model.read(["gpt2"], None, "memory"), Plan(batch=64, gpus=8, precision="fp32")
    now = sum(p.bytes for p in parts(given, plan))
    found = levers(given, plan)
    assert next(iter(found)) == "--checkpoint full" and list(found.values()) == sorted(found.values(), reverse=True)
    assert {"--precision bf16", "--lora r=16,targets=q,v", "--batch 32", "--zero 1"} <= set(found)
    assert now - found["--zero 3"] == sum(p.bytes for p in parts(given, plan._replace(zero=3)))


def test_rooms():
    assert Room().bytes is None
    assert Room("80GB", 0.5).bytes == 40 * 10**9
    assert Room("h100").bytes == int(hardware.accelerator("h100").memory * 0.9)
    for text, word in {"80": "unit", "80G": "unit", "h1000": "h100", "nan": "unknown accelerator"}.items():
        with pytest.raises(DlkitError, match=word):
            _ = Room(text).bytes
    with pytest.raises(DlkitError, match="bare number of parameters has no activations"):
        memory.answer(["7B"], Plan(), None, Room("h100"))


def test_ten_thousand_layers_in_linear_time():
    def work(times: int) -> int:
        given = model.read([f"8x8x8 {times}*(sum(conv:8,k3,p1 | ) relu)"], None, "memory")
        return python_calls(lambda: parts(given, Plan(checkpoint="full")))

    work(100)
    assert work(5000) < 2.2 * work(2500)


@pytest.mark.parametrize(
    ("line", "words"),
    {
        "7B --gpus nan": "--gpus",
        "7B --gpus 8 --tp 0": "whole number",
        "gpt2 --fit h100 --batch 4": "--batch has no effect with --fit",
        "gpt2 --reserve 0.2": "--reserve has no effect without --fit",
        "gpt2 --fit h100 --reserve 1": "below 1",
        "gpt2 --fit h100 --reserve -1": "--reserve",
        "gpt2 --inference --optimizer sgd --attention plain": "--optimizer and --attention have no effect",
        "gpt2 --precision fp32 --bytes-per-param zero": "--bytes-per-param has no effect",
        "7B --checkpoint full": "--checkpoint has no effect on a bare number",
        "resnet50 --attention flash": "--attention has no effect on a network without attention",
        "resnet50 --checkpoint selective": "no attention",
    }.items(),
)
def test_options_without_effect_are_refused(inside, line, words):
    ran = inside("memory", *line.split())
    assert (ran.code, ran.out) == (2, "") and words in ran.err


def test_fit_in_a_pipe(inside):
    """The micro-batch is a column, and what -q prints."""
    words = ["memory", "gpt2", "--fit", "24GiB", "--reserve", "0"]
    header, *rows = [row.split("\t") for row in inside(*words).out.splitlines()]
    (batch,) = {row[header.index("batch")] for row in rows}
    assert inside(*words, "-q").out == f"{batch}\n" and int(batch) > 1
    assert sum(int(row[header.index("bytes")]) for row in rows) <= 24 << 30


def test_counts_may_have_suffixes():
    """A thousand GPUs are 1k, or 1e3."""
    summary = memory.answer(["7.5B"], Plan(gpus=1000, zero=3), None, Room()).summary
    assert summary["data_parallel"] == 1000


@pytest.mark.parametrize("settings", [{"zero": 1, "gpus": 8}, {"optimizer": "adam8bit"}, {"checkpoint": "full"}])
@pytest.mark.parametrize("name", ["gpt2", "resnet50", "llama-3-8b"])
def test_explained_bytes(name, settings):
    """Each formula, read as arithmetic, is the component's bytes."""
    rows = memory.answer([name], Plan(batch=3, **settings), None, Room(), explain=True).rows
    for row in rows:
        formula, _, value = row["formula"].rpartition(" = ")
        text = re.sub(r"⌈(\d+)/(\d+)⌉", r"-(-\1//\2)", formula.replace(" B", "").replace("·", "*").replace("−", "-"))
        assert int(value) == row["bytes"] == math.ceil(eval(text.replace(" micro-batches", "")))


def test_bytes_of_a_parameter_are_printed():
    for settings, said in {
        (): "16 = 2 + 2 + 8 + 4 (zero, bf16, adamw)",
        (("convention", "megatron"),): "18 = 2 + 4 + 8 + 4 (megatron, bf16, adamw)",
        (("precision", "fp32"), ("optimizer", "sgd")): "8 = 4 + 4 + 0 (zero, fp32, sgd)",
    }.items():
        assert memory.answer(["1B"], Plan(**dict(settings)), None, Room()).summary["param_bytes"] == said
