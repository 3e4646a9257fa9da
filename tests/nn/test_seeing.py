"""What a run shows of itself: layers watched, verdicts, dry runs, the rows of a failure."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from dlkit.core.job import JobOptions
from dlkit.core.recipe import OPTIMIZERS, Recipe
from dlkit.nn import estimate
from dlkit.nn.batch import estimate as estimate_of
from dlkit.nn.blame import with_rows
from dlkit.nn.fit import Diverged
from dlkit.nn.gauge import Gauge, findings
from dlkit.nn.norms import held
from dlkit.nn.objective import Objective
from dlkit.nn.prepare import prepare
from dlkit.nn.ranks import Ranks
from dlkit.nn.schedule import Rates
from dlkit.nn.start import Start
from dlkit.nn.step import Stepper
from dlkit.nn.train import begin
from dlkit.nn.verdict import judge, train_score

CLASSES = Objective("classification", 3)


def batch(rows: int = 16):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 4, generator=generator), torch.arange(rows) % 3


def measured(model, lr: float = 0.1, decay: float = 1e-4):
    step = Stepper(model, CLASSES, Recipe(optimizer="sgd", momentum=0.0, weight_decay=decay))
    gauge = Gauge(model, step.optimizers)
    step(batch(), Rates(lr))
    step(batch(), Rates(lr))  # not measured
    return {row["layer"]: row for row in gauge.take()}


class Sine(nn.Module):
    """Bounded, and steep wherever it is: what goes forward stays small while gradients grow."""

    def forward(self, x):
        return torch.sin(x)


def deep(activation: type[nn.Module], layers: int = 20, scale: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), *(m for _ in range(layers) for m in (activation(), nn.Linear(16, 16))))
    model.append(nn.Linear(16, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    return model


def test_gradients_and_updates_are_those_of_the_step():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    copy = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    copy.load_state_dict(model.state_dict())
    rows = measured(model, decay=0.0)
    x, y = batch()
    nn.functional.cross_entropy(copy(x), y).backward()
    for name in ("0", "2"):
        grad = torch.cat([p.grad.flatten() for p in copy[int(name)].parameters()])
        weight = torch.cat([p.detach().flatten() for p in copy[int(name)].parameters()])
        assert rows[name]["grad_norm"] == pytest.approx(grad.norm().item(), rel=1e-5)
        assert rows[name]["weight_norm"] == pytest.approx(weight.norm().item(), rel=1e-5)
        assert rows[name]["update_ratio"] == pytest.approx(0.1 * grad.norm().item() / weight.norm().item(), rel=1e-3)
    assert rows["1"]["dead"] == ((copy[0](x) > 0).any(0)).logical_not().float().mean()


def test_vanishing_and_exploding_are_measured():  # S182-S187
    assert "vanish" in findings(list(measured(deep(nn.Sigmoid)).values()))[0]
    assert "explode" in findings(list(measured(deep(Sine, scale=5.0), lr=1e-12).values()))[0]
    fine = findings(list(measured(deep(nn.ReLU, 1), lr=1e-3).values()))
    assert len(fine) == 1 and fine[0].startswith("nothing out of the ordinary in 3 layers")


def test_dead_units_and_a_rate_that_is_too_high():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([-100.0] * 6 + [100.0] * 2))
    said = " ".join(findings(list(measured(model, lr=10.0).values())))
    assert "75% of 1's units are 0" in said and "by more than a tenth" in said


class Pair(Ranks):
    """Two processes, of which the other has seen the first unit alone."""

    def largest(self, values):
        return [1.0, *values[1:]]


def test_a_unit_is_dead_where_no_process_saw_it_alive():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    shares = []
    for ranks in (Ranks(), Pair(0, 2)):
        step = Stepper(model, CLASSES, Recipe())
        gauge = Gauge(model, step.optimizers, ranks)
        step(batch(), Rates(0.0))
        shares.append(gauge.take()[1]["dead"])
    assert shares == [1.0, 0.75]


class Turned(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def test_a_unit_is_a_channel_of_a_map_and_a_feature_of_a_sequence():
    """Three of four channels, and three of four features, are 0 at every position; of positions none is."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(4, 4, 1), nn.ReLU(), Turned(), nn.Linear(4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)
    )
    with torch.no_grad():
        for layer in (model[0], model[3]):
            layer.bias.copy_(torch.tensor([100.0, -100.0, -100.0, -100.0]))
        model[3].weight.zero_()
    step = Stepper(model, CLASSES, Recipe(optimizer="sgd"))
    gauge = Gauge(model, step.optimizers)
    step((torch.randn(8, 4, 5), torch.arange(8) % 3), Rates(0.1))
    rows = {row["layer"]: row for row in gauge.take()}
    assert rows["1"]["dead"] == rows["4"]["dead"] == 0.75


