"""A text as windows of tokens: what a language model is trained and judged on."""

import numpy as np
import torch
from torch import Tensor

from dlkit.nn.loader import Batches
from dlkit.nn.ranks import ALONE, Ranks


class Windows(Batches):
    """Windows of T tokens that stand side by side, each with the T tokens that follow one place later.

    tokens  N int32
    moves   whether the first window starts elsewhere in each epoch, so that tokens meet with other neighbours: training
    A row is the place where a window starts. An epoch shows (nearly) every token once.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        context: int,
        batch_size: int,
        device: torch.device,
        seed: int = 0,
        ranks: Ranks = ALONE,
        moves: bool = False,
    ) -> None:
        super().__init__(tokens, tokens[1:], batch_size, device, seed=seed, ranks=ranks)
        self.context, self.moves = context, moves
        self.rows = (len(tokens) - (context if moves else 1)) // context
        self._span = torch.arange(context, device=self.x.device)

    @property
    def count(self) -> int:
        return self.rows * self.context

    def order(self, epoch: int) -> Tensor:
        """Where the windows of an epoch start, in the order in which they are shown."""
        windows = super().order(epoch) * self.context
        if not self.moves:
            return windows
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**32)
        return windows + torch.randint(self.context, (), generator=generator)

    def places(self) -> Tensor:
        return super().places() * self.context

    def take(self, rows: Tensor, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        at = rows[:, None] + self._span
        return self.x[at].long(), self.y[at].long()
