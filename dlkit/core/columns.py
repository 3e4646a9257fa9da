"""The layer that reads a table's row: an embedding for each column, by its value or its category."""

from itertools import accumulate
from typing import Any

from dlkit.core.arguments import Argument, Kind, Whole, whole
from dlkit.core.errors import DlkitError
from dlkit.core.field import WHOLE, Reads
from dlkit.core.layers import Layer, Shape


class Widths(Kind):
    """How many features each column has, in order: 1x1x5."""

    item = Whole()
    expected = f"{item.expected} for each column as in 1x1x5"

    def read(self, text: str) -> tuple[int, ...]:
        return self.check(tuple(whole(part) for part in text.split("x")))

    def check(self, value: Any) -> tuple[int, ...]:
        items = (value,) if isinstance(value, int) else tuple(value)
        if not items:
            raise ValueError(value)
        return tuple(self.item.check(item) for item in items)

    def write(self, value: tuple[int, ...]) -> str:
        return "x".join(map(str, value))


class Columns(Layer):
    """Embeddings of a row's columns, side by side. A row is the features that each column has, `widths` of them.

    A column of one feature is a number: piecewise linear in it, over `bins` bins whose edges are quantiles of the
    training rows (Gorishniy et al. 2022). A wider one is a category, one-hot, and looks its vector up in a table.
    Unless widths are given every feature is a number.
    """

    names = ("columns",)
    arguments = (
        Argument("embedding_dim", Whole(), what="number of features for each column"),
        Argument("bins", Whole(), 32),
        Argument("widths", Widths(), None),
    )
    bare = "embedding_dim"
    example = "columns:16"

    embedding_dim: int
    bins: int
    widths: tuple[int, ...] | None

    def split(self, x: Shape) -> tuple[list[int], list[range]]:
        """Features that are numbers, and those of each category; DlkitError where the widths do not fit."""
        if len(x) != 1:
            raise DlkitError("it needs a vector, a row of a table")
        widths = self.widths or (1,) * x[0]
        if sum(widths) != x[0]:
            raise DlkitError(f"its widths add up to {sum(widths)}, and the row has {x[0]} features")
        starts = [0, *accumulate(widths)]
        return (
            [start for start, width in zip(starts, widths, strict=False) if width == 1],
            [range(start, start + width) for start, width in zip(starts, widths, strict=False) if width > 1],
        )

    def shape(self, x: Shape) -> Shape:
        numbers, categories = self.split(x)
        return ((len(numbers) + len(categories)) * self.embedding_dim,)

    def params(self, x: Shape) -> int:
        numbers, categories = self.split(x)
        return self.embedding_dim * (len(numbers) * (self.bins + 1) + sum(map(len, categories)))

    def macs(self, x: Shape, y: Shape) -> int:
        """The tables are one matrix product, of all categories' features with all their embeddings."""
        numbers, categories = self.split(x)
        looked_up = sum(map(len, categories)) * len(categories)
        return self.embedding_dim * (len(numbers) * self.bins + looked_up)

    def reads(self, x: Shape) -> Reads:
        return WHOLE

    def kept(self, x: Shape) -> int:
        """Elements kept for the gradients of its weights, as a network's first layer: positions in bins, categories."""
        numbers, categories = self.split(x)
        return len(numbers) * self.bins + sum(map(len, categories))
