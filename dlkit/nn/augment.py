"""Images changed in training, a whole batch at a time on the device.

What happens to a row is a function of (seed, epoch, row), not of the batch or the process that it falls into: numbers
come from a hash of those three, so that micro-batches, processes and a resumed run see the same images.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dlkit.core.augment import Augment

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_QUANTILES = 1 << 16
GRAY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luma (ITU-R BT.601)."""


def _signed(value: int) -> int:
    """A 64-bit pattern as the number that int64 holds it as."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _shift(x: Tensor, by: int) -> Tensor:
    """Logical shift to the right: torch's own keeps the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser (Steele, Lea and Flood 2014): int64 -> int64, products modulo 2⁶⁴."""
    x = (x ^ _shift(x, 30)) * _signed(_FIRST)
    x = (x ^ _shift(x, 27)) * _signed(_SECOND)
    return x ^ _shift(x, 31)


class Draws:
    """Random numbers of some rows in one epoch: the same for a row whatever stands beside it, on every device."""

    def __init__(self, rows: Tensor, epoch: int, seed: int) -> None:
        # Filled there: a number copied to a GPU would wait for all that it has to do.
        start = torch.full((1,), _signed(seed * _GOLDEN + epoch * _FIRST), device=rows.device)
        self._state = _mix(rows + _mix(start))
        self._count = 0

    def _bits(self) -> Tensor:
        self._count += 1
        return _mix(self._state + _signed(self._count * _GOLDEN))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """B float32 in [low, high): the next number of each row."""
        return low + (high - low) * (_shift(self._bits(), 40).float() / (1 << 24))

    def integers(self, low: int, high: int) -> Tensor:
        """B int64 in [low, high]."""
        return low + _shift(self._bits(), 1) % (high - low + 1)

    def coin(self) -> Tensor:
        """B bool."""
        return self._bits() < 0


