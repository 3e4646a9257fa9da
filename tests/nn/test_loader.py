"""Batches: every row as often as it should come, in an order that seed and epoch alone decide."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlkit.nn.loader import Batches, Normalise

CPU = torch.device("cpu")


def batches(rows: int, size: int, seed: int = 0) -> Batches:
    return Batches(np.arange(rows, dtype=np.float32)[:, None], np.arange(rows), size, CPU, seed=seed)


def seen(parts) -> list[int]:
    return [int(v) for _, y in parts for v in y]


@given(st.integers(1, 200), st.integers(1, 64), st.integers(0, 5))
def test_every_row_once(rows, size, seed):
    data = batches(rows, size, seed)
    assert seen(data.in_order()) == list(range(rows))
    parts = list(data.shuffled(1))
    left_out = rows % size == 1 and rows > 1 and size > 1
    assert len(parts) == len(data)
    assert len(set(seen(parts))) == len(seen(parts)) == rows - left_out
    assert all(len(y) > 1 for _, y in parts) or size == 1 or rows == 1


def test_inputs_and_targets_stay_together():
    for x, y in batches(100, 7).shuffled(3):
        assert torch.equal(x[:, 0].long(), y)


def test_order_is_a_function_of_seed_and_epoch():
    state = torch.random.get_rng_state()
    first = seen(batches(50, 8, seed=1).shuffled(2))
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(10)
    assert first == seen(batches(50, 8, seed=1).shuffled(2))
    assert first != seen(batches(50, 8, seed=1).shuffled(3))
    assert first != seen(batches(50, 8, seed=2).shuffled(2))


def test_pixels_are_normalised_by_channel():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 3, 5, 5), dtype=np.uint8)
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    normalise = Normalise(*(torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (mean, std)))
    x, _ = next(Batches(pixels, np.zeros(32, np.int64), 32, CPU, normalise).in_order())
    assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
    assert x.mean((0, 2, 3)).numpy() == pytest.approx(0, abs=1e-5)
    assert x.std((0, 2, 3), correction=0).numpy() == pytest.approx(1, abs=1e-5)
