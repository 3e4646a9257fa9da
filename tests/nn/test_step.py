"""One step, against a hand-written one; and what must never reach the weights."""

import pytest
import torch
from torch import nn

from dlkit.nn.objective import Objective
from dlkit.nn.step import Stepper, make_optimizer

CLASSES = Objective("classification", 3)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def batch(seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 4, generator=generator), torch.randint(0, 3, (16,), generator=generator)


def test_adamw_is_the_textbook_update():
    """Two steps of Loshchilov & Hutter's algorithm 2 by hand (N-S138…S144); biases and norms are not decayed."""
    lr, decay, b1, b2, eps = 0.01, 0.1, 0.9, 0.999, 1e-8
    ours, hand = network(), network()
    step = Stepper(ours, CLASSES, make_optimizer(ours, "adamw", lr, decay))
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in hand.parameters()]
    for t in (1, 2):
        step(batch(t), lr)
        x, y = batch(t)
        hand.zero_grad()
        nn.functional.cross_entropy(hand(x), y).backward()
        with torch.no_grad():
            for p, (m, v) in zip(hand.parameters(), moments, strict=True):
                p *= 1 - lr * (decay if p.dim() > 1 else 0)
                m.mul_(b1).add_((1 - b1) * p.grad)
                v.mul_(b2).add_((1 - b2) * p.grad**2)
                p -= lr * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps)
    for a, b in zip(ours.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_sgd_is_nesterov_momentum():
    """v = μv + g; p −= η(g + μv), as torch defines it."""
    ours, hand = network(), network()
    step = Stepper(ours, CLASSES, make_optimizer(ours, "sgd", 0.1, 0.0))
    velocity = [torch.zeros_like(p) for p in hand.parameters()]
    for t in (1, 2):
        step(batch(t), 0.1)
        x, y = batch(t)
        hand.zero_grad()
        nn.functional.cross_entropy(hand(x), y).backward()
        with torch.no_grad():
            for p, v in zip(hand.parameters(), velocity, strict=True):
                v.mul_(0.9).add_(p.grad)
                p -= 0.1 * (p.grad + 0.9 * v)
    for a, b in zip(ours.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["input", "gradient"])
def test_a_non_finite_step_leaves_the_weights(name, value, where):
    model = network()
    step = Stepper(model, CLASSES, make_optimizer(model, name, 0.1, 0.1))
    assert torch.isfinite(step(batch(1), 0.1))
    before = [p.clone() for p in model.parameters()]
    x, y = batch(2)
    if where == "input":
        x[3, 2] = value
        bad = step((x, y), 0.1)
    else:
        hook = model[0].weight.register_hook(lambda g: g.index_fill(0, torch.tensor([0]), value))
        bad = step((x, y), 0.1)
        hook.remove()
    assert torch.isnan(bad)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    if where == "gradient":  # and the next step is an ordinary one
        assert torch.isfinite(step(batch(3), 0.1))
        assert all(torch.isfinite(p).all() for p in model.parameters())


def test_known_losses():
    """Mean cross-entropy of a sure and right, and of a uniform answer; squared error of B×1 against B."""
    sure = torch.tensor([[50.0, 0, 0]])
    assert CLASSES.loss(sure, torch.tensor([0])).item() == pytest.approx(0, abs=1e-6)
    assert CLASSES.loss(torch.zeros(5, 3), torch.arange(5) % 3).item() == pytest.approx(1.0986123)
    regression = Objective("regression", 1, unit=10.0)
    assert regression.loss(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 0.0])).item() == 5.0
    assert regression.value(10.0, 2) == pytest.approx(10 * 5**0.5)


def test_nan_is_never_better():
    assert not CLASSES.better(float("nan"), 0.5) and not CLASSES.better(float("nan"), None)
    assert CLASSES.better(0.6, 0.5) and not CLASSES.better(0.5, 0.5)
    assert Objective("regression", 1).better(0.4, 0.5)
