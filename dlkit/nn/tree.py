"""The nested state of an object (dicts, lists, numbers, tensors) as flat tensors and JSON, and back, without pickle."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

JSON = Any


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> JSON:
    """`value` as JSON; its tensors go into `tensors`, named by their path from `name`. TypeError for anything else."""
    if isinstance(value, Tensor):
        tensors[name] = whole(value)
        return {"tensor": name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    path = f"{name}." if name else ""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str | int) for key in value):
            raise TypeError(f"{name}: keys that JSON cannot hold")
        return {"dict": [[key, pack(item, f"{path}{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [pack(item, f"{path}{i}", tensors) for i, item in enumerate(value)]}
    raise TypeError(f"{name}: a {type(value).__name__} has no place in a checkpoint")


def unpack(content: JSON, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given. KeyError, TypeError or ValueError where `content` is not its work."""
    if not isinstance(content, dict):
        return content
    ((kind, inner),) = content.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in inner}
    items = [unpack(item, tensors) for item in inner]
    return items if kind == "list" else tuple(items)


def without_aliases(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Contiguous tensors fit for safetensors, which refuses two names for one memory; and alias -> the name kept."""
    kept: dict[str, Tensor] = {}
    seen: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
            continue
        seen[key] = name
        kept[name] = tensor.detach().contiguous()
    return _apart(kept), aliases


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that lie in each other's memory without being the same (views) get memory of their own."""
    owners: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        if storage in owners and tensor.numel():
            tensors[name] = tensor.clone()
        owners.add(storage)
    return tensors


def whole(tensor: Tensor) -> Tensor:
    """A tensor gathered from its shards, if it has any: then all processes have to ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(reference: Tensor, value: Tensor) -> Tensor:
    """`value` in the memory layout of `reference`: fused kernels walk weights and moments side by side as they lie.
    In the shards of `reference` too; every process has the whole, so nothing is sent."""
    if hasattr(reference, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor  # half a second that one process never needs

        value = value.to(reference.device)
        return distribute_tensor(value, reference.device_mesh, reference.placements, src_data_rank=None)
    placed = torch.empty_like(reference, dtype=value.dtype)
    return placed.copy_(value)