class Augmenter:
    """Changes the images of a training batch before they are normalised.

    count    rows of the training side, among which partners of mixed rows are
    classes  what mixed classes are probabilities of
    """

    def __init__(self, how: Augment, count: int, classes: int, seed: int) -> None:
        self.how, self.count, self.classes, self.seed = how, count, classes, seed
        self._beta = {name: _quantiles(getattr(how, name)) for name in ("mixup", "cutmix") if getattr(how, name)}

    def partners(self, rows: Tensor, epoch: int) -> Tensor | None:
        """B int64: the rows with which these are mixed; None where none is. Drawn where `rows` are: data that lies in
        main memory is gathered there, without a word from the device."""
        return self._partners(Draws(rows, epoch, ~self.seed)) if self.how.mixes else None

    def _partners(self, draws: Draws) -> Tensor:
        return draws.integers(0, self.count - 1)

    def __call__(
        self, x: Tensor, y: Tensor, rows: Tensor, epoch: int, other: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """B×C×H×W in the images' own units, float32 where a change needs it, and B or B×classes targets.

        y      B int64 classes, B float32, or B×labels
        rows   B int64: which rows these are, on the device of x
        other  images and targets of their `partners`, likewise
        """
        x = self._change(x, Draws(rows, epoch, self.seed))
        if other is None:
            return x, y
        draws = Draws(rows, epoch, ~self.seed)
        theirs = self._change(other[0], Draws(self._partners(draws), epoch, self.seed))
        x, share = self._mix(x.float(), theirs.float(), draws)
        return x, self._targets(y, other[1], share)

    def _change(self, x: Tensor, draws: Draws) -> Tensor:
        how = self.how
        if how.crop:
            x = _move(x, draws.integers(-how.crop, how.crop), draws.integers(-how.crop, how.crop))
        if how.resize:
            x = _stretch(x, draws, how.resize)
        for on, axis in ((how.flip, 3), (how.vflip, 2)):
            if on:
                x = torch.where(draws.coin().view(-1, 1, 1, 1), x.flip(axis), x)
        return _color(x, draws, how.color) if how.color else x

    def _mix(self, x: Tensor, other: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """(mixed images, B: the share of the first one in each)."""
        drawn = draws.uniform()
        turn = draws.coin() if len(self._beta) == 2 else None
        mixed = {name: self._one(name, x, other, drawn, draws) for name in self._beta}
        if turn is None:
            return next(iter(mixed.values()))
        (a, first), (b, second) = mixed["mixup"], mixed["cutmix"]
        return torch.where(turn.view(-1, 1, 1, 1), a, b), torch.where(turn, first, second)

    def _one(self, name: str, x: Tensor, other: Tensor, drawn: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        table = self._beta[name] = self._beta[name].to(x.device)  # copied once
        share = table[(drawn * _QUANTILES).long().clamp(max=_QUANTILES - 1)]
        if name == "mixup":
            return torch.lerp(other, x, share.view(-1, 1, 1, 1)), share
        inside = _boxes(x, 1 - share, draws)
        return torch.where(inside[:, None], other, x), 1 - inside.flatten(1).float().mean(1)

    def _targets(self, y: Tensor, other: Tensor, share: Tensor) -> Tensor:
        if not y.is_floating_point():
            y, other = (F.one_hot(t, self.classes).float() for t in (y, other))
        return torch.lerp(other, y, share.view(-1, *(1,) * (y.dim() - 1)))


def _quantiles(alpha: float) -> Tensor:
    """Beta(α, α) as a table that a uniform number looks up: its inverse has no closed form."""
    draws = np.random.Generator(np.random.PCG64(0)).beta(alpha, alpha, _QUANTILES)
    return torch.from_numpy(np.sort(draws)).float()


def _move(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each image moved by so many pixels: out[i, j] = x[i + down, j + right], 0 outside."""
    height, width = x.shape[2:]
    i = torch.arange(height, device=x.device) + down[:, None]
    j = torch.arange(width, device=x.device) + right[:, None]
    inside = ((i >= 0) & (i < height))[:, :, None] & ((j >= 0) & (j < width))[:, None, :]
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    moved = x.permute(0, 2, 3, 1)[batch, i.clamp(0, height - 1)[:, :, None], j.clamp(0, width - 1)[:, None, :]]
    return (moved * inside[..., None].to(x.dtype)).permute(0, 3, 1, 2)


def _stretch(x: Tensor, draws: Draws, smallest: float) -> Tensor:
    """A box of each image, at least `smallest` of its area, stretched over the whole by bilinear interpolation.

    Sides are shares of the image's; their ratio is from 3/4 to 4/3, or as far from 1 as the area leaves room.
    """
    area = draws.uniform(smallest, 1.0)
    farthest = torch.log(area.reciprocal().clamp(max=4 / 3))
    aspect = torch.exp(farthest * draws.uniform(-1, 1))
    wide, high = (area * aspect).sqrt(), (area / aspect).sqrt()
    # Of coordinates from -1 to 1, the box's centre may be as far from the middle as its size leaves room.
    across, down = (1 - wide) * draws.uniform(-1, 1), (1 - high) * draws.uniform(-1, 1)
    nothing = torch.zeros_like(wide)
    theta = torch.stack([torch.stack([wide, nothing, across], 1), torch.stack([nothing, high, down], 1)], 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def _color(x: Tensor, draws: Draws, strength: float) -> Tensor:
    """Brightness, contrast (about the image's mean luma), saturation (about each pixel's luma), in this order.

    Bytes stay within 0 … 255, as images are. Saturation is for three channels.
    """
    byte = x.dtype == torch.uint8
    x = x.float()
    brightness, contrast, saturation = (draws.uniform(1 - strength, 1 + strength).view(-1, 1, 1, 1) for _ in range(3))
    x = _limit(x * brightness, byte)
    x = _limit(torch.lerp(_luma(x).mean((1, 2, 3), keepdim=True), x, contrast), byte)
    return _limit(torch.lerp(_luma(x), x, saturation), byte) if x.shape[1] == 3 else x


def _limit(x: Tensor, byte: bool) -> Tensor:
    return x.clamp(0, 255) if byte else x


def _luma(x: Tensor) -> Tensor:
    """B×1×H×W: luma of red, green and blue; the mean of other channels."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    red, green, blue = (weight * x[:, i : i + 1] for i, weight in enumerate(GRAY))
    return red + green + blue


def _boxes(x: Tensor, share: Tensor, draws: Draws) -> Tensor:
    """B×H×W bool: a box of each image, of its aspect and `share` of its area, cut off at the edge (Yun 2019)."""
    height, width = x.shape[2:]
    side = share.sqrt()[:, None]
    inside = []
    for size in (height, width):
        middle = (draws.uniform() * size).floor()[:, None]
        half = (side * size).floor() / 2
        at = torch.arange(size, device=x.device)
        inside.append((at >= (middle - half).floor()) & (at < (middle + half).floor()))
    return inside[0][:, :, None] & inside[1][:, None, :]
