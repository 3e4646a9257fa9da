"""What a reader found, before its columns have types and roles: the readers' common product."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from dlkit.data.dataset import Place


@dataclass(frozen=True, eq=False)
class Table:
    """Columns with names, not yet typed where `is_text` (every cell a String), else in their source's own types.

    arrays       N×C×H×W, uint8 or float32, of a set of images; `frame` then holds their labels, if there are any
    fixed_split  N bool, True for validation, where the source says so
    labels       the columns of `frame` that are one array of zeros and ones, a row's several targets
    """

    name: str
    place: Place
    frame: pl.DataFrame
    fingerprint: str
    is_text: bool = False
    arrays: np.ndarray | None = None
    fixed_split: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return self.frame.height if self.arrays is None else len(self.arrays)

    def keep(self, mask: np.ndarray) -> "Table":
        """The rows where `mask`, N bool, is true."""
        if mask.all():
            return self
        arrays, fixed = (None if part is None else part[mask] for part in (self.arrays, self.fixed_split))
        frame = self.frame.filter(mask)
        return replace(self, frame=frame, place=self.place.keep(mask), arrays=arrays, fixed_split=fixed)
