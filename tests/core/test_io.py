"""What is written replaces files and nothing else."""

import os

import pytest

from dlkit.core.io import write_atomic


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "x"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_is_left_as_it_is(tmp_path, make):
    path = tmp_path / "x"
    make(path)
    before = path.stat()
    with pytest.raises(OSError, match="no file that could be replaced"):
        write_atomic(path, b"data")
    assert path.stat().st_mode == before.st_mode and os.listdir(tmp_path) == ["x"]
