"""One network trained by several processes: DDP, or FSDP2 with the weights in shards; batch norms over all of them."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from dlkit.core.errors import DlkitError
from dlkit.core.recipe import Recipe
from dlkit.nn.build import from_text
from dlkit.nn.own import LEAVES_OUT
from dlkit.nn.ranks import Ranks

Forward = Callable[[Tensor], Tensor]


class SyncedBatchNorm(_BatchNorm):
    """Batch norm over the rows of all processes, on any device (torch's own is for GPUs): two processes match one."""

    ranks: Ranks

    def _check_input_dim(self, input: Tensor) -> None:
        """Any rank: the norm that this took the place of has seen to it."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        over = [d for d in range(x.dim()) if d != 1]
        count = torch.tensor([x.numel() / x.shape[1]], device=x.device)
        sums = self._summed(torch.cat([x.sum(over), count]))
        mean, count = sums[:-1] / sums[-1], sums[-1]
        along = (1, -1) + (1,) * (x.dim() - 2)
        centred = x - mean.view(along)
        # Around the mean, in a second exchange: E[x²] − E[x]² would lose half the digits.
        variance = self._summed(centred.square().sum(over)) / count
        self._remember(mean.detach(), variance.detach() * (count / (count - 1)).detach())
        y = centred * torch.rsqrt(variance + self.eps).view(along)
        if self.affine:
            y = y * self.weight.view(along) + self.bias.view(along)
        return y.to(input.dtype)

    def _summed(self, values: Tensor) -> Tensor:
        summed: Tensor = _Sum.apply(values, self.ranks)
        return summed

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            momentum = 1 / float(self.num_batches_tracked) if momentum is None else momentum
        if momentum:
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance, momentum)


class _Sum(torch.autograd.Function):
    """A sum over processes. Each one's loss depends on all of the parts, so their gradients are summed likewise."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        summed = values.clone()
        dist.all_reduce(summed, group=ranks.exchange)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed, group=ctx.ranks.exchange)
        return summed, None


def synced(model: nn.Module, device: torch.device, ranks: Ranks) -> nn.Module:
    """`model` with batch norms that see all processes; names, weights, buffers and hooks stay (torch's own conversion
    forgets hooks: a norm that was to keep its statistics would not)."""
    for name, child in model.named_children():
        if isinstance(child, _BatchNorm):
            kind = nn.SyncBatchNorm if device.type == "cuda" else SyncedBatchNorm
            norm = kind(child.num_features)
            norm.__dict__.update(child.__dict__)
            if isinstance(norm, SyncedBatchNorm):
                norm.ranks = ranks
            else:
                norm.process_group = ranks.exchange
            setattr(model, name, norm)
        else:
            synced(child, device, ranks)
    return model


def norms_of(model: nn.Module) -> list[nn.Module]:
    """The batch norms that see all processes."""
    return [module for module in model.modules() if isinstance(module, SyncedBatchNorm | nn.SyncBatchNorm)]


def rejoin(norms: list[nn.Module], ranks: Ranks) -> None:
    """The exchange is another: torch's own norms keep it, ours ask for it (and would keep one open that is to end)."""
    for norm in norms:
        if isinstance(norm, nn.SyncBatchNorm):
            norm.process_group = ranks.exchange


class _Whole(nn.Module):
    """A network with the way it is to be run, as DDP wants it: one module."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model = model
        self.run = [forward]  # in a list: not a part of its own

    def forward(self, x: Tensor) -> Tensor:
        return self.run[0](x)


def distributed(model: nn.Module, forward: Forward, device: torch.device, ranks: Ranks) -> DistributedDataParallel:
    """DDP: gradients are averaged while the backward pass goes on. Buffers agree already, batch norms being synced."""
    ids = [device.index] if device.type == "cuda" else None
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    searches = hasattr(model, LEAVES_OUT)
    leave = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # renamed in torch 2.13
    return DistributedDataParallel(
        _Whole(model, forward),
        device_ids=ids,
        process_group=ranks.exchange,
        find_unused_parameters=searches,
        **{leave: False},
    )


def sharded(model: nn.Module, recipe: Recipe) -> nn.Module:
    """FSDP2: each part of the network in shards, gathered when it runs; in bf16 where that is the precision, but for
    norms, whose statistics are in 32 bits. A part whose weights another one uses too is gathered with the whole."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    check_shardable(recipe)
    lent = {giver for module in model.modules() for giver in getattr(module, "shared", ())}
    if lent and recipe.checkpoint_activations:
        raise DlkitError("--shard with --checkpoint-activations does not go with tied weights", "leave one of them out")
    model.to(memory_format=torch.contiguous_format)  # shards are cut from weights that lie in order
    whole, halved = MixedPrecisionPolicy(), MixedPrecisionPolicy(torch.bfloat16, torch.float32)

    def policy(part: nn.Module) -> MixedPrecisionPolicy:
        normed = any("Norm" in type(inner).__name__ for inner in part.modules())
        return halved if recipe.precision == "bf16" and not normed else whole

    # What a forward of the user's own calls, and whose weights it reads, is its own affair: that is gathered as one.
    apart = from_text(model) and len(list(model.parameters())) == len(
        list(model.named_parameters(remove_duplicate=False))
    )
    for child in model.children() if apart else ():
        if child not in lent and any(p.requires_grad for p in child.parameters()):
            fully_shard(child, mp_policy=policy(child))
    if not recipe.checkpoint_activations:  # there the parts are run one by one, and the whole is never called
        rest = next(iter(lent)) if lent else model
        fully_shard(model, mp_policy=policy(rest) if lent or not apart else whole)
    return model


def check_shardable(recipe: Recipe) -> None:
    """Refuse what needs whole weights, or scales the loss by what one process sees."""
    if recipe.precision == "fp16":
        raise DlkitError("--precision fp16 does not go with --shard", "use bf16, which needs no loss scaling")
    if recipe.optimizer == "muon":
        raise DlkitError("--optimizer muon needs whole matrices and does not go with --shard", "use adamw")


def average(gradients: list[Tensor], ranks: Ranks) -> None:
    """Average gradients over all processes, in place: what DDP does on the way, done after it."""
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat, group=ranks.exchange)
    flat /= ranks.world
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))


def unsynced(forward: Any) -> AbstractContextManager[Any]:
    """While this lasts a backward pass keeps its gradients to itself."""
    return forward.no_sync() if isinstance(forward, DistributedDataParallel) else nullcontext()


def own(tensor: Any) -> Tensor:
    """This process's part of a tensor in shards; a whole one as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def over_shards(norms: list[Tensor]) -> Tensor:
    """The norm of the whole from the norms of this process's parts."""
    squares = torch.stack(norms).square().sum()
    dist.all_reduce(squares)
    return squares.sqrt()
