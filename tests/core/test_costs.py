"""`flops` from the inside: published training runs, and the walk against torch's own count."""

import json

import pytest
from support import plain

from dlkit.core import costs, hardware
from dlkit.core.compute import Counting
from dlkit.core.costs import Amount, View
from dlkit.core.errors import DlkitError
from dlkit.core.hardware import Job

NO_AMOUNT, EXACT, NOWHERE = Amount(), Counting(), Job()


def ask(model, amount=NO_AMOUNT, how=EXACT, job=NOWHERE, convention="dlkit"):
    return costs.answer(model.split(), amount, how, convention, job).summary


# N-S022: parameters, tokens, training FLOPs as published (GPT-3: Brown et al. 2020, table D.1)
RUNS = {
    "chinchilla": ("70B", 14 * 10**11, 5.88e23, 0),
    "gpt3-1.3b": ("1320M", 300 * 10**9, 2.38e21, 0.002),
    "gpt3-13b": ("12850M", 300 * 10**9, 2.31e22, 0.002),
    "gpt3-175b": ("174600M", 300 * 10**9, 3.14e23, 0.001),
    "gpt3-125m": ("125M", 300 * 10**9, 2.25e20, 0),
    "gpt3-notes": ("175B", 300 * 10**9, 3.15e23, 0),
    "llama-3.1-405b": ("405B", 156 * 10**11, 3.79e25, 0.001),
}


@pytest.mark.published
@pytest.mark.parametrize("run", RUNS)
def test_published_runs(run):
    params, tokens, flops, tolerance = RUNS[run]
    assert ask(params, Amount(tokens=tokens))["train_flops"] == pytest.approx(flops, rel=tolerance or 1e-12)


def test_backward_is_twice_forward_and_recomputation_one_more():  # N-S023 N-S160
    summary = ask("70B", Amount(tokens=10**12))
    assert summary["backward_flops"] == 2 * summary["forward_flops"] == 4 * 70 * 10**21
    full = ask("70B", Amount(tokens=10**12), Counting("full"))
    assert full["train_flops"] == 8 * 70 * 10**21
    with pytest.raises(DlkitError, match=r"selective.*layers"):
        ask("70B", how=Counting("selective"))


def test_counts_are_exact_integers_up_to_1e30():
    summary = ask("1e15", Amount(tokens=10**14 + 1))
    assert summary["train_flops"] == 6 * 10**15 * (10**14 + 1)
    assert isinstance(summary["train_flops"], int)


@pytest.mark.published
def test_llama_3_in_h100_hours():
    """30.84M H100-hours for 405B × 15.6T: an MFU of 34.5 %."""
    summary = ask("405B", Amount(tokens=156 * 10**11), job=Job("h100", gpu_hours=30_840_000))
    assert summary["mfu"] == pytest.approx(0.345, abs=0.0005)


@pytest.mark.published
def test_gpt3_on_a100_takes_34_days():
    """Narayanan et al. 2021: 1,024 A100 at 140 TFLOP/s each, recomputation counted."""
    job = Job("a100", 1024, hfu=140 / 312)
    summary = ask("175B", Amount(tokens=300 * 10**9), Counting("full"), job)
    assert summary["days"] == pytest.approx(34, abs=0.2)
    assert summary["mfu"] == pytest.approx(summary["hfu"] * 6 / 8)


def test_time_cost_and_energy_by_hand():
    job = Job("h100", 8, mfu=0.5, price=2.0, watts=1000, pue=1.2, carbon=0.4)
    summary = ask("1B", Amount(tokens=989 * 3600 * 10**9), job=job)
    assert summary["gpu_hours"] == pytest.approx(12_000_000)  # 6e9·989e9·3600 / (989e12/2) / 3600
    assert summary["days"] == pytest.approx(12_000_000 / 24 / 8)
    assert summary["cost"] == pytest.approx(24_000_000)
    assert summary["energy_kwh"] == pytest.approx(14_400_000)
    assert summary["co2_kg"] == pytest.approx(5_760_000)
    assert (summary["peak_flops"], summary["peak_source"]) == (989 * 10**12, "NVIDIA H100 datasheet")


