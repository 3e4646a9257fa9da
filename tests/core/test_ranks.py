"""What a tensor- and pipeline-parallel rank holds: by hand, by sums over all ranks, and against torch's parameters."""

import json
from itertools import pairwise

import pytest

from dlkit.core import model
from dlkit.core.errors import DlkitError
from dlkit.core.footprint import Plan, by_stage, cache_elements, parts, total
from dlkit.core.matrices import Lora
from dlkit.core.ranks import shares, stages


def steps_of(words, context=None):
    return model.read(words.split(" ", 1) if "x" in words else [words], context, "memory").steps


def component(name, words, context=None, **settings):
    found = parts(model.read([words], context, "memory"), Plan(**settings))
    return next(part.bytes for part in found if part.component == name)


# Tensor parallelism -------------------------------------------------------------------------------


@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
def test_llama_3_8b_splits_all_but_its_norms(tensor):
    (share,) = shares(steps_of("llama-3-8b"), tensor, 1)
    norms = 65 * 4096
    assert tensor * (share.params - norms) == 8_030_261_248 - norms


def test_key_heads_are_replicated_above_their_number():
    """8 key heads on 32 ranks: each rank has one, as Megatron-LM and vLLM place them."""
    (share,) = shares(steps_of("llama-3-8b"), 32, 1)
    layers, width, head, hidden, vocab = 32, 4096, 128, 14336, 128256
    attention = 2 * width * head + 2 * width * head  # one query head with its output, one key and one value head
    expected = layers * (attention + 3 * width * hidden // 32) + 65 * width + 2 * vocab // 32 * width
    assert share.params == expected


@pytest.mark.parametrize(("tensor", "heads"), [(1, 8), (2, 4), (8, 1), (16, 1), (64, 1)])
def test_the_cache_of_a_rank_holds_whole_key_heads(tensor, heads):
    settings = {"inference": True, "tensor": tensor, "gpus": tensor}
    assert component("KV cache", "llama-2-70b", 4096, **settings) == 2 * 2 * 80 * 4096 * 128 * heads


def test_replicated_keys_are_kept_for_the_backward_pass_on_every_rank():
    text = "64 embed:100,64 attn:8,kv=2,causal=1,bias=0 lmhead:100"
    two, eight = (component("activations", text, tensor=t, gpus=t, sequence_parallel=True) for t in (2, 8))
    keys = 2 * 2 * 64 * 16  # bf16 keys and values of 2 heads, 8 wide
    assert 8 * eight - 2 * two == 3 * keys  # four ranks have each head instead of one


def test_biases_and_a_padded_vocabulary():
    text = "16 embed:50257,12 attn:4 mlp:24 lmhead:50257,tie=1,bias=1"
    (share,) = shares(steps_of(text), 4, 1)
    words = -(-50257 // 4)
    attention = 4 * 12 * 3 + 3 * 3 + 12
    feed = 2 * 12 * 6 + 6 + 12
    assert share.params == words * 12 + attention + feed + words


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        ("gpt2", {"tensor": 5}, "--tp 5 does not divide the 12 heads of attn1"),
        ("llama-3-8b", {"tensor": 3}, "--tp 3 does not divide the 32 heads"),
        ("16 embed:9,24 attn:24,kv=6", {"tensor": 4}, "6 key heads of attn1"),
        ("16 embed:9,8 attn:4 mlp:10", {"tensor": 4}, "hidden width 10 of mlp1"),
        ("gpt2", {"pipeline": 13}, "--pp 13 is more stages than this network has blocks: 12"),
        ("vgg16", {"pipeline": 2}, "This network has none"),
        ("resnet50", {"tensor": 2}, "--tp splits attention"),
    ],
)
def test_what_does_not_divide_is_refused(words, settings, said):
    gpus = settings.get("tensor", 1) * settings.get("pipeline", 1)
    with pytest.raises(DlkitError, match=said):
        by_stage(model.read([words], None, "memory"), Plan(gpus=gpus, **settings))


# Pipeline parallelism -----------------------------------------------------------------------------


def test_llama_3_405b_on_16_stages():
    """126 layers do not divide by 16: fourteen stages of eight and two of seven; the table first, the head last."""
    steps = steps_of("llama-3.1-405b")
    found = stages(steps, 16)
    counts = [sum(step.op == "attn" for step in steps[start:end]) for start, end in found]
    assert counts == [8] * 14 + [7] * 2
    assert all(end == start for (_, end), (start, _) in pairwise(found))
    width, table = 16384, 128256 * 16384
    layer = 2 * width * (width + 8 * 128) + 3 * width * 53248 + 2 * width
    params = [share.params for share in shares(steps, 1, 16)]
    assert params[1] == 8 * layer and params[0] == params[1] + table
    assert params[15] == 7 * layer + table + width
    assert sum(params) == 405_853_388_800


