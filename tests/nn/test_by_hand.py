"""Whole runs against a loop written from the definitions with nothing but torch: every optimiser, schedule and loss."""

import copy
import math
import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler as rates

from dlkit.core import console
from dlkit.core.job import JobOptions
from dlkit.core.keeping import Every
from dlkit.core.recipe import Recipe
from dlkit.nn.fit import fit
from dlkit.nn.prepare import prepare
from dlkit.nn.schedule import Plan
from dlkit.nn.train import begin
from dlkit.nn.watch import Watch

EPOCHS, LR = 12, 0.02
"""Of iris: 4 steps of 32, 32, 32 and 24 rows each."""


def trained(data: str, **said):
    """(job, state at the end, epochs, the network as it was before the first step) of a run of dlkit."""
    outputs = 3 if data == "iris" else 1
    network = ("linear:8", "tanh", "linear:8", "tanh", f"linear:{outputs}")
    recipe = Recipe(**({"lr": LR, "epochs": EPOCHS} | said))
    job = prepare(JobOptions(data, network), recipe)
    state = begin(job)
    before = copy.deepcopy(state.model)
    with console.progress(0) as bar:
        epochs = [e for e in fit(state, job.train, job.valid, job.objective, recipe, Watch(), bar) if e]
    return job, state, epochs, before


def same(ours: nn.Module, hand: nn.Module, atol: float = 1e-6) -> None:
    for a, b in zip(ours.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


# Optimisers and schedules --------------------------------------------------------------------------------------------


def optimizers(name: str, model: nn.Module) -> list[torch.optim.Optimizer]:
    """Torch's own with the defaults that the help names; biases are not decayed."""
    weights, biases = ([p for p in model.parameters() if p.dim() == rank] for rank in (2, 1))

    def groups(decay: float, weights=weights):
        return [{"params": weights, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}]

    if name == "muon":
        # Newton and Schulz run in bfloat16, where a last bit grows: the same kernels for the rest.
        muon = torch.optim.Muon(weights[:2], lr=LR, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW(groups(0.01, weights[2:]), lr=LR, fused=True)]
    if name == "sgd":
        return [torch.optim.SGD(groups(1e-4), lr=LR, momentum=0.9, nesterov=True)]
    if name == "rmsprop":
        return [torch.optim.RMSprop(groups(0.0), lr=LR)]
    return [torch.optim.Adam(groups(0.0), lr=LR) if name == "adam" else torch.optim.AdamW(groups(0.01), lr=LR)]


def risen(steps: int, after):
    return lambda i: (i + 1) / (steps + 1) if i < steps else after(i - steps)


def cooled(total: int, rise: int):
    """Stable, then 1 - √ over the last fifth of all steps."""
    start = 0.8 * total - rise
    return lambda i: 1 - math.sqrt(max(i - start, 0) / (0.2 * total))


def restarted(total: int):
    """Cosines over 1/7, 2/7 and 4/7 of the steps."""

    def factor(i: float) -> float:
        start, length = next((s, n) for s, n in ((0, 1), (1, 2), (3, 4)) if i < (s + n) / 7 * total)
        return (1 + math.cos(math.pi * (i - start / 7 * total) / (length / 7 * total))) / 2

    return factor


def schedule(name: str, optimizer: torch.optim.Optimizer, total: int):
    """One of torch's that is stepped after each update; the rises are those that the help names."""
    if name == "one-cycle":
        cycles = not isinstance(optimizer, torch.optim.RMSprop)
        return rates.OneCycleLR(optimizer, LR, total_steps=total, cycle_momentum=cycles)
    if name == "cosine":
        return rates.CosineAnnealingLR(optimizer, T_max=total)
    tenth, twentieth = round(0.1 * total), round(0.05 * total)
    factors = {
        "cosine-restarts": restarted(total),
        "linear": risen(tenth, lambda i: 1 - i / (total - tenth)),
        "wsd": risen(twentieth, cooled(total, twentieth)),
        "constant": lambda i: 1.0,
        "plateau": lambda i: 1.0,
    }
    return rates.LambdaLR(optimizer, factors[name])


@pytest.mark.parametrize("name", ["one-cycle", "cosine", "cosine-restarts", "linear", "wsd", "constant"])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "rmsprop", "muon"])
def test_a_run_is_torchs(optimizer, name):
    """48 steps, weights to 1e-6; the losses and the accuracy of each epoch; the rate of its last step."""
    job, state, epochs, hand = trained("iris", optimizer=optimizer, schedule=name)
    total, step = EPOCHS * len(job.train), 0
    theirs = optimizers(optimizer, hand)
    schedules = [schedule(name, each, total) for each in theirs]
    for epoch in epochs:
        losses = []
        for x, y in job.train.shuffled(epoch.epoch):
            hand.zero_grad()
            loss = F.cross_entropy(hand(x), y)
            loss.backward()
            lr, step = theirs[0].param_groups[0]["lr"], step + 1
            for each in theirs:
                each.step()
            for each in schedules if step < total else ():
                each.step()
            losses.append(loss.detach() * len(y))
        output = hand(job.valid.x).detach()
        assert epoch.lr == pytest.approx(lr)
        assert epoch.train_loss == pytest.approx((sum(losses) / job.train.rows).item(), rel=1e-5)
        assert epoch.valid_loss == pytest.approx(F.cross_entropy(output, job.valid.y).item(), rel=1e-4)
        assert epoch.metric == pytest.approx((output.argmax(1) == job.valid.y).float().mean().item())
    same(state.model, hand)


