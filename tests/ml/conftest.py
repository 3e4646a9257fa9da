"""Two sides of a split out of two tables."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dlkit.core.reading import Reading
from dlkit.ml.checks.sides import Sides, open_sides


@pytest.fixture
def two(tmp_path) -> Callable[..., tuple[str, str]]:
    """two(train, valid) writes two tables and returns their paths."""

    def make(train: pl.DataFrame, valid: pl.DataFrame) -> tuple[str, str]:
        for name, frame in (("train", train), ("valid", valid)):
            frame.write_csv(tmp_path / f"{name}.csv")
        return str(tmp_path / "train.csv"), str(tmp_path / "valid.csv")

    return make


@pytest.fixture
def sides(two) -> Callable[..., Sides]:
    """sides(train, valid, groups=…, time=…, **reading) reads them back."""

    def make(train: pl.DataFrame, valid: pl.DataFrame, groups=(), time=None, **reading) -> Sides:
        return open_sides(*two(train, valid), Reading(**reading), groups=groups, time=time)

    return make


@pytest.fixture
def at_random(shared) -> Callable[..., tuple[pl.DataFrame, pl.DataFrame]]:
    """at_random(name, seed) is a real table, every cell as text, four fifths and one fifth of it."""

    def make(name: str, seed: int = 0, share: float = 0.2) -> tuple[pl.DataFrame, pl.DataFrame]:
        return parted(text_of(shared(name)), np.random.default_rng(seed), share)

    return make


def text_of(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, infer_schema=False).fill_null("")


def parted(frame: pl.DataFrame, rng: np.random.Generator, share: float = 0.2) -> tuple[pl.DataFrame, pl.DataFrame]:
    order = rng.permutation(frame.height)
    cut = round(share * frame.height)
    return frame[np.sort(order[cut:])], frame[np.sort(order[:cut])]
