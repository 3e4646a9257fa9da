"""One training step, shared by `train` and `lrfind`: what the finder measures is what training does."""

from typing import Any

import torch
from torch import Tensor, nn

from dlkit.core.recipe import Recipe
from dlkit.nn.average import make_average
from dlkit.nn.loader import Batch, Batches
from dlkit.nn.objective import Objective
from dlkit.nn.optimizer import make_optimizers, set_rates
from dlkit.nn.precision import autocast, scaler
from dlkit.nn.schedule import Rates
from dlkit.nn.wrap import wrapped

LEAST_SCALE = 2.0**-10
"""A loss scale below this is no overflow of half precision: the gradients are not finite at any scale."""


class Stepper:
    """Forward, backward, update. A non-finite loss or gradient never reaches the weights: the update is skipped on the
    device, without waiting for it, through the flag that fused optimisers have for loss scaling.

    A batch is cut into `accumulate` micro-batches whose gradients add up to those of the whole one. `skipped` counts
    the steps that loss scaling left out: they are no updates, and the schedule does not count them.
    """

    def __init__(self, model: nn.Module, objective: Objective, recipe: Recipe) -> None:
        self.model, self.objective, self.recipe = model, objective, recipe
        self.forward = wrapped(model, recipe)
        self.optimizers = make_optimizers(model, recipe)
        self.fused = all(group.get("fused") for o in self.optimizers for group in o.param_groups)
        self.parameters = [p for o in self.optimizers for group in o.param_groups for p in group["params"]]
        self.penalised = [p for p in self.parameters if p.dim() > 1]
        device = self.parameters[0].device.type
        self.autocast, self.scaler = autocast(recipe.precision, device), scaler(recipe.precision, device)
        self.average = make_average(model, recipe)
        self.accumulate = recipe.accumulate
        self.skipped = 0

    def __call__(self, batch: Batch, rates: Rates) -> Tensor:
        """Take one step; return the loss, still on the device: NaN where the step was left out for good."""
        set_rates(self.optimizers, *rates)
        loss = self._backward(*batch)
        if self.scaler.is_enabled():
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
        bad = self._regularise(loss)
        return self._update_scaled(bad, loss) if self.scaler.is_enabled() else self._update(bad, loss)

    def _backward(self, x: Tensor, y: Tensor) -> Tensor:
        """Gradients of the mean loss of the batch; that loss, without L1 and weight decay."""
        weight = self.objective.weight(y)
        if self.accumulate == 1:
            parts = [(x, y)]
        else:
            parts = list(zip(x.tensor_split(self.accumulate), y.tensor_split(self.accumulate), strict=True))
        losses = []
        for part, truth in parts:
            with self.autocast:
                output = self.forward(part)
            loss = self.objective.total(output.float(), truth) / weight
            self.scaler.scale(loss).backward()
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _regularise(self, loss: Tensor) -> Tensor:
        """L1 and clipping on the gradients as they are; whether anything is not finite, as a flag on the device."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.recipe.l1:
            weights = [p for p in self.penalised if p.grad is not None]
            signs = torch._foreach_sign([p.detach() for p in weights])
            torch._foreach_add_([p.grad for p in weights], signs, alpha=self.recipe.l1)
        # What nn.utils.get_total_norm is made of, at half its price: on a small network that is a twentieth of a step.
        norms = torch._foreach_norm(gradients)
        if self.recipe.clip is None:
            return ~torch.isfinite(torch.stack([loss, *norms]).sum())
        norm = torch.linalg.vector_norm(torch.stack(norms))
        # As clip_grad_norm_, which would make NaN of an infinite gradient: here such a step is not taken at all.
        torch._foreach_mul_(gradients, (self.recipe.clip / (norm + 1e-6)).clamp(max=1.0))
        return ~torch.isfinite(loss + norm)

    def _update(self, bad: Tensor, loss: Tensor) -> Tensor:
        if self.fused:
            for optimizer in self.optimizers:
                optimizer.found_inf = bad.to(torch.float32)  # type: ignore[attr-defined]
        if self.fused or not bad.item():
            self._step()
        self._clear()
        return torch.where(bad, torch.nan, loss)

    def _update_scaled(self, bad: Tensor, loss: Tensor) -> Tensor:
        """With loss scaling a gradient that is not finite only asks for a smaller scale, until there is none left."""
        if bad.item():
            self.skipped += 1
        else:
            self._step()
        self.scaler.update()
        self._clear()
        return loss if self.scaler.get_scale() >= LEAST_SCALE else torch.full_like(loss, torch.nan)

    def _step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
        if self.average:
            self.average.after_step(self.model)

    def _clear(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    @property
    def judged(self) -> nn.Module:
        """The network that validation sees and that is kept: the average, once there is one."""
        return self.average.model if self.average and self.average.count else self.model

    def end_epoch(self, epoch: int, train: Batches) -> None:
        if self.average:
            self.average.after_epoch(self.model, epoch, train)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on besides the weights and the rows."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.skipped = state["skipped"]