def test_plateau_lowers_the_rate_where_torchs_does():
    """The rate is far too high, so that the validation loss soon stands still."""
    said = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 5.0, "epochs": 25, "min_lr": 0.1}
    job, state, epochs, hand = trained("iris", schedule="plateau", **said)
    optimizer = torch.optim.SGD(hand.parameters(), lr=5.0)
    plateau = rates.ReduceLROnPlateau(optimizer, factor=0.1, patience=5, min_lr=0.1)
    for epoch in epochs:
        assert epoch.lr == pytest.approx(optimizer.param_groups[0]["lr"])
        for x, y in job.train.shuffled(epoch.epoch):
            hand.zero_grad()
            F.cross_entropy(hand(x), y).backward()
            optimizer.step()
        plateau.step(F.cross_entropy(hand(job.valid.x), job.valid.y).item())
    assert epochs[-1].lr == 0.1 and epochs[0].lr == 5.0
    same(state.model, hand, 1e-4)


def test_a_step_that_loss_scaling_skips_is_no_step_of_the_schedule(monkeypatch):
    """Two gradients overflow: the rate of those steps is taken again, and the average does not count them."""
    asked, seen = [], []
    real = Plan.__call__

    def overflow(layer, gradients):
        seen.append(layer)
        return (gradients[0] * (torch.inf if len(seen) in (2, 3) else 1),)

    monkeypatch.setattr(Plan, "__call__", lambda self, step: asked.append(step) or real(self, step))
    recipe = Recipe(precision="fp16", epochs=2, schedule="linear", ema=0.5)
    job = prepare(JobOptions("iris", ("linear:8", "tanh", "linear:3")), recipe)
    state = begin(job)
    state.model[-1].register_full_backward_pre_hook(overflow)
    with console.progress(0) as bar:
        list(fit(state, job.train, job.valid, job.objective, recipe, Watch(), bar))
    assert asked == [0, 1, 1, 1, 2, 3, 4, 5]
    assert (state.stepper.skipped, state.stepper.average.count) == (2, 6)
    assert state.stepper.scaler.get_scale() == 2.0**14


def test_the_time_of_an_epoch_is_that_of_its_steps():
    """While a checkpoint is written the clock stands."""
    recipe, paused = Recipe(epochs=1), 0.0
    job = prepare(JobOptions("iris", ("linear:3",)), recipe)
    with console.progress(0) as bar:
        watch = Watch(Every(steps=1))
        for epoch in fit(begin(job), job.train, job.valid, job.objective, recipe, watch, bar):
            if epoch is None:
                time.sleep(0.5)
                paused += 0.5
    assert paused == 2 and epoch.seconds < 1


# Losses and penalties ------------------------------------------------------------------------------------------------


def balanced(y: torch.Tensor) -> torch.Tensor:
    counts = torch.bincount(y, minlength=3)
    return len(y) / (3 * counts)


def focal(x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, gamma: float) -> torch.Tensor:
    p = x.softmax(1).gather(1, y[:, None])[:, 0]
    return (-weights[y] * (1 - p) ** gamma * p.log()).sum() / weights[y].sum()


