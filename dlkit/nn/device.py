"""Where tensors live, and what makes a run repeatable."""

import torch

from dlkit.core.errors import DlkitError, ExitCode


def pick(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda`, `cuda:1` or `mps`. One that is not there: exit code 69."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DlkitError(f"--device must be auto, cpu, cuda, cuda:N or mps. Got {name!r} instead.") from None
    if not _present(device):
        raise DlkitError(
            f"--device {name}: this machine has no such device", "use --device cpu", ExitCode.NO_DEPENDENCY
        )
    return device


def _present(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return device.type == "cpu" or (device.type == "mps" and torch.backends.mps.is_available())


def seed_all(seed: int) -> None:
    """Seed torch on every device: initial weights and dropout. The order of rows has its own generator."""
    torch.manual_seed(seed)


def describe(device: torch.device) -> str:
    """The device as a person names it: 'cuda:0 (NVIDIA H200)', 'cpu'."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked: a clock read before that measures nothing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
