"""Texts of several lengths in one batch: what stands after the end of a text changes nothing.

The embedding meets the tokens, and notes how many of each row's positions are real; the layers behind it that look at
other positions (attention, recurrence backwards, one vector of a sequence) leave out the rest. Layers that see only
what is before a position, or the position alone, need not know.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dlkit.core import sequence
from dlkit.core.errors import DlkitError
from dlkit.core.field import PAST, POINTWISE
from dlkit.core.graph import SOURCE, Step
from dlkit.core.layers import FIRST, Join, Layer, Mul, TrailingNorm

_HEED = (sequence.Embed, sequence.Attention, sequence.Recurrent, sequence.Select)
"""Layers whose modules have `lengths`."""


class Lengths:
    """How many positions of each row are real, as the embedding last found it: one for all modules of a network."""

    def __init__(self) -> None:
        self._count = torch.ones(1, dtype=torch.long)
        self._positions = 1

    def note(self, tokens: Tensor) -> Tensor:
        """Take in a batch of tokens B×T, negative after the end of a row. They come back as tokens of the table."""
        self._count, self._positions = (tokens >= 0).sum(1), tokens.shape[1]
        return tokens.clamp(min=0)

    def of(self, x: Tensor) -> Tensor:
        """B int64: the real positions of a sequence B×T×D. A class token before it is one more."""
        return self._count + (x.shape[1] - self._positions)

    def mask(self, x: Tensor) -> Tensor:
        """B×T bool: which positions of B×T×D are real."""
        return torch.arange(x.shape[1], device=x.device) < self.of(x)[:, None]


def heed(model: nn.Module, steps: Sequence[Step]) -> nn.Module:
    """`model`, its modules told to look at lengths. DlkitError names a layer that would see what is behind the end."""
    check(steps)
    lengths = Lengths()
    for step in steps:
        if isinstance(step.layer, _HEED):
            model.get_submodule(step.name).lengths = lengths  # type: ignore[assignment]
    return model


def check(steps: Sequence[Step]) -> None:
    """Refuse a network whose answer would hang on how long the other texts of a batch are."""
    for step in steps:
        if SOURCE in step.sources and not isinstance(step.layer, sequence.Embed):
            raise DlkitError(
                f"{step.name} ({step.text}) reads numbers, and a text is tokens: the network begins with embed",
                "--drop leaves the column of text out, and the network reads the others",
            )
        if len(step.inputs[0]) > 1 and not _keeps_apart(step.layer, step):
            raise DlkitError(
                f"{step.name} ({step.text}) would see what stands after the end of the shorter texts",
                "attn, lstm, gru, rnn and select leave that out; select:mean makes one vector of a sequence",
            )


def _keeps_apart(layer: Layer, step: Step) -> bool:
    """Whether the real positions of a sequence T×D stay where they are and see none that is not."""
    if isinstance(layer, sequence.CrossAttention):
        return False
    if isinstance(layer, (*_HEED, sequence.ClassToken)):
        return True
    if isinstance(layer, Join):
        return step.op == "sum" or (isinstance(layer, Mul) and len(set(step.inputs)) == 1)
    (x,) = step.inputs
    one_axis = not isinstance(layer, TrailingNorm) or len(layer.normalized_shape(x)) == 1
    alike = layer.reads(x) in (POINTWISE, PAST) and layer.layout != FIRST
    return alike and one_axis and not isinstance(layer, sequence.Turning) and len(step.output) == len(x)
