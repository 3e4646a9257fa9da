"""A text as windows of tokens some of which are hidden: what a masked language model is trained and judged on."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dlkit.nn.augment import Draws
from dlkit.nn.objective import IGNORED
from dlkit.nn.ranks import ALONE, Ranks
from dlkit.nn.windows import Windows

CHOSEN, HIDDEN, SWAPPED = 0.15, 0.8, 0.1
"""The share of tokens that are to be told; of these the shares shown as the mask and as any token, the rest as they are
(Devlin et al. 2019)."""
_AT_ONCE = 1 << 20


class Masked(Windows):
    """Windows of T tokens; the targets are the tokens chosen in them, and IGNORED elsewhere.

    tokens  N int32, below `mask`, which is the number of the token that hides others
    Each token is chosen by itself, as a hash of (seed, epoch, its place) says: the same in any number of processes. In
    evaluation that is the same every time.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        context: int,
        batch_size: int,
        device: torch.device,
        mask: int,
        seed: int = 0,
        ranks: Ranks = ALONE,
        moves: bool = False,
    ) -> None:
        super().__init__(tokens, context, batch_size, device, seed, ranks, moves)
        self.mask = mask

    @cached_property
    def count(self) -> int:
        """How many tokens evaluation chooses."""
        whole = self.rows * self.context
        starts = range(0, whole, _AT_ONCE)
        places = (torch.arange(start, min(start + _AT_ONCE, whole)) for start in starts)
        return sum(int((Draws(at, 0, self.seed).uniform() < CHOSEN).sum()) for at in places)

    def take(self, rows: Tensor, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        at = rows[:, None] + self._span
        tokens = self.x[at].long()
        draws = Draws(at, epoch or 0, self.seed)
        drawn, other = draws.uniform(), draws.integers(0, self.mask - 1)
        shown = torch.where(drawn < CHOSEN * (HIDDEN + SWAPPED), other, tokens)
        shown = shown.masked_fill(drawn < CHOSEN * HIDDEN, self.mask)
        return shown, tokens.masked_fill(drawn >= CHOSEN, IGNORED)