def test_what_is_unknown_is_none():
    summary = ask("1B", job=Job("h100"))
    assert [summary[key] for key in ("tokens", "gpu_hours", "days", "cost", "energy_kwh", "co2_kg")] == [None] * 6
    summary = ask("1B", Amount(tokens=10**9), job=Job("tpu-v5e", 4, mfu=0.4))
    assert summary["gpu_hours"] and summary["watts"] is None and summary["energy_kwh"] is None
    result = costs.answer(["1B"], Amount(tokens=10**9), EXACT, "dlkit", Job("h100"))
    assert result.summary["gpu_hours"] is None and "--mfu" in result.notes[0]


IDLE = [
    ("1B", {"mfu": 0.4, "gpu": "h100"}, r"--mfu is of a whole run: give --tokens"),
    ("1B", {"gpu_hours": 5, "gpu": "h100"}, r"--gpu-hours is of a whole run"),
    ("1B", {"precision": "bf16"}, r"--precision.*--gpu"),
    ("1B", {"price": 2.0}, r"--price has no effect.*--tokens"),
    ("1B", {"gpus": 8, "gpu": "h100"}, r"--gpus has no effect.*--tokens"),
    ("1B", {"tokens_per_second": 8, "gpus": 8}, r"--tokens-per-second has no effect"),
    (1, {"gpus": 8, "price": 2.0}, r"--gpus and --price has no effect.*--mfu"),
    (1, {"gpu": "tpu-v5e", "mfu": 0.4, "carbon": 0.4}, r"--carbon has no effect, no power.*tpu-v5e.*--watts"),
    (1, {"gpu": "tpu-v5e", "mfu": 0.4, "pue": 1.1}, r"--pue has no effect.*--watts"),
]


@pytest.mark.parametrize(("whole", "job", "words"), IDLE)
def test_machine_options_without_effect_are_refused(whole, job, words):
    with pytest.raises(DlkitError, match=words):
        ask("1B", Amount(tokens=10**9) if whole == 1 else NO_AMOUNT, job=Job(**job))


@pytest.mark.parametrize(
    ("line", "words"),
    {
        "7B --epochs 3": "--epochs has no effect without --tokens or --samples",
        "7B --tokens 1B --approach 2": "--approach has no effect without --budget",
        "7B --depth 1": "--depth has no effect on a bare number",
        "--budget 1e24 --context 512 --freeze conv1": "--context and --freeze have no effect with --budget",
        "--budget 1e24 --epochs 1": "--epochs has no effect with --budget",
        "gpt2 --convention kaplan --recompute selective": "kaplan counts no attention scores",
        "resnet50 --recompute selective": "this network has no attention scores",
        "resnet50 --convention torchvision --recompute full": "counts the forward pass",
        "bert-base --causal-skip": "no causal attention",
        "gpt2 --convention palm --depth 1": "has no layers",
        "7B --tokens 1B --gpu h100 --mfu 0.4 --pue 0.5": "at least 1",
        "7B --tokens 1B --gpu h100 --mfu 0.4 --pue nan": "--pue",
        "7B --gpu=": "unknown accelerator ''",
        "7B --tokens 1B --gpu h100 --mfu 0.4 --gpus 1.5": "whole number",
    }.items(),
)
def test_options_without_effect_are_refused(inside, line, words):
    ran = inside("flops", *line.split())
    assert (ran.code, ran.out) == (2, "") and words in ran.err


def test_a_utilisation_above_one_is_warned_of(inside):
    words = ["flops", "7B", "--tokens", "1B", "--gpu", "h100", "--gpus", "8", "--tokens-per-second", "1e9", "-q"]
    ran = inside(*words)
    assert (ran.code, ran.out) == (0, "4.2e+19\n") and ran.err.startswith("warning: ")
    assert "MFU" in ran.err and "above the dense bf16 peak of h100" in ran.err


