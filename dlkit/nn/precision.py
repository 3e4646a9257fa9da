"""Number formats: what runs in which, and loss scaling where gradients would underflow."""

from contextlib import nullcontext
from typing import Any

import torch

from dlkit.core.errors import DlkitError, ExitCode

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check(precision: str, device: torch.device) -> None:
    """Refuse what a device does not have."""
    if precision == "tf32" and device.type != "cuda":
        raise DlkitError("--precision tf32 has no effect here: it is for CUDA devices", "use fp32 or bf16")
    if device.type == "cuda" and precision in ("tf32", "bf16") and torch.cuda.get_device_capability(device)[0] < 8:
        name = torch.cuda.get_device_name(device)
        raise DlkitError(f"--precision {precision}: {name} has none", "use fp16 or fp32", ExitCode.NO_DEPENDENCY)


def set_matmul(precision: str) -> None:
    """TF32 in matrix products and convolutions for tf32 alone: fp32 means 32 bits, where torch's default for
    convolutions is TF32. Autocast is not touched by it."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def autocast(precision: str, device: str) -> Any:
    """Matrix products and convolutions in 16 bits, the rest and the weights in 32 (S160-S162). Re-entrant."""
    kind = _AUTOCAST.get(precision)
    return torch.autocast(device, dtype=kind) if kind else nullcontext()


def scaler(precision: str, device: str) -> torch.amp.GradScaler:
    """Torch's own; enabled for fp16 alone: bf16 has the range of fp32."""
    return torch.amp.GradScaler(device, enabled=precision == "fp16")
