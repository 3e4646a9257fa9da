"""What a task minimises and what it reports: one definition, used by training, the finder and evaluation."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dlkit.core.errors import DlkitError, nearest
from dlkit.core.reading import MASKED, MULTI_LABEL, OF_TEXT, WRITING
from dlkit.core.recipe import LOSSES, Recipe
from dlkit.nn.loader import Batches
from dlkit.nn.watch import Stopped, Watch

IGNORED = -100
"""A target that counts for nothing, as torch has it."""
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss to minimise and the metric to report.

    classification  cross-entropy in nats, focal, or one binary cross-entropy a class; accuracy in [0, 1].
    multi-label     binary cross-entropy in nats, or its focal form, mean over rows and labels; log loss: that mean of
                    the plain binary cross-entropy.
    regression      an error of the standardised target; RMSE in the target's own units (`unit` = its std).
    language-model  cross-entropy of the next token in nats; perplexity, its exponential.
    masked-language-model  the same of the tokens that are to be told, the others being IGNORED.

    smoothing   label smoothing of the cross-entropy; of labels 0 and 1 become ε/2 and 1 − ε/2
    weights     one for each class: the loss is Σ w·loss / Σ w, as torch's cross-entropy has it; of several labels what
                the rows that have each count, the others counting 1: torch's pos_weight
    gamma       focal: (1 − p)^γ of Lin et al. 2017
    delta       Huber's δ, smooth L1's β, in standard deviations of the target
    """

    task: str
    outputs: int
    unit: float = 1.0
    name: str = ""
    smoothing: float = 0.0
    weights: Tensor | None = None
    gamma: float = 2.0
    delta: float = 1.0

    @property
    def metric(self) -> str:
        if self.task in OF_TEXT:
            return "perplexity"
        return {"classification": "accuracy", MULTI_LABEL: "log_loss"}.get(self.task, "rmse")

    def better(self, new: float, old: float | None) -> bool:
        """Whether `new` is a better metric than `old`; NaN never is, and anything is better than NaN."""
        if new != new:
            return False
        if old is None or old != old:
            return True
        return new > old if self.task == "classification" else new < old

    def plain(self) -> "Objective":
        """The same without smoothing and class weights: what validation reports."""
        return replace(self, smoothing=0.0, weights=None)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over the batch. `output` B×classes or B×1, `target` B; B×classes if mixed, or of several labels."""
        return self.total(output, target) / self.weight(target)

    def weight(self, target: Tensor) -> Tensor | int:
        """What a sum over these rows is divided by: their number (of tokens), or the sum of their classes' weights."""
        if self.task == MASKED:
            return (target != IGNORED).sum().clamp(min=1)  # a step in which nothing is hidden teaches nothing
        if self.task == WRITING:
            return target.numel()
        if self.weights is None or self.task == MULTI_LABEL:
            return len(target)
        return self.weights[target].sum().clamp(min=_TINY)  # a step of rows that count nothing teaches nothing

    def total(self, output: Tensor, target: Tensor) -> Tensor:
        """Sum over the batch; over micro-batches these add up to that of the whole one."""
        if self.task in OF_TEXT:  # output B×T×vocabulary, target B×T
            output, target, more = output.flatten(0, 1), target.flatten(), self.smoothing
            return F.cross_entropy(output, target, reduction="sum", label_smoothing=more, ignore_index=IGNORED)
        if self.task == "classification":
            return self._of_classes(output, target)
        if self.task == MULTI_LABEL:
            return self._of_labels(output, target)
        return _ERRORS[self.name or "mse"](output.squeeze(1), target, self.delta)

    def _of_classes(self, output: Tensor, target: Tensor) -> Tensor:
        if self.name == "bce":
            truth = target if target.dim() == 2 else F.one_hot(target, output.shape[1]).to(output.dtype)
            return binary(output, truth, self._of_rows(target))
        if self.name == "focal":
            entropy = F.cross_entropy(output, target, reduction="none")
            rows = self._focus(entropy) * entropy
            weights = self._of_rows(target)
            return (rows if weights is None else weights * rows).sum()
        return F.cross_entropy(output, target, weight=self.weights, reduction="sum", label_smoothing=self.smoothing)

    def _of_labels(self, output: Tensor, target: Tensor) -> Tensor:
        """Σ over rows of the mean over labels. Focal: (1 − p)^γ, p what is given to the truth (Lin et al. 2017)."""
        if self.smoothing:
            target = target * (1 - self.smoothing) + self.smoothing / 2
        loss = F.binary_cross_entropy_with_logits(output, target, reduction="none")
        factor = self._focus(loss) if self.name == "focal" else None
        if self.weights is not None:
            loss = F.binary_cross_entropy_with_logits(output, target, reduction="none", pos_weight=self.weights)
        return (loss if factor is None else factor * loss).mean(1).sum()

    def _focus(self, surprise: Tensor) -> Tensor:
        """(1 − p)^γ of what cost −ln p. Held off 0, where a root has no slope: of a sure answer it would make NaN."""
        return (-torch.expm1(-surprise)).clamp(min=_TINY) ** self.gamma

    def _of_rows(self, target: Tensor) -> Tensor | None:
        return None if self.weights is None else self.weights[target]

    def probabilities(self, output: Tensor) -> Tensor:
        """B×classes that sum to 1: softmax, or what each class says for itself, normalised. Of labels, each its own."""
        if self.task == MULTI_LABEL:
            return output.sigmoid()
        if self.name != "bce":
            return output.softmax(1)
        alone = output.sigmoid()
        return alone / alone.sum(1, keepdim=True)

    def statistic(self, output: Tensor, target: Tensor) -> Tensor:
        """A sum over the batch from which the metric follows: correct rows, squared errors, or surprise in nats."""
        if self.task in OF_TEXT:
            return self.plain().total(output, target)
        if self.task == MULTI_LABEL:
            return binary(output, target)
        if self.task == "classification":
            return (output.argmax(1) == target).sum()
        return (output.squeeze(1).float() - target).square().sum()

    def value(self, total: float, rows: int) -> float:
        """The metric from the summed statistic of `rows` rows (or tokens)."""
        if self.task in OF_TEXT:
            return math.exp(min(total / rows, 700.0)) if total == total else total
        return (total / rows) ** 0.5 * self.unit if self.task == "regression" else total / rows