@pytest.mark.parametrize(
    "line", ["flops gpt2", "flops llama-3.1-405b --depth 1", "memory gpt2", "flops gpt2 --explain"]
)
def test_a_narrow_terminal_reads_whole_words_and_the_total_last(terminal, line):
    shown = plain(terminal(*line.split(), columns=80).out).splitlines()
    assert all(len(row) <= 80 for row in shown)
    (last,) = (i for i, row in enumerate(shown) if row.split()[:1] == ["total"])
    assert len(shown) - last < 6  # only facts follow
    assert len(shown) < 40


def test_equal_blocks_collapse(terminal):
    """126 layers of attention and feed-forward are one row."""
    shown = plain(terminal("flops", "llama-3.1-405b", "--depth", "1", columns=120).out)
    assert "126 × sum (3 layers) + sum (3 layers)" in " ".join(shown.split()) and shown.count("\n") < 14


def test_all_of_the_peak_is_no_error(inside):
    ran = inside("flops", "1e30", "--tokens", "1e30", "--gpu", "h100", "--mfu", "1", "--json")
    assert ran.code == 0 and ran.err == "" and json.loads(ran.out)["summary"]["train_flops"] == 6 * 10**60


def test_a_pipe_gets_what_a_run_takes(inside):
    """Each component's share, so that a column adds up to the summary."""
    line = "flops gpt2 --tokens 1B --gpu h100 --gpus 8 --mfu 0.4 --price 2 --carbon 0.5"
    summary = json.loads(inside(*line.split(), "--json").out)["summary"]
    header, *rows = [row.split("\t") for row in inside(*line.split()).out.splitlines()]
    for key in ("gpu_hours", "days", "cost", "energy_kwh", "co2_kg"):
        assert sum(float(row[header.index(key)]) for row in rows) == pytest.approx(summary[key])


@pytest.mark.parametrize("name", ["resnet50", "gpt2", "swin_t"])
@pytest.mark.parametrize("depth", [0, 1])
def test_layers_and_blocks_add_up_to_the_components(name, depth):
    how = Counting("full")
    whole, found = (costs.answer([name], NO_AMOUNT, how, "dlkit", NOWHERE, View(d)) for d in (None, depth))
    assert found.summary == whole.summary and len(found.rows) > len(whole.rows) - 3
    for key in ("params", "forward_flops", "backward_flops", "recompute_flops", "train_flops"):
        assert sum(row[key] for row in found.rows) == whole.total[key] == sum(row[key] for row in whole.rows)


def evaluated(text):
    """A formula as this program writes it, as a number: 2·(12 × 4·3²) is 864."""
    return eval(text.replace("·", "*").replace("×", "*").replace("²", "**2").replace("−", "-"))


@pytest.mark.parametrize("name", ["gpt2", "llama-3-8b", "mixtral-8x7b", "t5-small", "bert-base", "swin_t", "lenet"])
@pytest.mark.parametrize("depth", [None, 0])
def test_explained_formulas_are_right(name, depth):
    result = costs.answer([name], NO_AMOUNT, EXACT, "dlkit", NOWHERE, View(depth, True))
    written = 0
    for row in result.rows:
        forward, _, rest = row["formula"].partition(" = ")
        if not rest or "…" in forward:
            assert row["forward_flops"] == 0 or "…" in forward
            continue
        written += 1
        assert evaluated(forward.removeprefix("forward ")) == row["forward_flops"]
        assert "backward 2·forward" in rest and str(row["backward_flops"]) in rest
    assert written >= 1


