"""One training step, shared by `train` and `lrfind`: what the finder measures is what training does."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlkit.core import console
from dlkit.core.recipe import Recipe
from dlkit.nn.average import make_average
from dlkit.nn.device import seed_step
from dlkit.nn.loader import Batch, Batches
from dlkit.nn.objective import Objective
from dlkit.nn.optimizer import make_optimizers, penalised, set_rates
from dlkit.nn.precision import autocast, scaler, set_matmul
from dlkit.nn.ranks import ALONE, Ranks, lost
from dlkit.nn.schedule import Rates
from dlkit.nn.spread import average, distributed, norms_of, over_shards, own, rejoin, sharded, synced, unsynced
from dlkit.nn.wrap import wrapped

LEAST_SCALE = 2.0**-10
"""A loss scale below this is no overflow of half precision: the gradients are not finite at any scale."""


_MEMORY = "out of memory"
TRIALS = 2
"""Steps at the start for which several processes are ready to run out of memory: the optimiser's moments come after the
first."""


class Stepper:
    """Forward, backward, update. A non-finite loss or gradient never reaches the weights: the update is skipped on the
    device, without waiting for it, through the flag that fused optimisers have for loss scaling.

    A batch is cut into `accumulate` micro-batches whose gradients add up to those of the whole one; out of memory, into
    more. Of several processes each has its part of the batch, and the gradients are those of the whole. `skipped`
    counts the steps that loss scaling left out: they are no updates, and the schedule does not count them.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, recipe: Recipe, ranks: Ranks = ALONE, shard: bool = False
    ) -> None:
        self.objective, self.recipe, self.ranks, self.shard = objective, recipe, ranks, shard
        set_matmul(recipe.precision)
        self.model = model
        self.place = next(model.parameters()).device
        if not ranks.alone:
            self.model = model = synced(model, self.place, ranks)
        self.average = make_average(model, recipe)
        if shard:
            sharded(model, recipe)
            if self.average:
                self.average.shard(recipe)
        self.bare = self.forward = wrapped(model, recipe)
        if not (ranks.alone or shard):
            self.forward = distributed(model, self.bare, self.place, ranks)
        self.norms = norms_of(model)
        self.has_batch_norm = any(isinstance(module, _BatchNorm) for module in model.modules())
        self.fewest = 2 if any(isinstance(module, nn.BatchNorm1d) for module in model.modules()) else 1
        self.trials = 0 if shard else TRIALS
        self.buffers = _kept_buffers(model)
        self.before = [[buffer.clone() for buffer in alike] for alike in self.buffers]
        self.optimizers = make_optimizers(model, recipe)
        self.fused = not shard and all(group.get("fused") for o in self.optimizers for group in o.param_groups)
        self.parameters = [p for o in self.optimizers for group in o.param_groups for p in group["params"]]
        self.penalised = penalised(model)
        device = self.parameters[0].device.type
        self.autocast, self.scaler = autocast(recipe.precision, device), scaler(recipe.precision, device)
        self.accumulate = recipe.accumulate
        self.skipped = 0

    def __call__(self, batch: Batch | tuple[Tensor, Tensor], rates: Rates, drawn: int | None = None) -> Tensor:
        """Take one step; return the loss, still on the device: NaN where the step was left out for good. Of several
        processes' losses the sum is that of the batch. `drawn` seeds what the step draws (dropout).
        """
        set_rates(self.optimizers, *rates)
        loss = self._gradients(batch if isinstance(batch, Batch) else Batch(*batch), drawn)
        if self.scaler.is_enabled():
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
        fault = self._regularise(loss)
        return self._update_scaled(fault, loss) if self.scaler.is_enabled() else self._update(fault, loss)

    def _gradients(self, batch: Batch, drawn: int | None) -> Tensor:
        """Gradients of the batch's mean loss, in ever smaller micro-batches while memory does not suffice.

        Several processes have to agree on that before they exchange gradients, which DDP does on the way: so for the
        first steps, when memory runs out if it ever does, they do it after the backward pass.
        """
        while True:
            for kept, buffers in zip(self.before, self.buffers, strict=True):
                torch._foreach_copy_(kept, buffers)
            apart = self.trials > 0 and not self.ranks.alone
            loss, reason = self._tried(batch, drawn, apart)
            if self._had_room(reason, apart):
                break
            self._again_in_smaller_parts(batch)
        if apart:
            average([p.grad for p in self.parameters if p.grad is not None], self.ranks)
        self.trials = max(self.trials - 1, 0)
        assert loss is not None
        return loss

    def _tried(self, batch: Batch, drawn: int | None, apart: bool) -> tuple[Tensor | None, str]:
        """(loss, nothing), or (None, what went wrong) where that can be mended: memory ran out here, or the exchange
        with the others broke off, which may be because it ran out there."""
        if drawn is not None:
            seed_step(batch.x.device, drawn, self.ranks.rank)
        try:
            return self._backward(batch, apart), ""
        except (RuntimeError, MemoryError) as failure:
            reason = _MEMORY if is_out_of_memory(failure) else str(failure)
            if self.shard or not (reason == _MEMORY or (lost(failure) and not self.ranks.alone)):
                raise
        return None, reason  # outside of the handler: the exception's traceback holds the activations

    def _had_room(self, reason: str, apart: bool) -> bool:
        """Whether no process ran out of memory. RuntimeError where the exchange broke off for another reason.

        Whoever failed takes leave of the exchange first, where the others may be waiting for its part; and so do they
        when they are told. A host does not wait for its device's exchange: there all are asked after each step.
        """
        if self.ranks.alone or self.shard:
            return not reason
        tied = not apart or bool(self.norms)
        if reason and tied:
            self._part()
        if not (reason or apart or self.place.type == "cuda"):
            return True
        if self.ranks.largest([reason == _MEMORY])[0]:
            if tied:
                self._part()
            return False
        if reason:
            raise RuntimeError(reason)
        return True

    def _part(self) -> None:
        self.forward = self.bare  # DDP holds on to the exchange
        self.clear()
        self.ranks.part()

    def _again_in_smaller_parts(self, batch: Batch) -> None:
        """Everything as it was before the step, and smaller micro-batches, in all processes."""
        self.clear()
        for kept, buffers in zip(self.before, self.buffers, strict=True):
            torch._foreach_copy_(buffers, kept)
        if not (self.ranks.alone or self.shard) and self.ranks.exchange is None:
            self.ranks.meet()
            rejoin(self.norms, self.ranks)
            self.forward = distributed(self.model, self.bare, self.place, self.ranks)
            self.trials = TRIALS
        self._halve(len(batch.y), self._most(batch), batch.x.device)

    def _cuts(self, batch: Batch) -> tuple[int, ...]:
        """How many rows go through at a time: as they were dealt, or in smaller parts where memory ran out."""
        if batch.cuts and self.accumulate == self.recipe.accumulate:
            return batch.cuts
        count = min(self.accumulate, self._most(batch))
        each, more = divmod(len(batch.y), count)
        return tuple(each + (i < more) for i in range(count))

    def _most(self, batch: Batch) -> int:
        """Into how many parts a batch can be cut: each process has a row of each, and a batch norm of vectors two."""
        rows = len(batch.targets)
        return max(rows // max(self.ranks.world, self.fewest), 1) if rows >= self.ranks.world else rows

    def _halve(self, rows: int, most: int, device: torch.device) -> None:
        """Micro-batches of half the size, down to as many as there can be."""
        if self.accumulate >= most:
            raise MemoryError
        self.accumulate = min(2 * self.accumulate, most)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        console.note(
            f"out of memory: the step's {rows} rows now go through in {self.accumulate} parts of "
            f"{-(-rows // self.accumulate)}; "
            + ("batch norms see a part at a time" if self.has_batch_norm else "the result is the same")
        )

    def _backward(self, batch: Batch, apart: bool) -> Tensor:
        """Gradients of the mean loss of the batch; this process's part of that loss, without L1 and weight decay.
        `apart`: the gradients are not exchanged."""
        weight = self.objective.weight(batch.targets) / batch.part
        cuts = self._cuts(batch)
        parts = [(batch.x, batch.y)]
        if len(cuts) > 1:
            parts = list(zip(batch.x.split(cuts), batch.y.split(cuts), strict=True))
        losses = []
        for i, (part, truth) in enumerate(parts, 1):
            with unsynced(self.forward) if apart or i < len(parts) else nullcontext():
                with self.autocast:
                    output = self.forward(part)
                loss = self.objective.total(output.float(), truth) / weight
                self.scaler.scale(self._for_all(loss)).backward()
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _for_all(self, loss: Tensor) -> Tensor:
        """The loss whose gradients, averaged over the processes, are those of the batch. Where one's loss is not finite
        its gradients are made so, and with them everybody's: all leave the step out, or none."""
        if self.ranks.alone:
            return loss
        return loss * torch.where(torch.isfinite(loss.detach()), float(self.ranks.world), torch.nan)

    def _regularise(self, loss: Tensor) -> Tensor:
        """L1 and clipping on the gradients as they are; on the device 0, or NaN where anything is not finite."""
        gradients = [own(p.grad) for p in self.parameters if p.grad is not None]
        if self.recipe.l1:
            weights = [p for p in self.penalised if p.grad is not None]
            signs = torch._foreach_sign([own(p.detach()) for p in weights])
            torch._foreach_add_([own(p.grad) for p in weights], signs, alpha=self.recipe.l1)
        # What nn.utils.get_total_norm is made of, at half its price: on a small network that is a twentieth of a step.
        norms = torch._foreach_norm(gradients)
        if self.shard:
            norms = [over_shards(norms)]
        if self.recipe.clip is None:
            total = torch.stack([loss, *norms]).sum()
            return total - total
        norm = torch.linalg.vector_norm(torch.stack(norms))
        # As clip_grad_norm_, which would make NaN of an infinite gradient: here such a step is not taken at all.
        torch._foreach_mul_(gradients, (self.recipe.clip / (norm + 1e-6)).clamp(max=1.0))
        total = loss + norm
        return total - total

    def _update(self, fault: Tensor, loss: Tensor) -> Tensor:
        self._flag(fault)
        if self.fused or fault.item() == 0:
            self._step()
        self.clear()
        return loss + fault

    def _update_scaled(self, fault: Tensor, loss: Tensor) -> Tensor:
        """With loss scaling a gradient that is not finite only asks for a smaller scale, until there is none left."""
        self._flag(fault)
        skips = fault.item() != 0
        if skips:
            self.skipped += 1
        else:
            self._step()
        self.scaler.update()
        self.clear()
        # The scale is asked for only then: each question waits for the device.
        lost = skips and self.scaler.get_scale() < LEAST_SCALE
        return torch.full_like(loss, torch.nan) if lost else loss

    def _flag(self, fault: Tensor) -> None:
        """Tell fused optimisers whether to leave the step out; what the last one was told would stand otherwise."""
        for optimizer in self.optimizers if self.fused else ():
            optimizer.found_inf = (fault != 0).to(torch.float32)  # type: ignore[attr-defined]

    def _step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
        if self.average:
            self.average.after_step(self.model)

    def make_room(self) -> None:
        """Let the optimisers allocate their moments, at zero, before the first step: then the first checkpoint is as
        large as the last, and memory that does not suffice says so at once. Adam's and SGD's are zero at their start.
        """
        if not self.fused or any(optimizer.state for optimizer in self.optimizers):
            return
        for p in self.parameters:
            p.grad = torch.zeros_like(p)
        for optimizer in self.optimizers:
            optimizer.found_inf = torch.ones((), device=self.parameters[0].device)  # type: ignore[attr-defined]
            optimizer.step()
            for moment in (m for moments in optimizer.state.values() for m in moments.values()):
                if isinstance(moment, Tensor):
                    moment.zero_()
        self.clear()

    def clear(self) -> None:
        """Let go of the gradients; the optimisers' zero_grad wraps that in a profiler's record."""
        for p in self.parameters:
            p.grad = None

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
            "accumulate": self.accumulate,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            # Which kernels run is this run's own affair: weights in shards, or another device, have others.
            ours = [{k: g[k] for k in ("fused", "foreach", "capturable") if k in g} for g in optimizer.param_groups]
            groups = [theirs | flags for theirs, flags in zip(saved["param_groups"], ours, strict=True)]
            optimizer.load_state_dict(saved | {"param_groups": groups})
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.skipped = state["skipped"]
        self.accumulate = max(self.accumulate, state["accumulate"])


def _kept_buffers(model: nn.Module) -> list[list[Tensor]]:
    """The buffers that a step may change, those of one type together: what a network keeps of its own is in its
    state; tables that are made anew are not."""
    saved = model.state_dict()
    buffers = [buffer for name, buffer in model.named_buffers() if name in saved]
    kinds = dict.fromkeys(buffer.dtype for buffer in buffers)
    return [[buffer for buffer in buffers if buffer.dtype == kind] for kind in kinds]


def is_out_of_memory(failure: BaseException) -> bool:
    """CUDA's own error, Python's, or a plain RuntimeError: of torch's allocator for main memory, cuBLAS, cuDNN."""
    said = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(failure, torch.OutOfMemoryError | MemoryError) or any(text in str(failure) for text in said)