def binary(output: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Σ over rows of the mean over classes of −t·ln σ(x) − (1 − t)·ln(1 − σ(x)); `output` and `truth` B×classes."""
    rows = F.binary_cross_entropy_with_logits(output, truth, reduction="none").mean(1)
    return (rows if weights is None else weights * rows).sum()


_ERRORS = {
    "mse": lambda x, y, delta: F.mse_loss(x, y, reduction="sum"),
    "mae": lambda x, y, delta: F.l1_loss(x, y, reduction="sum"),
    "huber": lambda x, y, delta: F.huber_loss(x, y, reduction="sum", delta=delta),
    "smooth-l1": lambda x, y, delta: F.smooth_l1_loss(x, y, reduction="sum", beta=delta),
}


def make_objective(
    task: str, classes: tuple[str, ...], unit: float, recipe: Recipe, targets: Tensor, device: torch.device
) -> Objective:
    """What `recipe` asks for; DlkitError where that does not fit the task. `targets`: the training side's."""
    outputs = len(classes) or 1
    if recipe.loss is not None and recipe.loss not in LOSSES[task]:
        raise DlkitError(f"--loss {recipe.loss} is not for {task}", f"one of {', '.join(LOSSES[task])}")
    for name in ("label_smoothing", "class_weights"):
        if task == "regression" and getattr(recipe, name) is not None:
            raise DlkitError(f"--{name.replace('_', '-')} has no effect: the task is regression")
    if task == "classification" and recipe.loss == "bce" and recipe.label_smoothing is not None:
        raise DlkitError("--label-smoothing has no effect with --loss bce of classes", "it is for --loss cross-entropy")
    said = {"gamma": recipe.gamma, "delta": recipe.delta, "smoothing": recipe.label_smoothing}
    numbers = {name: value for name, value in said.items() if value is not None}
    balance = label_weights if task == MULTI_LABEL else class_weights
    weights = balance(recipe.class_weights, classes, targets).to(device) if recipe.class_weights else None
    return Objective(task, outputs, unit, recipe.loss or "", weights=weights, **numbers)


def class_weights(text: str, classes: tuple[str, ...], targets: Tensor) -> Tensor:
    """`balanced`: N/(K·count), so that every class counts the same; or NAME=WEIGHT,…, and 1 for the others."""
    if text == "balanced":
        counts = torch.bincount(targets, minlength=len(classes)).float()
        # A class without a training row has no weight that would mean anything; it is never met either.
        return torch.where(counts > 0, len(targets) / (len(classes) * counts.clamp(min=1)), 1.0)
    weights = _named_weights(text, classes, "class")
    if not weights.any():
        raise DlkitError(f"--class-weights {text}: no class counts for anything", "a weight above 0 for one at least")
    return weights


def label_weights(text: str, labels: tuple[str, ...], targets: Tensor) -> Tensor:
    """`balanced`: of each label the rows without it over those with it, so that both count the same; or NAME=WEIGHT,…,
    and 1 for the others. `targets` N×labels."""
    if text == "balanced":
        having = targets.sum(0)
        rest = len(targets) - having
        # Of a label that all training rows have, or none, there is nothing to balance.
        return torch.where((having > 0) & (rest > 0), rest / having.clamp(min=1), 1.0)
    return _named_weights(text, labels, "label")


def _named_weights(text: str, classes: tuple[str, ...], what: str) -> Tensor:
    weights = torch.ones(len(classes))
    for part in text.split(","):
        name, sign, number = part.rpartition("=")
        if not sign:
            hint = f"each NAME is a {what}: {classes[0]}, …"
            raise DlkitError(f"--class-weights {text}: neither balanced nor NAME=WEIGHT,…", hint)
        if name not in classes:
            raise DlkitError(f"--class-weights: no {what} {name!r}", nearest(name, classes))
        weights[classes.index(name)] = _weight(part, number)
    return weights


def _weight(part: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise DlkitError(f"--class-weights {part}: a weight is a number of at least 0. Got {text!r} instead.")
    return value


@torch.inference_mode()
def evaluate(
    model: torch.nn.Module, batches: Batches, objective: Objective, watch: Watch | None = None
) -> tuple[float, float]:
    """(mean loss, metric) over every row once, the loss without smoothing and class weights. The mode stays.

    Stopped where `watch` wants a stop before the last row.
    """
    was_training, objective = model.training, objective.plain()
    model.eval()
    losses, statistics = [], []
    for batch in batches.in_order():
        if watch and watch.stops():
            model.train(was_training)
            raise Stopped
        output = model(batch.x).float()
        loss = objective.total(output, batch.y)
        losses.append(loss * batch.part)
        # A language model's statistic is its loss: over a large vocabulary that is worth computing once.
        statistics.append((loss if objective.task in OF_TEXT else objective.statistic(output, batch.y)) * batch.part)
    model.train(was_training)
    loss, total = batches.ranks.total(torch.stack([torch.stack(s).cpu().double().sum() for s in (losses, statistics)]))
    return loss / batches.count, objective.value(total, batches.count)
