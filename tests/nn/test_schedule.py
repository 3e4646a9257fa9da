"""Schedules against torch's own."""

import pytest
import torch
from torch.optim import lr_scheduler

from dlkit.core.errors import DlkitError
from dlkit.core.recipe import SCHEDULES as NAMES
from dlkit.core.recipe import Recipe
from dlkit.nn.schedule import (
    SCHEDULES,
    Plan,
    Plateau,
    check_rise,
    cosine,
    cosine_restarts,
    idle,
    linear,
    one_cycle,
    warmed,
    wsd,
)


def torchs(make, total: int, key: str = "lr") -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
    schedule, rates = make(optimizer), []
    for _ in range(total):
        rates.append(optimizer.param_groups[0][key])
        optimizer.step()
        schedule.step() if len(rates) < total else None
    return rates


def close(values):
    return pytest.approx(values, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("total", [4, 7, 10, 63, 900])
def test_one_cycle_is_torchs(total):
    """From 4 steps on; below, torch has no step at the peak, and a run of one step would train at a rate near 0."""

    def make(optimizer):
        return lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=total)

    plan = Plan(Recipe(lr=1.0, optimizer="sgd"), total, total)
    assert [one_cycle(i, total) for i in range(total)] == close(torchs(make, total))
    assert [plan(i).lr for i in range(total)] == close(torchs(make, total))
    assert [plan(i).momentum for i in range(total)] == close(torchs(make, total, "momentum"))


def test_a_momentum_that_is_said_is_not_cycled():
    assert Plan(Recipe(momentum=0.9), 10, 10)(3).momentum is None
    assert Plan(Recipe(schedule="cosine"), 10, 10)(3).momentum is None


@pytest.mark.parametrize("total", [1, 5, 100])
def test_cosine_and_linear_are_torchs(total):
    def annealed(optimizer):
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=total, eta_min=0.1)

    def straight(optimizer):
        return lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.1, total_iters=total)

    assert [cosine(i, total, 0.1) for i in range(total)] == close(torchs(annealed, total))
    assert [linear(i, total, 0.1) for i in range(total)] == close(torchs(straight, total))


def test_warm_restarts_are_torchs():
    def make(optimizer):
        return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10, T_mult=2, eta_min=0.05)

    assert [cosine_restarts(i, 70, 3, 0.05) for i in range(70)] == close(torchs(make, 70))


def test_warm_up_stable_decay():
    rates = [warmed(wsd, 10)(i, 110) for i in range(110)]
    assert rates[:10] == close([(i + 1) / 11 for i in range(10)])
    assert rates[10:91] == [1.0] * 81
    assert rates[95] == pytest.approx(1 - (5 / 20) ** 0.5) and rates[-1] < 0.03


def test_plateau_is_torchs():
    losses = [1.0, 0.9, 0.9, 0.89999, 0.95, 0.9, 0.91, 0.92, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs, ours = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=5, min_lr=0.02), Plateau(0.02)
    for loss in losses:
        theirs.step(loss)
        ours.observe(loss)
        assert ours.factor == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours.factor == 0.02


def test_plateau_is_in_the_plans_state():
    plan = Plan(Recipe(schedule="plateau", lr=1.0), 100, 10)
    for _ in range(8):
        plan.observe(1.0)
    again = Plan(Recipe(schedule="plateau", lr=1.0), 100, 10)
    again.load_state_dict(plan.state_dict())
    assert again(50) == plan(50) and plan(50).lr == pytest.approx(0.1)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 3, 50])
def test_every_step_has_a_rate_above_zero(name, total):
    plan = Plan(Recipe(lr=1.0, schedule=name), total, total)
    assert all(0 < plan(i).lr <= 1 for i in range(total))
    assert plan(total + 5).lr > 0  # past the end, where torch's one-cycle raises


