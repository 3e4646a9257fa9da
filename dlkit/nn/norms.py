"""Norms: which keep the statistics that they came with, and how the others' are measured anew."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def hold(norm: nn.Module) -> None:
    """Let a norm use the statistics that it has, and keep them, whatever the network's mode."""
    norm.register_forward_pre_hook(_still)


def _still(module: nn.Module, _: object) -> None:
    torch.nn.Module.train(module, False)


def held(norm: nn.Module) -> bool:
    return _still in norm._forward_pre_hooks.values()


@torch.no_grad()
def measure(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Running statistics of batch norms as means over `batches`, in evaluation mode otherwise.

    As torch's update_bn, but that held ones stay as they are, and that dropout, which validation does not see either,
    does not spread what they measure.
    """
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and not held(m)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for x, _ in batches:
        model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
