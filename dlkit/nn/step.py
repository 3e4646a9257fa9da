"""One training step, shared by `train` and `lrfind`: what the finder measures is what training does."""

import torch
from torch import Tensor, nn

from dlkit.nn.loader import Batch
from dlkit.nn.objective import Objective


def make_optimizer(model: nn.Module, name: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """`adamw` (betas .9, .999) or `sgd` (Nesterov momentum .9), fused. Biases and norms (1-d) are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=lr, fused=True)


class Stepper:
    """Forward, backward, update. A non-finite loss or gradient never reaches the weights: the update is skipped on the
    device, without waiting for it, through the flag that fused optimisers have for loss scaling."""

    def __init__(self, model: nn.Module, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(self, batch: Batch, lr: float) -> Tensor:
        """Take one step at `lr`; return the loss, still on the device: NaN where the step was skipped."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        x, y = batch
        loss = self.objective.loss(self.model(x), y)
        loss.backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        # What nn.utils.get_total_norm is made of, at half its price: on a small network that is a twentieth of a step.
        norms = torch._foreach_norm(gradients)
        bad = ~torch.isfinite(torch.stack([loss.detach(), *norms]).sum())
        self.optimizer.found_inf = bad.to(torch.float32)  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return torch.where(bad, torch.nan, loss.detach())