def test_a_layer_that_two_optimisers_train_is_watched_whole():
    """Muon has the weight, AdamW the bias, and all of the last layer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    step = Stepper(model, CLASSES, Recipe(optimizer="muon"))
    gauge = Gauge(model, step.optimizers)
    before = [p.detach().clone() for p in model.parameters()]
    step(batch(), Rates(0.01))
    rows = {row["layer"]: row for row in gauge.take()}
    moved = [(p.detach() - old).norm() for p, old in zip(model.parameters(), before, strict=True)]
    for name, at in (("0", slice(0, 2)), ("2", slice(2, 4))):
        whole = torch.stack([old.norm() for old in before[at]]).norm()
        assert rows[name]["weight_norm"] == pytest.approx(whole.item())
        assert rows[name]["update_ratio"] == pytest.approx((torch.stack(moved[at]).norm() / whole).item(), rel=1e-4)


def test_every_epoch_is_watched(inside):
    answer = json.loads(inside("train", "iris", "--epochs", "2", "--watch", "--json").out)
    layers = [[row["layer"] for row in epoch["layers"]] for epoch in answer["rows"]]
    assert layers == [["columns1", "linear1", "relu1", "linear2", "relu2", "linear3"]] * 2
    assert "layers" not in json.loads(inside("train", "iris", "--epochs", "1", "--json").out)["rows"][0]


TARGETS = torch.arange(300) % 3


@pytest.mark.parametrize(
    ("train", "valid", "losses", "word"),
    [
        (0.34, 0.335, [1.1, 1.1, 1.1], "no signal"),
        (0.99, 0.80, [0.6, 0.5, 0.7], "high variance"),
        (0.60, 0.58, [0.9, 0.9, 0.9], "high bias"),
        (0.80, 0.79, [0.9, 0.7, 0.5], "unfinished"),
        (0.95, 0.94, [0.2, 0.15, 0.151], "balanced"),
    ],
)
def test_verdicts(train, valid, losses, word):
    assert judge(CLASSES, train, valid, TARGETS, losses).word == word


def test_the_training_score_is_of_a_sample_though_the_rows_are_sorted():
    """Iris comes class by class: a network that always answers the first class is right in a third of any sample."""
    job = prepare(JobOptions("iris"), Recipe())
    model = nn.Linear(job.schema.input_shape[0], 3)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    assert train_score(model, job.train, job.objective, 10**9) == pytest.approx(1 / 3, abs=0.01)
    assert 0.1 < train_score(model, job.train, job.objective, 30) < 0.6


def test_a_difference_that_chance_explains_is_no_verdict():
    assert judge(CLASSES, 0.99, 0.90, TARGETS[:30], [0.5, 0.4, 0.45]).word == "balanced"


def test_a_dry_run_says_what_the_run_would_be_and_leaves_nothing(inside, tmp_path):
    words = ["digits", "conv:8,k3", "bn", "relu", "gap", "linear:10", "--epochs", "3", "--batch-size", "64"]
    dry = json.loads(inside("train", *words, "--dry-run", "--json").out)
    assert not list(tmp_path.iterdir())
    run = json.loads(inside("train", *words, "--json").out)["summary"]
    assert {k: dry["summary"][k] for k in ("params", "steps", "epochs", "device")} == {
        k: run[k] for k in ("params", "steps", "epochs", "device")
    }
    forward = 2 * sum(row["macs"] for row in dry["rows"])
    assert 2 * forward < dry["summary"]["step_flops"] / 64 <= 3 * forward
    memory = json.loads(inside("memory", "1x8x8", *words[1:6], "--batch", "64", "--precision", "fp32", "--json").out)
    assert dry["summary"]["memory_bytes"] == memory["summary"]["per_gpu_bytes"]


def test_a_dry_run_says_that_it_would_search_for_the_rate(inside):
    ran = inside("train", "iris", "--lr", "auto", "--dry-run")
    assert ran.code == 0 and "3 sweeps of 150 steps would find the rate first" in ran.err
    assert "sweeps" not in inside("train", "iris", "--dry-run").err


@pytest.mark.parametrize(
    "network", ["flatten linear:16 relu linear:8 relu linear:10", "conv:8,k3 bn relu gap linear:9 linear:10"]
)
@pytest.mark.parametrize(
    "said",
    [
        *({"optimizer": name} for name in OPTIMIZERS),
        {"optimizer": "sgd", "momentum": 0.0},
        {"optimizer": "rmsprop", "momentum": 0.9},
        {"ema": 0.9},
        {"swa": 0.5, "optimizer": "muon"},
    ],
)
def test_a_dry_run_counts_what_the_optimiser_and_the_average_keep(monkeypatch, network, said):
    monkeypatch.setattr(estimate, "MOST", 1)
    job = prepare(JobOptions("digits", tuple(network.split())), Recipe(**said))
    summary = estimate.dry_run(job).summary
    told = summary["memory"]
    stepper = begin(job).stepper
    stepper(next(iter(job.train.shuffled(1))), Rates(0.01))
    moments = [m for o in stepper.optimizers for state in o.state.values() for m in state.values()]
    assert told["optimiser states"] == sum(m.nbytes for m in moments if isinstance(m, torch.Tensor) and m.dim())
    average = stepper.average and sum(p.nbytes for p in stepper.average.model.parameters())
    assert told.get("averaged weights") == average
    assert summary["memory_bytes"] == sum(told.values()) <= estimate_of(job)(job.train.batch_size)


def test_a_dry_run_times_steps_where_an_epoch_is_one(monkeypatch):
    taken, real = [], Stepper.__call__
    monkeypatch.setattr(estimate, "MOST", 4)
    monkeypatch.setattr(estimate, "ENOUGH", float("inf"))
    monkeypatch.setattr(Stepper, "__call__", lambda self, *words: taken.append(words) or real(self, *words))
    answer = estimate.dry_run(prepare(JobOptions("iris", ("linear:3",), batch_size=500), Recipe()))
    assert len(taken) == estimate.WARM + 4 and answer.summary["samples_per_second"] > 0


def test_a_dry_run_counts_the_rows_that_it_took(monkeypatch):
    """Of 120 rows in steps of 100 the second has 20: 60 on average."""
    monkeypatch.setattr(estimate, "MOST", 4)
    monkeypatch.setattr(estimate, "ENOUGH", float("inf"))
    job = prepare(JobOptions("iris", ("linear:3",), batch_size=100), Recipe(epochs=7))
    found = estimate._timed(job)
    assert found[0] == pytest.approx(60 * found[1])


@pytest.mark.parametrize("accumulate", [1, 8])
def test_the_rows_of_a_failure_are_named(accumulate):
    job = prepare(JobOptions("iris"), Recipe(accumulate=accumulate))
    state = begin(job)
    step = 6  # the second step of the second epoch: 4 steps an epoch
    at = job.train.order(2)[job.train.batch_size : 2 * job.train.batch_size]
    job.train.x[at[3]] = torch.nan
    row = job.dataset.where(int(job.split.train[at[3]]))
    failure = with_rows(job, state, Diverged(step, 2, 0.1, 3.0))
    assert failure.message.endswith(f"; its loss is that of {row}") and "step 6 (epoch 2, lr 0.1)" in failure.message
    assert "--lr 0.3," in str(failure.hint)  # a tenth of what was said, wherever the schedule was
    other = with_rows(job, state, Diverged(5, 2, 0.1, 3.0))
    assert "; its rows are row " in other.message and "and 27 more" in other.message


def test_watching_a_compiled_network_is_refused(inside):
    ran = inside("train", "iris", "--watch", "--compile")
    assert ran.code == 2 and "--watch" in ran.err


# Starting points ---------------------------------------------------------------------------------


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_a_run_goes_on_from_another_and_frozen_layers_stay(inside, tmp_path):
    assert (
        inside("train", "digits", "conv:4,k3", "bn", "relu", "gap", "linear:10", "--epochs", "1", "--out", "a").code
        == 0
    )
    ran = inside(
        "train", "digits", "--init-from", "a", "--freeze", "conv*", "--freeze", "bn1", "--epochs", "1", "--out", "b"
    )
    assert ran.code == 0, ran.err
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    same = {name for name in first if torch.equal(first[name], second[name])}
    assert {"conv1.weight", "bn1.weight", "bn1.running_mean", "bn1.running_var"} <= same
    assert "linear1.weight" not in same


def test_what_has_another_shape_is_drawn_afresh_and_said(inside, tmp_path):
    assert (
        inside("train", "digits", "flatten", "linear:8", "relu", "linear:10", "--epochs", "1", "--out", "a").code == 0
    )
    ran = inside("train", "digits", "flatten", "linear:8", "relu", "linear:5", "relu", "linear:10",
                 "--init-from", "a", "--epochs", "1")  # fmt: skip
    assert ran.code == 0 and "drawn afresh: linear2.weight, linear2.bias, linear3.weight" in ran.err


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["--freeze", "conv9"], 2, "--freeze conv9"),
        (["--freeze", "*"], 2, "nothing to train"),
        (["--init-from", "nowhere"], 66, "nowhere"),
    ],
)
def test_bad_starting_points(inside, tmp_path, words, code, named):
    ran = inside("train", "iris", *words)
    assert (ran.code, ran.out) == (code, "") and named in ran.err, ran
    assert not (tmp_path / "runs").exists()


def test_a_frozen_part_is_out_of_the_optimiser():
    job = prepare(JobOptions("iris", freeze=("columns1", "linear1")), Recipe())
    state = begin(replace(job))
    trained = {id(p) for p in state.stepper.parameters}
    named = dict(state.model.named_parameters())
    assert {n for n, p in named.items() if id(p) in trained} == {
        f"linear{i}.{part}" for i in (2, 3) for part in ("weight", "bias")
    }


@pytest.mark.parametrize(("frozen", "stays"), [("linear1", False), ("bn*", True), ("linear*", False)])
def test_a_norm_without_weights_stays_where_its_name_is_frozen_alone(frozen, stays):
    job = prepare(JobOptions("iris", ("linear:6", "bn:affine=0", "linear:6", "bn", "linear:3")), Recipe())
    model = job.model(0)
    Start({}, (frozen,)).apply(model)
    assert held(model.bn1) == stays and held(model.bn2) == stays