def test_a_bare_number_is_explained():
    row = costs.answer(["7B"], Amount(tokens=10**9), Counting("full"), "dlkit", NOWHERE, View(None, True)).rows[0]
    formula = "forward 2·7000000000 + backward 4·7000000000 + recompute 2·7000000000 = 56000000000"
    assert row["formula"] == f"{formula}; × 1000000000 tokens"
    row = costs.answer(["gpt2"], Amount(tokens=10**9), EXACT, "dlkit", NOWHERE, View(None, True)).rows[-1]
    assert row["formula"].endswith("; × 1000000000/1024 samples")


@pytest.mark.parametrize("convention", ["kaplan", "palm", "megatron", "chinchilla"])
def test_conventions_are_explained(convention):
    rows = costs.answer(["gpt2"], NO_AMOUNT, EXACT, convention, NOWHERE, View(None, True)).rows
    for row in rows:
        formula = row["formula"].removeprefix("forward ").partition(";")[0]
        assert evaluated(formula) == row["forward_flops"]


def test_contradictions_are_named():
    with pytest.raises(DlkitError, match=r"--mfu and --gpu-hours"):
        ask("1B", job=Job("h100", mfu=0.4, gpu_hours=5))
    with pytest.raises(DlkitError, match=r"--mfu is a share.*--gpu"):
        ask("1B", job=Job(mfu=0.4))
    with pytest.raises(DlkitError, match="'h100'"):
        ask("1B", job=Job("h1000"))
    with pytest.raises(DlkitError, match=r"bf16.*fp16"):
        ask("1B", job=Job("v100", precision="bf16"))
    with pytest.raises(DlkitError, match=r"--gpus"):
        ask("1B", job=Job("h100", tokens_per_second=5))
    with pytest.raises(DlkitError, match=r"--samples needs a network"):
        ask("1B", Amount(samples=5))


@pytest.mark.parametrize("text", ["nan", "inf", "0", "-5", "1.5", "1e31", "0.5"])
def test_parameters_refused(text):
    with pytest.raises(DlkitError, match=r"number of parameters must be a whole number.*Got"):
        ask(text)


def test_convolutional_nets_have_no_six_n_d():  # N-S022
    with pytest.raises(DlkitError, match="language models") as error:
        ask("resnet50", Amount(tokens=10**9))
    assert "--samples" in error.value.hint
    summary = ask("resnet50", Amount(samples=1_280_000, epochs=90))
    assert summary["tokens"] is None and summary["samples"] == 115_200_000
    image = ask("resnet50")
    assert image["train_flops"] == pytest.approx(24.5e9, rel=0.01)
    assert 6 * image["params"] == pytest.approx(0.153e9, rel=0.005)
    assert summary["train_flops"] == image["train_flops"] * 115_200_000


@pytest.mark.published
def test_dense_peaks():
    """FLOP/s without sparsity, as datasheets have them."""
    published = {"h100": 989, "h100-pcie": 756, "a100": 312, "h200": 989, "tpu-v4": 275, "mi250x": 383, "l40s": 362}
    for name, teraflops in published.items():
        assert hardware.accelerator(name).peak("bf16") == teraflops * 10**12
    assert hardware.accelerator("V100").peak("fp16") == 125 * 10**12
    for name in hardware.names():
        device = hardware.accelerator(name)
        assert device.source and device.memory >= 16 << 30
        assert device.peaks.get("fp8", 10**9) > device.peaks.get("bf16", 125) > device.peaks.get("fp32", 0)


def test_budgets():
    job = Job("h100", 512, mfu=0.4, price=2.5)
    assert job.budget("1e24") == 10**24
    bought = 400_000 * 3600 * 989 * 10**12 * 4 // 10
    for text in ("400kh", "400k gpu-h", "$1M"):
        assert job.budget(text) == pytest.approx(bought, rel=1e-15)
    for text in ("nan", "inf", "0", "-1", "$", "$nan", "h", "1.5", "$-1", "0h", "$5h5", "nanh", "1e31"):
        with pytest.raises(DlkitError, match=r"--budget must be.*Got"):
            job.budget(text)
    assert job.budget("0.5h") == 1800 * 989 * 10**12 * 4 // 10
    with pytest.raises(DlkitError, match=r"--price"):
        Job().budget("$1M")
    with pytest.raises(DlkitError, match=r"--gpu and --mfu"):
        Job().budget("10h")
    summary = costs.sizes("1e24", "2", Job()).summary
    assert 6 * summary["params"] * summary["tokens"] == pytest.approx(1e24)