def each_class(x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    truth, p = F.one_hot(y, 3).float(), x.sigmoid()
    rows = -(truth * p.log() + (1 - truth) * (1 - p).log()).mean(1)
    return (weights[y] * rows).sum() / weights[y].sum()


def smoothed(x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """0.9 of the row's own class and a tenth of the mean over classes, each with its weight."""
    costs = -x.log_softmax(1) * weights
    own = costs.gather(1, y[:, None])[:, 0]
    return (0.9 * own + 0.1 * costs.mean(1)).sum() / weights[y].sum()


def huber(d: torch.Tensor, delta: float) -> torch.Tensor:
    return torch.where(d.abs() <= delta, d.square() / 2, delta * (d.abs() - delta / 2))


WEIGHED = {"class_weights": "versicolor=3,setosa=0.5"}
LOSSES = {
    "cross-entropy": ("iris", WEIGHED | {"label_smoothing": 0.1}, smoothed),
    "focal": ("iris", WEIGHED | {"loss": "focal", "gamma": 1.5}, lambda x, y, w: focal(x, y, w, 1.5)),
    "bce": ("iris", WEIGHED | {"loss": "bce"}, each_class),
    "mse": ("diabetes", {}, lambda x, y, w: (x[:, 0] - y).square().mean()),
    "mae": ("diabetes", {"loss": "mae"}, lambda x, y, w: (x[:, 0] - y).abs().mean()),
    "huber": ("diabetes", {"loss": "huber", "delta": 0.5}, lambda x, y, w: huber(x[:, 0] - y, 0.5).mean()),
    "smooth-l1": (
        "diabetes",
        {"loss": "smooth-l1", "delta": 0.5},
        lambda x, y, w: huber(x[:, 0] - y, 0.5).mean() / 0.5,
    ),
}


@pytest.mark.parametrize("accumulate", [1, 5])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_with_its_weights_penalty_and_clip_is_its_formula(name, accumulate):
    """SGD by hand: gradients of the formula, L1 on weights, clipped as a whole, momentum; also in micro-batches."""
    data, said, formula = LOSSES[name]
    more = {"optimizer": "sgd", "schedule": "constant", "weight_decay": 0.01, "nesterov": False}
    said = said | more | {"epochs": 3, "l1": 0.002, "clip": 0.3, "accumulate": accumulate}
    job, state, epochs, hand = trained(data, **said)
    weights = torch.tensor([0.5, 3.0, 1.0])
    velocity = [torch.zeros_like(p) for p in hand.parameters()]
    for epoch in epochs:
        for x, y in job.train.shuffled(epoch.epoch):
            hand.zero_grad()
            (
                formula(hand(x), y, weights) + 0.002 * sum(p.abs().sum() for p in hand.parameters() if p.dim() > 1)
            ).backward()
            norm = torch.sqrt(sum(p.grad.square().sum() for p in hand.parameters()))
            with torch.no_grad():
                for p, v in zip(hand.parameters(), velocity, strict=True):
                    gradient = p.grad * min(0.3 / norm, 1)
                    v.mul_(0.9).add_(gradient + (0.01 * p if p.dim() > 1 else 0))
                    p -= LR * v
    same(state.model, hand, 2e-6)


# What is kept --------------------------------------------------------------------------------------------------------


def test_the_moving_average_is_judged_and_kept():
    """Decay min(d, (1 + n)/(10 + n)) after step n; validation sees the average."""
    job, state, epochs, hand = trained("iris", ema=0.9, optimizer="sgd", schedule="constant", momentum=0.0, epochs=4,
                                       weight_decay=0.0)  # fmt: skip
    average, n = copy.deepcopy(hand), 0
    for epoch in epochs:
        for x, y in job.train.shuffled(epoch.epoch):
            hand.zero_grad()
            F.cross_entropy(hand(x), y).backward()
            decay, n = min(0.9, (1 + n) / (10 + n)), n + 1
            with torch.no_grad():
                for p, a in zip(hand.parameters(), average.parameters(), strict=True):
                    p -= LR * p.grad
                    a.copy_(decay * a + (1 - decay) * p)
        output = average(job.valid.x)
        assert epoch.valid_loss == pytest.approx(F.cross_entropy(output, job.valid.y).item(), rel=1e-4)
    same(state.model, hand)
    same(state.stepper.judged, average)


def test_patience_keeps_the_weights_of_the_best_epoch_and_ends_when_told(inside, tmp_path):
    """The first of the best epochs counts; the run ends after so many without a better one. At a constant rate a run
    of just so many epochs ends with the weights that are kept."""
    import json

    from safetensors.torch import load_file

    words = ["train", "iris", "linear:8", "relu", "linear:3", "--schedule", "constant", "--json"]
    answer = json.loads(inside(*words, "--epochs", "60", "--patience", "3", "--out", "long").out)
    scores = [row["accuracy"] for row in answer["rows"]]
    best = scores.index(max(scores)) + 1
    assert (answer["summary"]["best_epoch"], answer["summary"]["best"]) == (best, max(scores))
    bests = [scores.index(max(scores[:i])) for i in range(1, len(scores) + 1)]
    assert [i - at == 3 for i, at in enumerate(bests)] == [False] * (len(scores) - 1) + [True]
    inside(*words, "--epochs", str(best), "--out", "short")
    long, short = (load_file(tmp_path / name / "model.safetensors") for name in ("long", "short"))
    assert all(torch.equal(long[name], short[name]) for name in long)
