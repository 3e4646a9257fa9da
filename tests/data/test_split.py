"""Splits: whole, disjoint, repeatable, and in proportion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlkit.core.errors import DlkitError
from dlkit.data import Dataset, hold_out, load
from dlkit.data.dataset import Place
from dlkit.data.split import allocate


def labelled(labels: list[int], task: str = "classification") -> Dataset:
    labels = np.array(labels)
    classes = tuple(map(str, range(labels.max() + 1))) if task == "classification" else ()
    return Dataset(
        name="d",
        source="d",
        fingerprint="",
        place=Place("d"),
        task=task,
        target="y",
        classes=classes,
        labels=labels,
    )


@given(
    st.lists(st.integers(0, 5), min_size=4, max_size=200),
    st.floats(0.01, 0.99),
    st.integers(0, 2**63),
    st.sampled_from(["classification", "regression"]),
)
def test_a_split_is_a_partition(labels, valid, seed, task):
    dataset = labelled(labels, task)
    wanted = round(valid * len(labels))
    if min(wanted, len(labels) - wanted) < 2:
        with pytest.raises(DlkitError) as caught:
            hold_out(dataset, valid=valid, seed=seed)
        assert caught.value.code == 65
        return
    split = hold_out(dataset, valid=valid, seed=seed)
    train, held_out = split.train, split.valid
    assert len(held_out) == wanted and train.dtype == held_out.dtype == np.int64
    assert sorted([*train, *held_out]) == [*range(len(labels))]
    assert (np.diff(train) > 0).all() and (np.diff(held_out) > 0).all()
    again = hold_out(dataset, valid=valid, seed=seed)
    assert np.array_equal(train, again.train) and np.array_equal(held_out, again.valid)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(sum), st.floats(0, 1))
def test_allocation_is_in_proportion(counts, share):
    counts = np.array(counts)
    total = round(share * counts.sum())
    taken = allocate(counts, total)
    assert taken.sum() == total and (taken >= 0).all() and (taken <= counts).all()
    low, high = np.minimum(counts // 2, 1), np.maximum(counts - 1, 0)
    if low.sum() <= total <= high.sum():
        assert (taken >= low).all() and (taken <= high).all()
    quota = total * counts / counts.sum()
    free = (quota >= low) & (quota <= high)
    if free.all():
        assert (np.abs(taken - quota) < 1).all()


def test_every_class_is_on_both_sides():
    labels = np.repeat([0, 1, 2, 3], [1000, 50, 2, 1])
    split = hold_out(labelled(labels.tolist()), valid=0.2)
    train, valid = split.train, split.valid
    assert np.bincount(labels[valid], minlength=4).tolist() == [199, 11, 1, 0] or (
        np.bincount(labels[valid], minlength=4)[2:].tolist() == [1, 0] and len(valid) == 211
    )
    assert set(labels[train]) == {0, 1, 2, 3}


def test_rows_are_drawn_evenly():
    """Each row validates as often as any other, over seeds."""
    dataset = labelled([0] * 30 + [1] * 20)
    counts = np.zeros(50)
    for seed in range(400):
        counts[hold_out(dataset, valid=0.2, seed=seed).valid] += 1
    assert abs(counts - 80).max() < 5 * 8  # five standard deviations


def test_seeds_differ_and_stay():
    dataset = load("iris")
    first, second = hold_out(dataset).valid, hold_out(dataset, seed=1).valid
    assert not np.array_equal(first, second)
    assert np.bincount(dataset.labels[first]).tolist() == [10, 10, 10]


@pytest.mark.parametrize("valid", [0, 1, -0.1, 2, float("nan"), float("inf")])
def test_a_share_is_between_0_and_1(valid):
    with pytest.raises(DlkitError) as caught:
        hold_out(load("iris"), valid=valid)
    assert caught.value.code == 2


def test_many_classes_are_quick():
    labels = np.arange(400_000) // 2
    split = hold_out(labelled(labels.tolist()), valid=0.2)
    train, valid = split.train, split.valid
    assert len(valid) == 80_000 and len(train) == 320_000
