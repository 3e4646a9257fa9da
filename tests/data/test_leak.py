"""A column that is the target under another name is named; an honest one is not."""

import numpy as np
import polars as pl
import pytest

from dlkit.core.reading import Reading
from dlkit.data import load, tell_tales
from dlkit.data.leak import telling


def test_titanic(shared):
    """`alive` is `survived` in words, and nothing else in the table is."""
    assert tell_tales(load(str(shared("titanic.csv")), Reading(target="survived"))) == ["alive"]


def test_titanic_class(shared):
    assert tell_tales(load(str(shared("titanic.csv")), Reading(target="class"))) == ["pclass"]


def test_of_several_targets_each_is_told_by_its_own(shared, tmp_path):
    """A target that is the same in every row follows from any column, and from none."""
    labels = load(str(shared("titanic.csv")), Reading(targets=["alone", "survived", "adult_male"]), several=True)
    assert telling(labels) == [("who", "adult_male"), ("alive", "survived")] and tell_tales(labels) == ["who", "alive"]
    y = np.arange(200) % 2
    path = table(tmp_path, same=y, a=y, never=np.zeros(200, int), x=np.random.default_rng(0).normal(size=200))
    assert telling(load(path, Reading(targets=["never", "a"]), several=True)) == [("same", "a")]


@pytest.mark.parametrize(
    ("name", "target"), [("penguins.csv", "species"), ("california_housing.csv", "median_house_value")]
)
def test_honest_tables(shared, name, target):
    assert tell_tales(load(str(shared(name)), Reading(target=target))) == []


def table(tmp_path, **columns) -> str:
    path = tmp_path / "t.csv"
    pl.DataFrame(columns).write_csv(path)
    return str(path)


def test_a_number_in_other_units(tmp_path):
    y = np.random.default_rng(0).normal(size=100)
    noisy = y + np.random.default_rng(1).normal(size=100) / 100
    assert tell_tales(load(table(tmp_path, cents=100 * y - 7, near=noisy, y=y), Reading(target="y"))) == ["cents"]


def test_unique_values_are_not_accused(tmp_path):
    rng = np.random.default_rng(0)
    assert (
        tell_tales(load(table(tmp_path, x=rng.normal(size=200), y=rng.integers(0, 2, 200)), Reading(target="y"))) == []
    )
