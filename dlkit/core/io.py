"""Files as every command reads and writes them: `-` is stdin; what is written is whole or not there at all."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from dlkit.core.errors import DlkitError, ExitCode, bad_data, nearest

LIMIT = 16 << 20
"""Bytes of text that are read at most: a network of 100,000 layers written out is far below."""


def read_text(source: str) -> str:
    """The UTF-8 text of a file, or of stdin for `-`. Missing or unreadable: exit code 66; not UTF-8: 65."""
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if source == "-" else Path(source).open("rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as failure:
        raise missing(source, failure) from None
    if len(data) > LIMIT:
        raise bad_data(f"{source}: more than {LIMIT >> 20} MiB of text: this is no network")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        line = data.count(b"\n", 0, failure.start) + 1
        raise bad_data(f"{source}: line {line} is not UTF-8 text (byte 0x{data[failure.start]:02x})") from None


def missing(source: str, failure: OSError) -> DlkitError:
    """The error for an input that cannot be opened, with the nearest names beside it."""
    path = Path(source)
    hint = None
    if isinstance(failure, FileNotFoundError) and path.parent.is_dir():
        # A folder with a million files must not make an error slow.
        beside = [entry.name for _, entry in zip(range(1000), path.parent.iterdir(), strict=False)]
        near = nearest(path.name, beside)
        hint = near if near.startswith("did you mean") else None
    reason = (failure.strerror or str(failure)).lower()
    return DlkitError(f"{source}: {reason}", hint, ExitCode.NO_INPUT)


def check_free(path: Path) -> None:
    """Whether a new file can be made there, before the work is done that it is to hold. Not so: exit code 73."""
    if os.path.lexists(path) and not path.is_dir():
        raise DlkitError(f"{path} already exists", "name a file that is free", ExitCode.CANT_CREATE)
    check_place(path)


def check_place(path: Path) -> None:
    """Whether a file of that name can be written, be one there or not. Not so: exit code 73."""
    if path.is_dir():
        raise DlkitError(f"{path} is a folder", "name a file in it", ExitCode.CANT_CREATE)
    if not path.parent.is_dir():
        raise DlkitError(f"{path}: there is no folder {path.parent}", code=ExitCode.CANT_CREATE)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise DlkitError(f"{path}: the folder {path.parent} cannot be written to", code=ExitCode.CANT_CREATE)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a crash at any moment leaves the old file or the new one whole.

    What was written is read again before it takes the old one's place: a file system may lie about success.
    """
    with naming(path), replacing(path) as temporary:
        with temporary.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        _verify(temporary, data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place when the block ends, and is gone if that fails."""
    import tempfile  # 2 ms that a calculator never needs

    if path.exists() and not path.is_file():  # a device or a pipe would be gone, with a file of its name in its place
        raise OSError(errno.EINVAL, "this is no file that could be replaced", str(path))
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Make a file's content durable before its name is: without it a crash may leave the name with nothing in it."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error in writing says where: a full disk alone does not, and the name that stands in is nobody's business."""
    try:
        yield
    except OSError as failure:
        named = failure.filename is not None and not Path(str(failure.filename)).name.startswith(f".{path.name}.")
        if named or failure.errno is None:
            raise
        raise OSError(failure.errno, failure.strerror or os.strerror(failure.errno), str(path)) from None


def _verify(path: Path, data: bytes) -> None:
    """Raise OSError where a file does not hold `data`."""
    whole, at = memoryview(data), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            if block != whole[at : at + len(block)]:
                break
            at += len(block)
    if at != len(data):
        raise OSError(errno.EIO, "what was written reads differently", str(path))


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable (POSIX: a rename is, once its directory is synced)."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
