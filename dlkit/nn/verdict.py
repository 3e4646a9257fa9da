"""What the two sides' scores say about bias and variance, and what to try next (S072)."""

import math
from typing import NamedTuple

import torch
from torch import nn

from dlkit.core.reading import MULTI_LABEL, OF_TEXT
from dlkit.nn.loader import Batches
from dlkit.nn.objective import Objective


class Verdict(NamedTuple):
    """One word, the score on training rows beside it, and a sentence."""

    word: str
    train_score: float
    text: str


@torch.inference_mode()
def train_score(model: nn.Module, train: Batches, objective: Objective, rows: int) -> float:
    """The metric on a sample of `rows` training rows, as validation sees a network: no dropout, running statistics."""
    was_training = model.training
    model.eval()
    seen, total = 0, 0.0
    for x, y in train.mixed():
        total += objective.statistic(model(x), y).item()
        seen += int(objective.plain().weight(y))
        if seen >= rows:
            break
    model.train(was_training)
    return objective.value(total, seen)


def judge(objective: Objective, train: float, valid: float, targets: torch.Tensor, losses: list[float]) -> Verdict:
    """`train` and `valid` are metrics of the last epoch, `targets` those of validation, `losses` its loss by epoch.

    Errors are measured against a constant answer's: the commonest class, or the mean. Between two scores there has to
    be more than chance: two standard errors of the validation side.
    """
    constant = _constant(objective, targets)
    bias, error = (_error(objective, score) / constant for score in (train, valid))
    doubt = 2 * _doubt(objective, valid, len(targets)) / constant
    scores = f"{objective.metric} {_shown(objective, train)} on training rows, {_shown(objective, valid)} on validation"
    falling = len(losses) >= 3 and losses[-1] == min(losses) and losses[-1] < 0.98 * losses[-max(len(losses) // 5, 2)]
    if error > 0.97:
        return Verdict(
            "no signal", train, f"no better than a constant answer ({scores}); is the target to be predicted?"
        )
    apart = error - bias > 0.25 * error
    if apart and error - bias > doubt:
        tries = "more rows, --weight-decay, dropout, --ema, a smaller network or --patience"
        return Verdict("high variance", train, f"overfits: {scores}; try {tries}")
    if falling:
        return Verdict("unfinished", train, f"still getting better at the end: {scores}; try more --epochs")
    if bias > 0.5:
        tries = "a larger network, more --epochs, --lr auto or better features"
        return Verdict("high bias", train, f"misses much of what it was trained on: {scores}; try {tries}")
    said = f"too few validation rows to tell the sides apart: {scores}" if apart else f"both sides agree: {scores}"
    return Verdict("balanced", train, f"{said}; a larger network may go further")


def _error(objective: Objective, score: float) -> float:
    if objective.task in OF_TEXT:
        return math.log(score)
    return 1 - score if objective.task == "classification" else score


def _constant(objective: Objective, targets: torch.Tensor) -> float:
    """The error of the best constant answer on these targets; not 0, so that one can divide by it."""
    if objective.task in OF_TEXT:
        shares = torch.bincount(targets.flatten()).double() / targets.numel()
        return max(torch.special.entr(shares).sum().item(), 1e-30)
    if objective.task == MULTI_LABEL:  # the label's share among the rows, whatever the row
        shares = targets.double().mean(0)
        return max((torch.special.entr(shares) + torch.special.entr(1 - shares)).mean().item(), 1e-30)
    if objective.task == "classification":
        return max(1 - torch.bincount(targets).max().item() / len(targets), 1 / len(targets))
    return max(targets.double().std(correction=0).item() * objective.unit, 1e-30)


def _doubt(objective: Objective, score: float, rows: int) -> float:
    """The standard error of a validation error: binomial; of an RMSE as for normal residuals; nats likewise.

    The log loss of a row of several labels is taken to scatter as much as it is large, as if drawn exponentially.
    """
    if objective.task in OF_TEXT:
        return math.log(score) / math.sqrt(rows)
    if objective.task == MULTI_LABEL:
        return score / math.sqrt(rows)
    if objective.task == "classification":
        return math.sqrt(max(score * (1 - score), 1 / rows) / rows)
    return score / math.sqrt(2 * rows)


def _shown(objective: Objective, score: float) -> str:
    return f"{100 * score:.1f} %" if objective.task == "classification" else f"{score:.5g}"
