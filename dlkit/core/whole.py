"""A directory that is there with all its files, or not at all."""

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.io import sync_directory


@contextlib.contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A directory that appears as `path`, with all that the block writes into the one it is given, or not at all.

    One that exists already or cannot be made: exit code 73; one that cannot be written: 74. What processes that were
    killed have left is swept.
    """
    if os.path.lexists(path):
        raise DlkitError(f"{path} already exists", "give --out a name that is free", ExitCode.CANT_CREATE)
    hidden, lock = _hidden_beside(path)
    try:
        yield hidden
        hidden.chmod(0o755)
        sync_directory(hidden)
        hidden.rename(path)
    except BaseException as failure:
        shutil.rmtree(hidden, ignore_errors=True)
        if isinstance(failure, OSError):
            reason = (failure.strerror or str(failure)).lower()
            raise DlkitError(f"cannot write {path}: {reason}", code=ExitCode.IO_ERROR) from None
        raise
    finally:
        os.close(lock)
    sync_directory(path.parent)


def _hidden_beside(path: Path) -> tuple[Path, int]:
    """(a hidden directory of our own, the open lock that says so as long as this process lives)."""
    prefix = f".{path.name}.part-"
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            hidden = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix))
        except OSError as failure:
            reason = (failure.strerror or str(failure)).lower()
            raise DlkitError(f"cannot make the directory {path}: {reason}", code=ExitCode.CANT_CREATE) from None
        # Another process may have taken it for a dead one's before it was locked.
        lock = _lock(hidden, wait=True)
        if lock is not None and hidden.exists():
            break
    for left in path.parent.glob(f"{glob.escape(prefix)}*"):
        if left != hidden and (dead := _lock(left, wait=False)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(dead)
    return hidden, lock


def _lock(directory: Path, wait: bool) -> int | None:
    """An open, locked handle; None where the directory is gone or another process holds it."""
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        return None
    return handle