# Language models ------------------------------------------------------------------------------------

PALM = (
    "2048 embed:256000,18432 118*(sum(ln:bias=0 attn:48,kv=1,dim=256,causal=1,bias=0 | gmlp:73728 | )) "
    "ln:bias=0 lmhead:256000,tie=1"
)


@pytest.mark.published
def test_palm():
    """Chowdhery et al. 2022: 2.56e24 FLOPs for 780B tokens; 238.3k tokens/s on 6,144 TPU v4 is an MFU of 46.2 %."""
    job = Job("tpu-v4", 6144, tokens_per_second=238_300)
    summary = ask(PALM, Amount(tokens=780 * 10**9), job=job, convention="palm")
    assert summary["params"] == pytest.approx(540.35e9, rel=1e-4)
    assert summary["train_flops"] == pytest.approx(2.56e24, rel=0.002)
    assert summary["mfu"] == pytest.approx(0.462, abs=0.0005)
    exact = ask(PALM, Amount(tokens=780 * 10**9))["train_flops"]
    assert exact == pytest.approx(summary["train_flops"], rel=1e-3)


@pytest.mark.published
@pytest.mark.parametrize(
    ("name", "flops"), {"gpt3-125m": 2.25e20, "gpt3-1.3b": 2.38e21, "gpt3-13b": 2.31e22, "gpt3-175b": 3.14e23}.items()
)
def test_gpt3_by_name(name, flops):  # N-S022: table D.1 counts 6·N·D, over_6nd is what is carried out over that
    summary = ask(name, Amount(tokens=300 * 10**9))
    assert summary["train_flops"] / summary["over_6nd"] == pytest.approx(flops, rel=0.005)


@pytest.mark.published
def test_six_n_d_is_12_6_percent_low_for_gpt2():  # N-S022
    assert 1 - 1 / ask("gpt2")["over_6nd"] == pytest.approx(0.126, abs=0.0005)


# Hoffmann et al. 2022, tables A4 and A9: parameters, layers, width, feed-forward, heads, key size, FLOPs over 6·N·D.
TABLE_A4 = {
    "73M": (74e6, 10, 640, 2560, 10, 64, 1.03),
    "305M": (306e6, 20, 1024, 4096, 16, 64, 1.10),
    "552M": (552e6, 24, 1280, 5120, 10, 128, 1.08),
    "1.1B": (1143e6, 26, 1792, 7168, 14, 128, 1.04),
    "1.6B": (1593e6, 28, 2048, 8192, 16, 128, 1.03),
    "6.8B": (6796e6, 40, 3584, 14336, 28, 128, 0.99),
}


@pytest.mark.published
@pytest.mark.parametrize("name", TABLE_A4)
def test_chinchilla_counts(name):
    """The printed ratios leave out the two products with the 32,000 words, look-up and head."""
    params, layers, width, hidden, heads, key, ratio = TABLE_A4[name]
    text = f"2048 embed:32000,{width} {layers}*(attn:{heads},dim={key},causal=1 mlp:{hidden}) lmhead:32000,tie=1"
    flops = costs.answer([text], NO_AMOUNT, EXACT, "chinchilla", NOWHERE).summary["train_flops"]
    assert (flops - 2 * 6 * 2048 * 32000 * width) / (6 * params * 2048) == pytest.approx(ratio, abs=0.012)


