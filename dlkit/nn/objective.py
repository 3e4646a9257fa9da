"""What a task minimises and what it reports: one definition, used by training, the finder and evaluation."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dlkit.nn.loader import Batches


@dataclass(frozen=True)
class Objective:
    """The loss to minimise and the metric to report.

    classification  mean cross-entropy in nats; accuracy in [0, 1].
    regression      mean squared error of the standardised target; RMSE in the target's own units (`unit` = its std).
    """

    task: str
    outputs: int
    unit: float = 1.0

    @property
    def metric(self) -> str:
        return "accuracy" if self.task == "classification" else "rmse"

    def better(self, new: float, old: float | None) -> bool:
        """Whether `new` is a better metric than `old`; NaN never is."""
        if new != new:
            return False
        if old is None:
            return True
        return new > old if self.task == "classification" else new < old

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over the batch. `output` B×classes or B×1, `target` B."""
        if self.task == "classification":
            return F.cross_entropy(output, target)
        return F.mse_loss(output.squeeze(1), target)

    def statistic(self, output: Tensor, target: Tensor) -> Tensor:
        """A sum over the batch from which the metric follows: correct rows, or squared errors."""
        if self.task == "classification":
            return (output.argmax(1) == target).sum()
        return (output.squeeze(1) - target).square().sum()

    def value(self, total: float, rows: int) -> float:
        """The metric from the summed statistic of `rows` rows."""
        return total / rows if self.task == "classification" else (total / rows) ** 0.5 * self.unit


@torch.inference_mode()
def evaluate(model: torch.nn.Module, batches: Batches, objective: Objective) -> tuple[float, float]:
    """(mean loss, metric) over every row once. The mean is over rows, not over batches."""
    model.eval()
    losses, statistics = [], []
    for x, y in batches.in_order():
        output = model(x)
        losses.append(objective.loss(output, y) * len(y))
        statistics.append(objective.statistic(output, y))
    model.train()
    loss, total = (torch.stack(s).cpu().double().sum().item() for s in (losses, statistics))
    return loss / batches.rows, objective.value(total, batches.rows)
