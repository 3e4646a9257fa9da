"""Where tensors live, and what makes a run repeatable."""

import gc
import os

import torch

from dlkit.core.errors import DlkitError, ExitCode


def pick(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda`, `cuda:1` or `mps`. One that is not there: exit code 69."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and torch.distributed.is_initialized():
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DlkitError(f"--device must be auto, cpu, cuda, cuda:N or mps. Got {name!r} instead.") from None
    if not _present(device):
        raise DlkitError(
            f"--device {name}: this machine has no such device", "use --device cpu", ExitCode.NO_DEPENDENCY
        )
    if device.type == "cuda":
        # What is told no device, such as pinned memory or a kernel that is compiled, goes by the current one.
        torch.cuda.set_device(device)
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _present(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return (device.type == "cpu" and not device.index) or (device.type == "mps" and torch.backends.mps.is_available())


def seed_all(seed: int) -> None:
    """Seed torch on every device: initial weights and dropout. The order of rows has its own generator."""
    torch.manual_seed(seed)


def draw(seed: int, step: int) -> int:
    """What seeds a step's own randomness (dropout): a function of (seed, step), so that there is nothing to save."""
    return seed * 0x9E3779B1 + step * 0x85EBCA6B + 1


def seed_step(device: torch.device, drawn: int, rank: int = 0) -> None:
    """Seed what one step draws in one of several processes.

    The generators themselves: torch.manual_seed reaches for every kind of device there could be, at each step.
    """
    mixed = (drawn + rank * 0xC2B2AE35) % 2**32  # torch's CPU generator reads 32 bits of its seed
    torch.default_generator.manual_seed(mixed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(mixed)
    elif device.type == "mps":
        torch.mps.manual_seed(mixed)


def describe(device: torch.device) -> str:
    """The device as a person names it: 'cuda:0 (NVIDIA H200)', 'cpu'."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def release(device: torch.device) -> None:
    """Give back the device memory of what nobody uses any more. torch's first optimiser in a process keeps the frame
    that made it, and so a whole network, until the collector comes."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked: a clock read before that measures nothing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
