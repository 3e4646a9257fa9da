"""Losses against torch's own functions and the notes' known answers."""

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from dlkit.core.errors import DlkitError
from dlkit.core.reading import MULTI_LABEL
from dlkit.core.recipe import Recipe
from dlkit.nn.objective import Objective, binary, class_weights, make_objective

CLASSES = Objective("classification", 3)
CPU = torch.device("cpu")
OUTPUT = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(20) % 3
WEIGHTS = torch.tensor([1.0, 4.0, 0.25])


def test_known_losses():
    """Mean cross-entropy of a sure and right, and of a uniform answer; squared error of B×1 against B."""
    sure = torch.tensor([[50.0, 0, 0]])
    assert CLASSES.loss(sure, torch.tensor([0])).item() == pytest.approx(0, abs=1e-6)
    assert CLASSES.loss(torch.zeros(5, 3), torch.arange(5) % 3).item() == pytest.approx(1.0986123)
    regression = Objective("regression", 1, unit=10.0)
    assert regression.loss(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 0.0])).item() == 5.0
    assert regression.value(10.0, 2) == pytest.approx(10 * 5**0.5)


def test_binary_cross_entropy_of_the_notes():
    """Probabilities .9, .2, .6 of three labels, of which the first and the last are true: .839 summed, .280 mean."""
    output, truth = torch.logit(torch.tensor([[0.9, 0.2, 0.6]])), torch.tensor([[1.0, 0.0, 1.0]])
    assert binary(output, truth).item() == pytest.approx(0.280, abs=5e-4)
    assert 3 * binary(output, truth).item() == pytest.approx(0.839, abs=5e-4)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(weights, smoothing):
    ours = Objective("classification", 3, weights=weights, smoothing=smoothing).loss(OUTPUT, TARGET)
    torch.testing.assert_close(ours, F.cross_entropy(OUTPUT, TARGET, weight=weights, label_smoothing=smoothing))


def test_focal_is_lins_formula():
    p = OUTPUT.softmax(1)[torch.arange(20), TARGET]
    expected = (-WEIGHTS[TARGET] * (1 - p) ** 2 * p.log()).sum() / WEIGHTS[TARGET].sum()
    focal = Objective("classification", 3, name="focal", weights=WEIGHTS)
    torch.testing.assert_close(focal.loss(OUTPUT, TARGET), expected)
    flat = Objective("classification", 3, name="focal", gamma=0.0).loss(OUTPUT, TARGET)
    torch.testing.assert_close(flat, F.cross_entropy(OUTPUT, TARGET))


def test_bce_is_one_yes_or_no_for_each_class():
    truth = F.one_hot(TARGET, 3).float()
    bce = Objective("classification", 3, name="bce")
    torch.testing.assert_close(bce.loss(OUTPUT, TARGET), F.binary_cross_entropy_with_logits(OUTPUT, truth))
    assert bce.probabilities(OUTPUT).sum(1).numpy() == pytest.approx(1)


ERRORS = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": lambda x, y: F.huber_loss(x, y, delta=0.5),
    "smooth-l1": lambda x, y: F.smooth_l1_loss(x, y, beta=0.5),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_torchs(name):
    y = torch.linspace(-2, 2, 20)
    ours = Objective("regression", 1, name=name, delta=0.5).loss(OUTPUT[:, :1], y)
    torch.testing.assert_close(ours, ERRORS[name](OUTPUT[:, 0], y))


def test_balanced_weights_are_scikit_learns():
    targets = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets.numpy())
    assert class_weights("balanced", ("a", "b", "c"), targets).numpy() == pytest.approx(expected)
    assert class_weights("b=3,c=0.5", ("a", "b", "c"), targets).tolist() == [1.0, 3.0, 0.5]


@pytest.mark.parametrize(
    ("text", "words"), [("d=1", "no class 'd'"), ("a=-1", "-1"), ("a", "NAME=WEIGHT"), ("a=x", "'x'")]
)
def test_bad_class_weights_are_named(text, words):
    with pytest.raises(DlkitError, match=words):
        class_weights(text, ("a", "b"), torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("regression", {"loss": "focal"}),
        ("classification", {"loss": "huber"}),
        ("regression", {"label_smoothing": 0.1}),
        ("regression", {"class_weights": "balanced"}),
    ],
)
def test_what_does_not_fit_the_task_is_refused(task, said):
    with pytest.raises(DlkitError, match="--"):
        make_objective(task, ("a", "b"), 1.0, Recipe(**said), torch.zeros(4, dtype=torch.long), CPU)


def test_validation_is_told_without_smoothing_and_weights():
    plain = Objective("classification", 3, weights=WEIGHTS, smoothing=0.2).plain()
    torch.testing.assert_close(plain.loss(OUTPUT, TARGET), F.cross_entropy(OUTPUT, TARGET))


def test_a_uniform_answer_costs_ln_k():
    assert CLASSES.loss(torch.zeros(9, 3), torch.arange(9) % 3).item() == pytest.approx(math.log(3))


def test_nan_is_never_better():
    assert not CLASSES.better(float("nan"), 0.5) and not CLASSES.better(float("nan"), None)
    assert CLASSES.better(0.1, float("nan"))  # the first epoch of a run may have had no other
    assert CLASSES.better(0.6, 0.5) and not CLASSES.better(0.5, 0.5)
    assert Objective("regression", 1).better(0.4, 0.5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("task", ["classification", MULTI_LABEL])
def test_a_sure_answer_has_no_focal_gradient(task, gamma):
    """Its 1 - p is 0 in 32 bits, where a root has an infinite slope: 0 times that is no number."""
    output = torch.tensor([[200.0, -200.0, -200.0], [0.5, -0.2, 0.1]], requires_grad=True)
    target = torch.tensor([0, 1]) if task == "classification" else torch.tensor([[1.0, 0, 0], [0.0, 1, 0]])
    Objective(task, 3, name="focal", gamma=gamma).loss(output, target).backward()
    assert output.grad[0].tolist() == [0, 0, 0] and output.grad[1].isfinite().all() and output.grad[1].any()


def test_a_step_of_rows_that_count_nothing_teaches_nothing():
    output = OUTPUT.clone().requires_grad_()
    loss = Objective("classification", 3, weights=torch.tensor([0.0, 1.0, 1.0])).loss(output, torch.zeros_like(TARGET))
    loss.backward()
    assert loss.item() == 0 and not output.grad.any()
    with pytest.raises(DlkitError, match="counts"):
        class_weights("a=0,b=0", ("a", "b"), torch.zeros(3, dtype=torch.long))
