"""Embeddings of a table's columns: piecewise linear in a number, a table for a category."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor, nn

from dlkit.core import columns
from dlkit.core.graph import SOURCE, Step
from dlkit.core.layers import Shape


class Columns(nn.Module):
    """B×F to B×(columns·D): first the numbers' embeddings, then the categories', each in the columns' order.

    A number x is Σ over bins of clamp((x − left)/width, 0, 1)·w, and a bias (Gorishniy et al. 2022, equation 1, held at
    its ends). Edges are buffers: quantiles of training rows (`fit_edges`), until then of a standard normal variable.
    """

    left: Tensor
    scale: Tensor

    def __init__(self, layer: columns.Columns, x: Shape) -> None:
        super().__init__()
        numbers, categories = layer.split(x)
        width, bins = layer.embedding_dim, layer.bins
        self.numbers, self.bins = len(numbers), bins
        self.register_buffer("number_at", torch.tensor(numbers, dtype=torch.long), persistent=False)
        if numbers:
            self.weight = nn.Parameter(torch.empty(len(numbers), bins, width).uniform_(-(bins**-0.5), bins**-0.5))
            self.bias = nn.Parameter(torch.empty(len(numbers), width).uniform_(-(bins**-0.5), bins**-0.5))
            normal = NormalDist()
            quantiles = np.array([normal.inv_cdf((i + 1) / (bins + 2)) for i in range(bins + 1)])
            for name, values in zip(("left", "scale"), _bins(quantiles, bins), strict=True):
                self.register_buffer(name, torch.tensor(values.tolist()).repeat(len(numbers), 1))
        if categories:
            features = [feature for category in categories for feature in category]
            owner = [i for i, category in enumerate(categories) for _ in category]
            self.table = nn.Parameter(torch.empty(len(features), width).uniform_(-(width**-0.5), width**-0.5))
            self.register_buffer("category_at", torch.tensor(features), persistent=False)
            self.register_buffer("owner", torch.tensor(owner), persistent=False)
        self.categories = len(categories)

    def forward(self, x: Tensor) -> Tensor:
        parts = ([self._of_numbers(x)] if self.numbers else []) + ([self._of_categories(x)] if self.categories else [])
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def _of_numbers(self, x: Tensor) -> Tensor:
        values = x if self.numbers == x.shape[1] else x.index_select(1, self.number_at)
        inside = (values.t().unsqueeze(2) - self.left.unsqueeze(1)).mul_(self.scale.unsqueeze(1)).clamp_(0, 1)
        embedded = torch.baddbmm(self.bias.unsqueeze(1), inside, self.weight)  # numbers×B×D
        return embedded.transpose(0, 1).flatten(1)

    def _of_categories(self, x: Tensor) -> Tensor:
        """One product with a matrix that has each category's table in its own rows and columns."""
        rows = torch.arange(len(self.owner), device=x.device)
        matrix = self.table.new_zeros(len(self.owner), self.categories, self.table.shape[1])
        matrix = matrix.index_put((rows, self.owner), self.table)
        return x.index_select(1, self.category_at) @ matrix.flatten(1)


def _bins(values: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """(left edges, 1/widths) of `bins` bins between quantiles; where there are fewer, the others are 0 and say nothing.

    Edges next to each other in float32 would make a width whose inverse is no number: they count as one.
    """
    edges = np.unique(np.quantile(values.astype(np.float64), np.linspace(0, 1, bins + 1)))
    widths = np.diff(edges)
    held = widths > 1e-6 * max(float(np.ptp(edges)), 1e-30)
    left, scale = np.zeros(bins, np.float32), np.zeros(bins, np.float32)
    left[: held.sum()], scale[: held.sum()] = edges[:-1][held], 1 / widths[held]
    return left, scale


def fit_edges(steps: Sequence[Step], rows: Tensor) -> dict[str, dict[str, Tensor]]:
    """By name, the buffers of each layer of columns that reads the row itself: quantiles of the training rows, N×F."""
    found = {}
    for step in steps:
        if isinstance(step.layer, columns.Columns) and step.sources == (SOURCE,):
            numbers, bins = step.layer.split(step.inputs[0])[0], step.layer.bins
            fitted = [_bins(rows[:, feature].cpu().numpy(), bins) for feature in numbers]
            parts = zip(("left", "scale"), zip(*fitted, strict=True), strict=False)
            found[step.name] = {name: torch.from_numpy(np.stack(values)) for name, values in parts}
    return found
