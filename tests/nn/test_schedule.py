"""Schedules against torch's own."""

import pytest
import torch

from dlkit.nn.schedule import SCHEDULES, cosine, one_cycle


def torch_rates(make, total: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, rates = make(optimizer), []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if len(rates) < total else None
    return rates


@pytest.mark.parametrize("total", [4, 7, 10, 63, 900])
def test_one_cycle_is_torchs(total):
    """From 4 steps on; below, torch has no step at the peak, and a run of one step would train at a rate near 0."""

    def make(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=total)

    assert [one_cycle(i, total) for i in range(total)] == pytest.approx(torch_rates(make, total), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("total", [1, 5, 100])
def test_cosine_is_torchs(total):
    def make(optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)

    assert [cosine(i, total) for i in range(total)] == pytest.approx(torch_rates(make, total), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 3])
def test_short_runs_have_a_rate_above_zero(name, total):
    assert all(0 < SCHEDULES[name](i, total) <= 1 for i in range(total))
