"""`flops` from the inside: published training runs, and the walk against torch's own count."""

import pytest

from dlkit.core import costs, hardware
from dlkit.core.compute import Counting
from dlkit.core.costs import Amount
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


def test_llama_3_in_h100_hours():
    """30.84M H100-hours for 405B × 15.6T: an MFU of 34.5 %."""
    summary = ask("405B", Amount(tokens=156 * 10**11), job=Job("h100", gpu_hours=30_840_000))
    assert summary["mfu"] == pytest.approx(0.345, abs=0.0005)


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


def test_what_is_unknown_is_none():
    summary = ask("1B", job=Job("h100", mfu=0.4))
    assert [summary[key] for key in ("tokens", "gpu_hours", "days", "cost", "energy_kwh", "co2_kg")] == [None] * 6
    summary = ask("1B", Amount(tokens=10**9), job=Job("tpu-v5e", 4, mfu=0.4))
    assert summary["gpu_hours"] and summary["watts"] is None and summary["energy_kwh"] is None
    assert ask("1B", Amount(tokens=10**9), job=Job("h100"))["gpu_hours"] is None


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
    for text in ("nan", "inf", "0", "-1", "$", "$nan", "h", "1.5", "$-1", "0h"):
        with pytest.raises(DlkitError, match=r"--budget must be.*Got"):
            job.budget(text)
    with pytest.raises(DlkitError, match=r"--price"):
        Job().budget("$1M")
    with pytest.raises(DlkitError, match=r"--gpu and --mfu"):
        Job().budget("10h")
    summary = costs.sizes("1e24", "2", Job()).summary
    assert 6 * summary["params"] * summary["tokens"] == pytest.approx(1e24)