def test_averaging_starts_where_the_rate_stays():
    plan = Plan(Recipe(lr=1.0, epochs=8, swa=0.25), 80, 10)
    assert len({plan(i).lr for i in range(60, 80)}) == 1 and plan(60).lr == plan(59 + 1).lr < plan(50).lr


@pytest.mark.parametrize("name", SCHEDULES)
def test_averaging_all_epochs_is_at_the_peak_and_not_at_the_start_of_the_rise(name):
    plan = Plan(Recipe(lr=1.0, epochs=1, swa=0.25, schedule=name), 100, 100)
    assert plan(99).lr > 0.99 and plan(99).lr == plan(40).lr


def test_wsd_falls_over_a_share_of_all_steps():
    plan = Plan(Recipe(lr=1.0, schedule="wsd", warmup=0.5, decay=0.4), 100, 100)
    assert [plan(i).lr for i in range(50, 60)] == [1.0] * 10
    assert plan(70).lr == pytest.approx(1 - (10 / 40) ** 0.5)
    steep = Plan(Recipe(lr=1.0, schedule="wsd", warmup=0.5, decay=0.9), 100, 100)
    assert steep(50).lr == 1.0 and steep(51).lr < 1.0


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"patience": 6}, "--patience 6 ends the run before"),
        ({"epochs": 7}, "--epochs is 7"),
        ({"patience": 7, "epochs": 8}, None),
        ({"schedule": "cosine", "patience": 1}, None),
    ],
)
def test_a_plateau_that_is_never_reached_is_said(said, words):
    told = idle(Recipe(**{"schedule": "plateau"} | said))
    assert told is None if words is None else words in str(told)


def test_a_rise_that_outlasts_the_run_is_refused():
    with pytest.raises(DlkitError, match="--warmup 100: the run has 100 steps"):
        check_rise(Recipe(schedule="cosine", warmup=100), 100)
    check_rise(Recipe(schedule="cosine", warmup=99), 100)
    check_rise(Recipe(), 1)


def test_the_names_are_those_of_the_recipe():
    assert set(SCHEDULES) == set(NAMES)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"beta2": 0.9, "optimizer": "sgd"}, "--beta2 has no effect with --optimizer sgd"),
        ({"nesterov": True}, "--nesterov has no effect with --optimizer adamw"),
        ({"nesterov": True, "optimizer": "sgd", "momentum": 0.0}, "--nesterov needs"),
        ({"min_lr": 1e-5}, "--min-lr has no effect with --schedule one-cycle"),
        ({"min_lr": 1.0, "schedule": "cosine"}, "--min-lr 1 is above the peak"),
        ({"cycles": 2, "schedule": "cosine"}, "--cycles has no effect with --schedule cosine"),
        ({"decay": 0.5}, "--decay has no effect"),
        ({"gamma": 1.0}, "--gamma has no effect with the default --loss"),
        ({"delta": 1.0, "loss": "mse"}, "--delta has no effect with --loss mse"),
        ({"label_smoothing": 0.1, "loss": "focal"}, "--label-smoothing has no effect"),
        ({"class_weights": "balanced", "loss": "huber"}, "--class-weights has no effect"),
        ({"ema": 0.9, "swa": 0.5}, "--ema and --swa"),
        ({"warmup": 100.0}, "--warmup of one-cycle is a share"),
        ({"compile": True, "checkpoint_activations": True}, "--checkpoint-activations does not go with --compile"),
    ],
)
def test_options_without_effect_are_refused_by_name(said, words):
    with pytest.raises(DlkitError, match=words):
        Recipe(**said)


def test_a_recipe_as_words():
    recipe = Recipe(optimizer="sgd", nesterov=False, class_weights="a b=2", compile=True, lr=0.1)
    assert Recipe(lr=0.123456789, clip=1.0).words() == "--lr 0.123456789 --clip 1"  # not another recipe
    assert recipe.words("lr") == "--optimizer sgd --no-nesterov --class-weights 'a b=2' --compile"
