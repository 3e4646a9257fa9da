"""What the machine has left."""

import sys

import pytest

from dlkit.core.machine import free_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="where there is no /proc nothing is known")
def test_free_memory_is_known_on_linux():
    free = free_bytes()
    assert free is not None and free > 0