def test_a_tied_head_has_a_copy_of_its_table_on_the_last_stage():
    steps = steps_of("gpt2")
    first, last = shares(steps, 1, 2)
    table = 50257 * 768
    assert first.params + last.params == 124_439_808 + table
    assert sum(m.params for op, m in last.matrices if op == "embed") == table
    whole = sum(total(stage) for stage in by_stage(model.read(["gpt2"], None, "memory"), Plan(gpus=2, pipeline=2)))
    one = total(parts(model.read(["gpt2"], None, "memory"), Plan()))
    assert whole - one == 16 * table


@pytest.mark.parametrize("name", ["gpt2", "llama-3-8b", "mixtral-8x7b", "bert-base", "t5-small"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_stages_hold_each_parameter_once_but_for_tied_ones(name, count):
    steps = steps_of(name)
    found = shares(steps, 1, count)
    tied = {"gpt2": 50257 * 768, "t5-small": 32128 * 512}.get(name, 0)
    extra = sum(share.params for share in found) - sum(step.params for step in steps)
    assert 0 <= extra <= (tied + 2 * 32 * 8 * 2) * (count - 1)
    assert bool(extra) == bool(tied and count > 1)


def test_each_stage_keeps_its_own_activations():
    text = "64x32 6*(sum(ln attn:4,causal=1 | ) sum(ln mlp:64 | ))"
    given = model.read([text], None, "memory")
    whole = next(part.bytes for part in parts(given, Plan()) if part.component == "activations")
    found = by_stage(given, Plan(gpus=3, pipeline=3))
    assert sum(stage[-1].bytes for stage in found) == whole


@pytest.mark.parametrize("accumulate", [1, 2, 3, 8])
def test_earlier_stages_hold_more_micro_batches(accumulate):
    """1F1B: stage i of p has p − i micro-batches on their way, where there are as many."""
    text = "64x32 6*(sum(ln attn:4,causal=1 | ) sum(ln mlp:64 | ))"
    found = by_stage(model.read([text], None, "memory"), Plan(gpus=3, pipeline=3, accumulate=accumulate))
    held = [stage[-1].bytes for stage in found]
    assert [bytes // held[2] for bytes in held] == [min(3, accumulate), min(2, accumulate), 1]


def test_a_convolutional_net_is_cut_between_its_joins():
    """After eight of its sixteen blocks; the relu between the two stages is kept on both sides."""
    given = model.read(["resnet50"], None, "memory")
    whole = next(part.bytes for part in parts(given, Plan()) if part.component == "activations")
    found = by_stage(given, Plan(gpus=2, pipeline=2))
    assert sum(stage[-1].bytes for stage in found) - whole == 2 * 1024 * 14 * 14


def test_the_answer_is_the_stage_that_holds_the_most(inside):
    words = "memory gpt2 --pp 3 --gpus 6 --accumulate 8 --zero 1 --json"
    summary = json.loads(inside(*words.split()).out)["summary"]
    assert summary["per_gpu_bytes"] == max(summary["stage_bytes"]) and len(summary["stage_bytes"]) == 3
    assert summary["total_bytes"] == 2 * sum(summary["stage_bytes"])
    assert summary["stage"].startswith(f"{summary['stage_bytes'].index(max(summary['stage_bytes'])) + 1} of 3")


# ZeRO and adapters --------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", range(4))
def test_zero_divides_a_ranks_share_by_the_data_parallel_degree(zero):
    settings = {"gpus": 64, "tensor": 4, "pipeline": 2, "zero": zero}
    given = model.read(["llama-2-7b"], 512, "memory")
    first, last = shares(given.steps, 4, 2)
    by = [1 if zero < level else 8 for level in (3, 2, 1, 1)]
    for share, stage in zip((first, last), by_stage(given, Plan(**settings)), strict=True):
        held = [part.bytes for part in stage[:4]]
        assert held == [-(-width * share.params // n) for width, n in zip((2, 2, 8, 4), by, strict=True)]


def test_adapters_follow_the_matrices_they_adapt():
    """B is split with the columns of q and v; A, whose inputs every rank has, is not."""
    settings = {"lora": Lora(8, ("q", "v")), "gpus": 4, "tensor": 4}
    adapters = 12 * 2 * 8 * (768 + 768 // 4)
    assert component("adapter gradients", "gpt2", **settings) == 2 * adapters
    whole = component("adapter optimiser states", "gpt2", optimizer="adafactor", lora=Lora(8, ("q",)))
    assert whole == 4 * 12 * (768 + 8 + 8 + 768)


def test_cache_elements_of_one_rank_are_those_of_all_without_parallelism():
    steps = steps_of("llama-2-7b")
    assert 4 * cache_elements(steps, 4) == cache_elements(steps)
