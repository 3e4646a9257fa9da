"""Activation bytes: what a forward pass in training mode keeps for the backward pass."""

from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from dlkit.nn.events import located, on_one_device, perform
from dlkit.nn.reach import storage

_DRAWN = {torch.ops.aten.bernoulli_, torch.ops.aten.bernoulli}
FAILURES = (RuntimeError, ValueError, NotImplementedError, TypeError)
"""What a module raises that cannot run in training mode."""


class Saved(NamedTuple):
    """Bytes kept by each inner module, by its path: of one sample, and once for a whole batch (batch norm's sums)."""

    each: dict[str, int]
    fixed: dict[str, int]


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
    """Bytes of a batch of one, from two batches; parameters are not counted, a tensor that is saved twice counts once.

    None where the module cannot run in training mode. The module is left in evaluation mode.
    """
    kept = saved(module, samples)
    return None if kept is None else sum(kept.each.values()) + sum(kept.fixed.values())


def saved(module: nn.Module, samples: list[torch.Tensor]) -> Saved | None:
    """The same by inner module, from a batch of 2 and one of 3."""
    module.train()
    try:
        two, three = (_saved(module, sample) for sample in samples)
    except FAILURES:
        return None
    finally:
        module.eval()
    paths = list(dict.fromkeys([*two, *three]))
    each = {path: three[path] - two[path] for path in paths}
    return Saved(each, {path: 3 * two[path] - 2 * three[path] for path in paths})


def _saved(module: nn.Module, sample: torch.Tensor) -> Counter[str]:
    known = {storage(tensor) for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, tuple[torch.Tensor, str]] = {}

    with located(module) as stack:

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.device.type == "meta" and storage(tensor) not in known:
                kept.setdefault(storage(tensor), (tensor, stack[-1]))
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor), _Masks() as masks:
            out = module(sample)
    del out
    found: Counter[str] = Counter()
    for key, (tensor, path) in kept.items():
        found[path] += _bytes(key, tensor, masks.kept)
    return found


def _bytes(key: int, tensor: torch.Tensor, masks: dict[int, torch.Tensor]) -> int:
    held = tensor.untyped_storage().nbytes()
    return held // tensor.element_size() if key in masks else held
