"""Activation bytes: what a forward pass in training mode keeps for the backward pass."""

from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from dlkit.nn.events import on_one_device, perform
from dlkit.nn.reach import storage

_DRAWN = {torch.ops.aten.bernoulli_, torch.ops.aten.bernoulli}


class _Masks(TorchDispatchMode):
    """Notes which tensors are drawn as masks: a mask needs one byte an element, whatever type holds it here."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, torch.Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = on_one_device(args, kwargs or {})
        out = perform(func, args, kwargs)
        if func._overloadpacket in _DRAWN:
            self.kept[storage(out)] = out
        return out


def saved_bytes(module: nn.Module, samples: list[torch.Tensor]) -> int | None:
    """Bytes of one sample, from two batches; parameters are not counted, a tensor that is saved twice counts once.

    None where the module cannot run in training mode. The module is left in evaluation mode.
    """
    module.train()
    try:
        two, three = (_saved(module, sample) for sample in samples)
    except (RuntimeError, ValueError, NotImplementedError, TypeError):
        return None
    finally:
        module.eval()
    return 2 * two - three


def _saved(module: nn.Module, sample: torch.Tensor) -> int:
    known = {storage(tensor) for tensor in (*module.parameters(), *module.buffers())}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type == "meta" and storage(tensor) not in known:
            saved.setdefault(storage(tensor), tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), _Masks() as masks:
        out = module(sample)
    del out
    return sum(_bytes(key, tensor, masks.kept) for key, tensor in saved.items())


def _bytes(key: int, tensor: torch.Tensor, masks: dict[int, torch.Tensor]) -> int:
    held = tensor.untyped_storage().nbytes()
    return held // tensor.element_size() if key in masks else held
