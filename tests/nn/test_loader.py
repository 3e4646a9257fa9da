"""Batches: every row as often as it should come, in an order that seed and epoch alone decide."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlkit.core.augment import parse_augment
from dlkit.core.job import JobOptions
from dlkit.core.recipe import Recipe
from dlkit.nn.loader import Batches, Normalise, _fits
from dlkit.nn.prepare import prepare
from dlkit.nn.schedule import Rates
from dlkit.nn.train import begin

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


@given(st.integers(2, 200), st.integers(2, 64), st.integers(1, 64))
def test_micro_batches_of_the_last_step_are_no_larger_and_no_row_is_alone(rows, size, parts):
    """Batch norm has no variance in one row. A single row more where the last step has an odd one."""
    parts = min(parts, size // 2)
    data = batches(rows, size)
    data.micro_batches = parts
    for batch in data.shuffled(1):
        assert sum(batch.cuts) == len(batch.y)
        if len(batch.y) == size:
            assert len(batch.cuts) == parts
        assert len(batch.y) == 1 or min(batch.cuts) > 1
        assert max(batch.cuts) <= max(data.micro_size, 3)


def test_evaluation_takes_four_micro_batches_at_once():
    job = prepare(JobOptions("digits", ("flatten", "linear:10"), batch_size=64), Recipe(accumulate=8))
    assert (job.train.micro_size, job.valid.batch_size) == (8, 32)
    assert job.with_batch(128).valid.batch_size == 64
    assert {len(y) for _, y in job.train.mixed()} == {32, job.train.rows % 32}
    assert {len(y) for _, y in job.train.everything()} == {8, job.train.rows % 8}
    assert prepare(JobOptions("digits", ("flatten", "linear:10"), batch_size=64), Recipe()).valid.batch_size == 256


class Far(Batches):
    """Rows in main memory for a device that is elsewhere: what would be sent is noted."""

    def _send(self, values):
        self.sent.append(values)
        return values.clone()


@pytest.mark.parametrize("text", [None, "flip", "mixup:1,flip"])
def test_what_is_sent_to_a_device_is_what_would_lie_there(text):
    """Rows and partners are drawn and gathered here, one batch ahead: nobody asks the device for them."""
    x = np.random.default_rng(0).integers(0, 256, (40, 3, 6, 6), dtype=np.uint8)
    y, augment = np.arange(40) % 5, parse_augment(text) if text else None
    near, far = (kind(x, y, 16, CPU, seed=2, augment=augment, classes=5) for kind in (Batches, Far))
    far.device, far.sent = SimpleNamespace(type="elsewhere"), []
    for here, there in zip(near.shuffled(1), far.shuffled(1), strict=True):
        assert torch.equal(here.x, there.x) and torch.equal(here.y, there.y)
    assert len(far.sent) == 3 * {None: 2, "flip": 3, "mixup:1,flip": 5}[text]


def test_a_network_of_images_and_its_moments_have_channels_last():
    job = prepare(JobOptions("digits", ("conv:4,k3", "relu", "conv:8,k3", "gap", "linear:10")), Recipe(ema=0.9))
    stepper = begin(job).stepper
    stepper(next(iter(job.train.shuffled(1))), Rates(0.01))
    weight = stepper.model.conv2.weight
    kinds = [weight, stepper.average.model.conv2.weight, stepper.optimizers[0].state[weight]["exp_avg"]]
    assert all(t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous() for t in kinds)


@pytest.mark.parametrize(("free", "there"), [(4 * 1000 + 8, True), (4 * 1000 - 8, False)])
def test_data_lies_on_a_gpu_where_it_takes_less_than_a_quarter_of_what_is_free(monkeypatch, free, there):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**9))
    assert _fits(torch.zeros(1000, dtype=torch.uint8), torch.device("cuda", 0)) == there
