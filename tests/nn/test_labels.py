"""Training on several labels at once: the loss against torch's, and a step by hand."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dlkit.core.augment import parse_augment
from dlkit.core.errors import DlkitError
from dlkit.core.job import JobOptions
from dlkit.core.recipe import Recipe
from dlkit.nn.augment import Augmenter
from dlkit.nn.objective import Objective, evaluate, label_weights, make_objective
from dlkit.nn.prepare import prepare
from dlkit.nn.schedule import Rates
from dlkit.nn.step import Stepper
from dlkit.nn.verdict import judge

LABELS = Objective("multi-label", 3)
GENERATOR = torch.Generator().manual_seed(0)
OUTPUT = torch.randn(20, 3, generator=GENERATOR)
TARGET = (torch.rand(20, 3, generator=GENERATOR) < torch.tensor([0.2, 0.5, 0.9])).float()
WEIGHTS = torch.tensor([4.0, 1.0, 0.25])
NAMES, CPU = ("a", "b", "c"), torch.device("cpu")


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_torchs(weights, smoothing):
    ours = Objective("multi-label", 3, weights=weights, smoothing=smoothing).loss(OUTPUT, TARGET)
    smooth = TARGET * (1 - smoothing) + smoothing / 2
    torch.testing.assert_close(ours, nn.BCEWithLogitsLoss(pos_weight=weights)(OUTPUT, smooth))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_is_lins_formula(weights):
    p = OUTPUT.sigmoid()
    positive = (1.0 if weights is None else weights) * TARGET * (1 - p) ** 1.5 * p.log()
    negative = (1 - TARGET) * p**1.5 * (1 - p).log()
    focal = Objective("multi-label", 3, name="focal", gamma=1.5, weights=weights)
    torch.testing.assert_close(focal.loss(OUTPUT, TARGET), -(positive + negative).mean())
    flat = Objective("multi-label", 3, name="focal", gamma=0.0, weights=weights).loss(OUTPUT, TARGET)
    torch.testing.assert_close(flat, nn.BCEWithLogitsLoss(pos_weight=weights)(OUTPUT, TARGET))


def test_focal_is_torchvisions():
    ops = pytest.importorskip("torchvision.ops")
    theirs = ops.sigmoid_focal_loss(OUTPUT, TARGET, alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(Objective("multi-label", 3, name="focal").loss(OUTPUT, TARGET), theirs)


def test_balanced_weights_make_both_sides_count_the_same():
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    assert label_weights("balanced", NAMES, targets).tolist() == [3.0, 1.0, 1.0]
    assert label_weights("c=2.5,a=0", NAMES, targets).tolist() == [0.0, 1.0, 2.5]
    with pytest.raises(DlkitError, match="no label 'd'"):
        label_weights("d=2", NAMES, targets)


def test_what_means_nothing_is_refused():
    for recipe, message in (
        (Recipe(loss="cross-entropy"), "--loss cross-entropy is not for multi-label"),
        (Recipe(loss="mse"), "--loss mse is not for multi-label"),
    ):
        with pytest.raises(DlkitError, match=message):
            make_objective("multi-label", NAMES, 1.0, recipe, TARGET, CPU)
    found = make_objective("multi-label", NAMES, 1.0, Recipe(label_smoothing=0.1, class_weights="b=2"), TARGET, CPU)
    assert found.smoothing == 0.1 and found.weights.tolist() == [1, 2, 1] and found.outputs == 3
    with pytest.raises(DlkitError, match="--label-smoothing has no effect with --loss bce of classes"):
        make_objective("classification", NAMES, 1.0, Recipe(loss="bce", label_smoothing=0.1), torch.arange(3), CPU)


def test_a_step_by_hand():
    """SGD on the mean over rows and labels, in one part and in micro-batches of unequal size."""
    x = torch.randn(20, 4, generator=GENERATOR)
    for parts in (1, 3):
        torch.manual_seed(0)
        ours, hand = nn.Sequential(nn.Linear(4, 3)), nn.Linear(4, 3)
        hand.load_state_dict(ours[0].state_dict())
        recipe = Recipe(lr=0.1, optimizer="sgd", momentum=0.0, nesterov=False, weight_decay=0.0, accumulate=parts)
        loss = Stepper(ours, Objective("multi-label", 3, weights=WEIGHTS), recipe)((x, TARGET), Rates(0.1))
        p = hand(x).sigmoid()
        mean = -(WEIGHTS * TARGET * p.log() + (1 - TARGET) * (1 - p).log()).sum() / 60
        mean.backward()
        torch.testing.assert_close(loss, mean.detach())
        for a, b in zip(ours[0].parameters(), hand.parameters(), strict=True):
            torch.testing.assert_close(a, b - 0.1 * b.grad)


@pytest.fixture
def make(tmp_path):
    def job(shape, network, rows=53, **said):
        rng = np.random.default_rng(3)
        x = rng.normal(size=(rows, *shape)).astype(np.float32)
        flat = x.reshape(rows, -1)
        np.savez(tmp_path / "a.npz", X=x, y=np.column_stack([flat[:, 0] > 0, flat[:, 1] + flat[:, 2] > 1]))
        options = JobOptions(str(tmp_path / "a.npz"), tuple(network.split()), batch_size=8)
        return prepare(options, Recipe(**{"epochs": 3, "lr": 0.01} | said))

    return job


def test_validation_is_the_mean_over_rows_and_labels(make):
    """Of the plain binary cross-entropy, whatever is minimised; batches of unequal size count by their rows."""
    job = make((4,), "linear:8 relu linear:2", rows=300, loss="focal", class_weights="balanced")
    model = job.model(0)
    loss, metric = evaluate(model, job.valid, job.objective)
    with torch.no_grad():
        output = model(job.valid.x)
    assert metric == pytest.approx(F.binary_cross_entropy_with_logits(output, job.valid.y).item(), rel=1e-5)
    assert loss == pytest.approx(Objective("multi-label", 2, name="focal").loss(output, job.valid.y).item(), rel=1e-5)
    assert job.objective.metric == "log_loss" and job.objective.better(0.2, 0.3)


def test_the_verdict_knows_the_constant_answer():
    """Saying each label's share of every row is no signal, and half of that log loss is one."""
    shares = TARGET.double().mean(0)
    constant = -(shares * shares.log() + (1 - shares) * (1 - shares).log()).mean().item()
    assert judge(LABELS, constant, constant, TARGET, [1.0, 1.0]).word == "no signal"
    assert judge(LABELS, constant / 4, constant / 4, TARGET, [1.0, 1.0]).word == "balanced"
    many = TARGET.repeat(100, 1)
    assert judge(LABELS, constant / 9, constant / 2, many, [1.0, 1.0]).word == "high variance"


def test_mixed_images_have_mixed_labels():
    """λ of the row's own labels and 1 − λ of its partner's: each is between the two, and some are strictly."""
    x, y = torch.rand(64, 1, 6, 6, generator=GENERATOR), (torch.rand(64, 3, generator=GENERATOR) < 0.5).float()
    mixup, rows = Augmenter(parse_augment("mixup:1"), 64, 3, 0), torch.arange(64)
    at = mixup.partners(rows, 1)
    mixed, targets = mixup(x, y, rows, 1, (x[at], y[at]))
    assert targets.shape == y.shape and ((targets > 0) & (targets < 1)).any() and (targets >= 0).all()
    same = targets[(targets == y).all(1)]
    assert mixed.shape == x.shape and len(same) < 64
    # Where an image's first pixel says the share, its labels were mixed by that share too.
    plain = torch.zeros(64, 1, 6, 6)
    plain[:, 0] = y[:, :1, None]
    blended, labels = mixup(plain, y, rows, 1, (plain[at], y[at]))
    torch.testing.assert_close(blended[:, 0, 0, 0], labels[:, 0])
