"""Batches gathered whole from memory: one index_select a batch, no Python per row, no worker processes."""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from dlkit.core.augment import Augment
from dlkit.nn.augment import Augmenter
from dlkit.nn.ranks import ALONE, Ranks


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows and their targets: of several processes' step, this one's part.

    whole  the targets of the whole step, where it has more than `y`
    part   what a row counts: less than one where every process has the whole batch, there being too few rows to share
    rows   which rows of the side these are
    cuts   how many of them are in each micro-batch
    other  rows and targets that these are to be mixed with
    """

    x: Tensor
    y: Tensor
    whole: Tensor | None = None
    part: float = 1.0
    rows: Tensor | None = None
    cuts: tuple[int, ...] = ()
    other: tuple[Tensor, Tensor] | None = None

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.x, self.y))

    @property
    def targets(self) -> Tensor:
        """The targets of all rows of the step."""
        return self.y if self.whole is None else self.whole


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
    augment  how images are changed in training, never in evaluation; `classes` is what mixed targets are out of
    micro_batches  of a step: of several processes each has its part of every one
    The order of an epoch is a function of (seed, epoch) alone: the same on every device, and nothing to save.
    """

    moves_whole = True

    def __init__(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        batch_size: int,
        device: torch.device,
        normalise: Normalise | None = None,
        seed: int = 0,
        ranks: Ranks = ALONE,
        augment: Augment | None = None,
        classes: int = 0,
    ) -> None:
        self.x, self.y = torch.from_numpy(inputs), torch.from_numpy(targets)
        self.rows, self.batch_size, self.device, self.seed = len(inputs), batch_size, device, seed
        self.normalise, self.ranks, self.micro_batches = normalise, ranks, 1
        if device.type != "cpu" and self.moves_whole and _fits(self.x, device):
            self.x, self.y = self.x.to(device), self.y.to(device)
        self.augment = Augmenter(augment, self.rows, classes, seed) if augment else None

    def __len__(self) -> int:
        """Batches in an epoch of training. A last batch of one row is left out: batch norm has no variance in it."""
        full, rest = divmod(self.rows, self.batch_size)
        return max(1, full + (rest > 1))

    def resized(self, batch_size: int) -> Self:
        """The same rows in batches of another size."""
        other = copy(self)
        other.batch_size = batch_size
        return other

    def head(self, rows: int) -> Self:
        """The first rows alone, for evaluation."""
        other = copy(self)
        other.rows = min(rows, self.rows)
        return other

    @property
    def micro_size(self) -> int:
        """Rows of a micro-batch of a whole step, over all processes."""
        return -(-self.batch_size // self.micro_batches)

    def shuffled(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one training epoch, from the `start`-th on."""
        return self._batches(self.order(epoch), range(start, len(self)), epoch=epoch)

    def order(self, epoch: int) -> Tensor:
        """The rows in the order of an epoch, N int64."""
        # torch's CPU generator reads 32 bits of its seed: two numbers must be mixed into those.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**32)
        return torch.randperm(self.rows, generator=generator)

    def in_order(self) -> Iterator[Batch]:
        """Every row once, in order, for evaluation; of several processes each gets its part."""
        return self._batches(self.places(), self._all())

    def everything(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows once, unaugmented, in an order of no epoch: of neighbours, sorted maybe, a batch norm
        would see too little variance. In batches of the size it saw in training, a last one of one row left out. Of
        several processes each gets its part."""
        parts = self.resized(self.micro_size)
        return ((batch.x, batch.y) for batch in parts._batches(self.order(0), range(len(parts))))

    def mixed(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every row once, unaugmented, in an order of no epoch, in each of several processes: its head is a sample."""
        parts = self.resized(at_once(self.batch_size, self.micro_batches))
        return ((batch.x, batch.y) for batch in parts._batches(parts.order(0), parts._all(), ALONE))

    def places(self) -> Tensor:
        """The rows in the order in which they are evaluated, N int64."""
        return torch.arange(self.rows)

    @property
    def count(self) -> int:
        """How many targets there are, over which losses and metrics are means."""
        return self.rows

    def take(self, rows: Tensor, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """Inputs and targets of some rows, where the data is, as an epoch of training or (None) evaluation has them."""
        return self.x.index_select(0, rows), self.y.index_select(0, rows)

    def _all(self) -> range:
        return range(-(-self.rows // self.batch_size))

    def _batches(
        self, order: Tensor, numbers: range, ranks: Ranks | None = None, epoch: int | None = None
    ) -> Iterator[Batch]:
        order, ranks = order.to(self.x.device), ranks or self.ranks
        gathered = (self._gather(order[i * self.batch_size : (i + 1) * self.batch_size], ranks, epoch) for i in numbers)
        at_hand = gathered if self.x.device.type == self.device.type else self._ahead(gathered)
        return (self._ready(batch, epoch) for batch in at_hand)

    def _gather(self, rows: Tensor, ranks: Ranks, epoch: int | None) -> Batch:
        shares, part = ranks.share(rows, self._parts(len(rows)))
        own = shares[0] if len(shares) == 1 else torch.cat(shares)
        whole = None if len(own) == len(rows) else self.take(rows, epoch)[1]
        partners = self.augment.partners(own, epoch) if self.augment and epoch is not None else None
        other = None if partners is None else self.take(partners, epoch)
        return Batch(*self.take(own, epoch), whole, part, own, tuple(map(len, shares)), other)

    def _parts(self, rows: int) -> int:
        """Into how many micro-batches a step of so many rows is cut: a last, smaller one into as many as keep the size
        of the others, and so that no row is alone where none is there: batch norm has no variance in one."""
        if rows == self.batch_size:
            return self.micro_batches
        return min(-(-rows // self.micro_size), max(rows // min(self.micro_size, 2), 1))

    def _ahead(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Host to device: the next batch is gathered into pinned memory and on its way before the last one is used, so
        that the device finds it there when it is done, and the host waits for nothing."""
        waiting: Batch | None = None
        for batch in batches:
            names = ("x", "y", "whole", "rows") if self.augment else ("x", "y", "whole")
            tensors = {name: getattr(batch, name) for name in names}
            sent = replace(
                batch,
                other=batch.other and (self._send(batch.other[0]), self._send(batch.other[1])),
                **{name: self._send(value) for name, value in tensors.items() if value is not None},
            )
            if waiting is not None:
                yield waiting
            waiting = sent
        if waiting is not None:
            yield waiting

    def _send(self, values: Tensor) -> Tensor:
        pin = self.device.type == "cuda"
        return (values.pin_memory() if pin else values).to(self.device, non_blocking=pin)

    def _ready(self, batch: Batch, epoch: int | None) -> Batch:
        if self.augment and epoch is not None and batch.rows is not None:
            x, y = self.augment(batch.x, batch.y, batch.rows, epoch, batch.other)
            batch = replace(batch, x=x, y=y, other=None)
        x = self.normalise(batch.x) if self.normalise else batch.x
        # Convolutions run a third faster with channels last; for other ranks there is nothing to choose.
        x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        return batch if x is batch.x else replace(batch, x=x)


class Sequences(Batches):
    """Rows of tokens N×L int32, negative after the end of each. A batch is as long as its longest row: so that nobody
    has to wait for a device to say how long that is, the data stays in main memory.
    """

    moves_whole = False

    def take(self, rows: Tensor, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        x, y = super().take(rows, epoch)
        return x[:, : int((x >= 0).sum(1).max())].long(), y


def at_once(batch_size: int, accumulate: int = 1) -> int:
    """Rows of a batch that is evaluated: no gradients are kept, so that four micro-batches' worth of rows fit where one
    did."""
    return 4 * -(-batch_size // accumulate)


def _fits(x: Tensor, device: torch.device) -> bool:
    """Whether the data takes under a quarter of the device's free memory: the rest is for the network."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return x.nbytes < free // 4
