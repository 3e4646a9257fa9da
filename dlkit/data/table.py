"""A table as it was read, before its columns have roles: the readers' common product."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from dlkit.data.dataset import Place


@dataclass(frozen=True, eq=False)
class Table:
    """Columns with names, not yet typed where `is_text` (every cell a String), else in their source's own types.

    fixed_split  N bool, True for validation, where the source says so
    """

    name: str
    place: Place
    frame: pl.DataFrame
    fingerprint: str
    is_text: bool = False
    fixed_split: np.ndarray | None = None
