"""What test-time augmentation shows a network of an image: changes that the user says keep its label (S177)."""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from dlkit.core.errors import DlkitError, nearest
from dlkit.nn.predictor import View

SHARE = 8
"""A crop is the image moved by a SHARE-th of its side, its edge repeated where it has moved away from."""


def _same(x: Tensor) -> Tensor:
    return x


def _moved(down: int, right: int) -> View:
    def view(x: Tensor) -> Tensor:
        dy, dx = (max(side // SHARE, 1) for side in x.shape[-2:])
        wide = F.pad(x, (dx, dx, dy, dy), mode="replicate")
        top, left = dy * (1 + down), dx * (1 + right)
        return wide[..., top : top + x.shape[-2], left : left + x.shape[-1]]

    return view


KINDS: dict[str, tuple[View, ...]] = {
    "flip": (_same, lambda x: x.flip(-1)),
    "vflip": (_same, lambda x: x.flip(-2)),
    "crop": (_same, *(_moved(down, right) for down in (-1, 1) for right in (-1, 1))),
}
"""flip: mirrored left to right too; vflip: top to bottom; crop: the image and four moves of it."""


def parse(text: str) -> tuple[View, ...]:
    """`flip,crop` -> every combination of a view of each kind: 2 · 5."""
    kinds = []
    for name in text.split(","):
        if name not in KINDS:
            raise DlkitError(f"--tta {name}: there is no such view", nearest(name, list(KINDS)))
        kinds.append(KINDS[name])
    return tuple(_chain(views) for views in product(*kinds))


def _chain(views: Sequence[View]) -> View:
    def view(x: Tensor) -> Tensor:
        for one in views:
            x = one(x)
        return x.contiguous(memory_format=torch.channels_last)

    return view