@pytest.mark.published
def test_megatron_equation_3():
    """Narayanan et al. 2021: 96·B·s·l·h²·(1 + s/6h + V/16lh) with everything recomputed."""
    summary = ask("gpt3-175b", how=Counting("full"), convention="megatron")
    s, layers, h, v = 2048, 96, 12288, 50257
    assert summary["train_flops"] == pytest.approx(96 * s * layers * h**2 * (1 + s / 6 / h + v / 16 / layers / h))
    assert ask("gpt3-175b", how=Counting("full"))["train_flops"] == pytest.approx(summary["train_flops"], rel=1e-6)


def test_kaplan_leaves_embeddings_out():
    summary = ask("gpt2", convention="kaplan")
    assert summary["train_flops"] == 6 * (124_439_808 - 50257 * 768 - 1024 * 768) * 1024
    assert summary["params"] == 124_439_808


def test_masked_scores():
    """A causal mask hides (T − 1)/2T of the scores, a window all but its own."""
    text = "{} embed:100,64 attn:4,causal=1{} lmhead:100"
    full, skipped = (rows(text.format(64, ""), Counting(skip_masked=skip)) for skip in (False, True))
    assert skipped["attention scores"] * 2 * 64 == full["attention scores"] * 65
    assert skipped["attention projections"] == full["attention projections"]
    windowed = rows(text.format(64, ",w8"), Counting(skip_masked=True))["attention scores"]
    assert windowed == 2 * 2 * 64 * sum(min(i + 1, 8) for i in range(64))


def rows(model, how=EXACT):
    found = costs.answer(model.split(), NO_AMOUNT, how, "dlkit", NOWHERE).rows
    return {row["component"]: row["forward_flops"] for row in found}


def test_components_add_up():
    for name in ("gpt2", "llama-2-7b", "mixtral-8x7b", "t5-small", "bert-base", "swin_t", "mobilenet_v2"):
        result = costs.answer([name], NO_AMOUNT, EXACT, "dlkit", NOWHERE)
        for key in ("params", "forward_flops", "backward_flops", "train_flops"):
            assert sum(row[key] for row in result.rows) == result.summary[key]
    experts = ask("mixtral-8x7b")
    assert (experts["params"], experts["active_params"]) == (46_702_792_704, 12_879_925_248)


EXACT_PARAMS = {
    "gpt2": 124_439_808,
    "llama-2-7b": 6_738_415_616,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "mixtral-8x7b": 46_702_792_704,
}


@pytest.mark.published
@pytest.mark.parametrize("name", EXACT_PARAMS)
def test_published_parameters(name):
    assert ask(name)["params"] == EXACT_PARAMS[name]


def test_attention_grows_with_the_square():  # N-S024 N-S028
    short, long = rows("llama-2-7b"), costs.answer(["llama-2-7b"], Amount(context=8192), EXACT, "dlkit", NOWHERE).rows
    long = {row["component"]: row["forward_flops"] for row in long}
    assert long["attention scores"] == 4 * short["attention scores"] == 4 * 4 * 32 * 4096**2 * 4096
    assert long["attention projections"] == 2 * short["attention projections"]


def test_conventions_refuse_what_they_do_not_know():
    with pytest.raises(DlkitError, match="palm is for language models"):
        ask("resnet50", convention="palm")
    with pytest.raises(DlkitError, match="fvcore counts the forward pass"):
        ask("resnet50", Amount(samples=5), convention="fvcore")
    with pytest.raises(DlkitError, match="megatron needs the layers"):
        ask("7B", convention="megatron")
    with pytest.raises(DlkitError, match=r"--context needs a network"):
        ask("7B", Amount(context=5))
    with pytest.raises(DlkitError, match=r"--context is for networks that take tokens"):
        ask("resnet50", Amount(context=5))
    with pytest.raises(DlkitError, match=r"--freeze 'convv'.*'conv9'"):
        ask("resnet50", how=Counting(freeze=("convv",)))


@pytest.mark.published
def test_torchvision_prints_macs():
    assert ask("resnet50", convention="torchvision")["forward_flops"] == pytest.approx(4.089e9, rel=2e-4)
    assert ask("vgg16", convention="torchvision")["train_flops"] is None
