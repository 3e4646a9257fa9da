"""Which device is taken, and that what is told none goes by it."""

import gc
import weakref

import pytest
import torch

from dlkit.core.errors import DlkitError
from dlkit.nn.device import pick, release


@pytest.fixture
def two_devices(monkeypatch):
    """A machine with two CUDA devices, as far as torch can be told."""
    current = [0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.insert(0, device.index or current[0]))
    return current


@pytest.mark.parametrize(("said", "index"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_the_device_has_a_number_and_is_the_current_one(two_devices, said, index):
    assert pick(said) == torch.device("cuda", index) and two_devices[0] == index


def test_each_process_takes_its_own(two_devices, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick("auto") == torch.device("cuda", 1) and two_devices[0] == 1


def test_a_device_that_is_not_there(two_devices):
    with pytest.raises(DlkitError, match="cuda:2"):
        pick("cuda:2")
    assert two_devices == [0]


def test_what_holds_only_itself_is_released(monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))

    def circle():
        module = torch.nn.Linear(1, 1)
        module.itself = [module]
        return weakref.ref(module)

    gc.disable()
    try:
        here, there = circle(), circle()
        release(torch.device("cpu"))
        assert here() is not None and not emptied
        release(torch.device("cuda"))
        assert there() is None and emptied
    finally:
        gc.enable()
