"""Batches gathered whole from memory: one index_select a batch, no Python per row, no worker processes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Normalise:
    """Pixels to (x − mean)/std per channel, on the device, batch by batch: the data stays in its own small type."""

    mean: Tensor
    std: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return (x.to(self.mean.dtype) - self.mean) / self.std


class Batches:
    """The rows of one side of a split, on the device where they fit there, as batches in a given order.

    inputs   N×… array, uint8 or float32; uint8 is normalised batch by batch.
    targets  N int64 class indices, or N float32.
    The order of an epoch is a function of (seed, epoch) alone: the same on every device, and nothing to save.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        batch_size: int,
        device: torch.device,
        normalise: Normalise | None = None,
        seed: int = 0,
    ) -> None:
        self.x, self.y = torch.from_numpy(inputs), torch.from_numpy(targets)
        self.rows, self.batch_size, self.device, self.seed = len(inputs), batch_size, device, seed
        self.normalise = normalise
        if device.type != "cpu" and _fits(self.x, device):
            self.x, self.y = self.x.to(device), self.y.to(device)

    def __len__(self) -> int:
        """Batches in an epoch of training. A last batch of one row is left out: batch norm has no variance in it."""
        full, rest = divmod(self.rows, self.batch_size)
        return max(1, full + (rest > 1))

    def shuffled(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one training epoch, from the `start`-th on."""
        # torch's CPU generator reads 32 bits of its seed: two numbers must be mixed into those.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**32)
        order = torch.randperm(self.rows, generator=generator)
        return self._batches(order, range(start, len(self)))

    def in_order(self) -> Iterator[Batch]:
        """Every row once, in order, for evaluation."""
        return self._batches(torch.arange(self.rows), range(-(-self.rows // self.batch_size)))

    def _batches(self, order: Tensor, numbers: range) -> Iterator[Batch]:
        order = order.to(self.x.device)
        parts = (order[i * self.batch_size : (i + 1) * self.batch_size] for i in numbers)
        if self.x.device.type == self.device.type:
            return (self._ready(self.x.index_select(0, rows), self.y.index_select(0, rows)) for rows in parts)
        return self._ahead(parts)

    def _ahead(self, parts: Iterator[Tensor]) -> Iterator[Batch]:
        """Host to device: the next batch is gathered into pinned memory and copied while the last one computes."""
        waiting: Batch | None = None
        for rows in parts:
            sent = self._send(rows)
            if waiting is not None:
                yield self._ready(*waiting)
            waiting = sent
        if waiting is not None:
            yield self._ready(*waiting)

    def _send(self, rows: Tensor) -> Batch:
        pin = self.device.type == "cuda"
        x, y = self.x.index_select(0, rows), self.y.index_select(0, rows)
        if pin:
            x, y = x.pin_memory(), y.pin_memory()
        return x.to(self.device, non_blocking=pin), y.to(self.device, non_blocking=pin)

    def _ready(self, x: Tensor, y: Tensor) -> Batch:
        x = self.normalise(x) if self.normalise else x
        # Convolutions run a third faster with channels last; for other ranks there is nothing to choose.
        return (x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x), y


def _fits(x: Tensor, device: torch.device) -> bool:
    """Whether the data takes under a quarter of the device's free memory: the rest is for the network."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return x.nbytes < free // 4
