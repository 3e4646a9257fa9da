"""The run directory that `train`, `baseline` and `cluster` write and `eval` and `predict` read.

Files are written whole; the manifest, with the sha256 of each, comes last: a directory without it is not a run.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any

from dlkit.core import console
from dlkit.core.errors import DlkitError, ExitCode, bad_data
from dlkit.core.io import LIMIT, missing, naming, sync_directory, write_atomic
from dlkit.core.reading import OF_TEXT, WRITING
from dlkit.core.units import binary

MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"
LOCK = ".lock"
COMMANDS = ("train", "baseline", "cluster")


class RunDirectory:
    """A directory that one run owns: made by `mkdir` and locked, so that two runs never share one."""

    def __init__(self, path: Path) -> None:
        """Lock a directory that is there; one that another run holds: exit code 73."""
        self.path = path
        self._lock = Lock(path)

    @classmethod
    def create(cls, out: str | None, stem: str) -> "RunDirectory":
        """Make `out`, or the first free `runs/<stem>-<n>`. One that exists or cannot be made: exit code 73."""
        candidates = [Path(out)] if out else (Path("runs") / f"{stem}-{n}" for n in itertools.count(1))
        for path in candidates:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.mkdir()
                return cls._first(path)
            except FileExistsError:
                if out or not path.is_dir():
                    break
                continue
            except OSError as failure:
                reason = (failure.strerror or str(failure)).lower()
                raise DlkitError(f"cannot make the run directory {path}: {reason}", code=ExitCode.CANT_CREATE) from None
        raise _taken(path)

    @staticmethod
    def check_free(out: str | None) -> None:
        """Whether `create` can make `out`, before the work is done that it is to hold. Not so: exit code 73."""
        if out is None:
            return
        path = Path(out)
        if os.path.lexists(path):
            raise _taken(path)
        above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
        if not above.is_dir():
            reason = os.strerror(errno.ENOTDIR).lower()
            raise DlkitError(f"cannot make the run directory {path}: {reason}", code=ExitCode.CANT_CREATE)

    @classmethod
    def _first(cls, path: Path) -> "RunDirectory":
        """Lock a directory that was just made, or take it away again."""
        try:
            return cls(path)
        except OSError:
            with contextlib.suppress(OSError):
                path.rmdir()
            raise

    @classmethod
    def reopen(cls, path: Path) -> "RunDirectory":
        """Take a run's directory up again. Not there: exit code 66; in use: 73. What a crash left half-written goes."""
        if not path.is_dir():
            raise no_run(path)
        try:
            directory = cls(path)
        except OSError as failure:
            reason = (failure.strerror or str(failure)).lower()
            raise DlkitError(f"cannot write to the run directory {path}: {reason}", code=ExitCode.CANT_CREATE) from None
        for left in path.rglob(".*"):
            if left.name != LOCK and left.is_file():
                left.unlink()
        return directory

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *failure: object) -> None:
        self._lock.release()
        if failure[0] and not any(self.path.iterdir()):  # it came to nothing: the name is free again
            self.path.rmdir()

    def prove_room(self, needed: int) -> None:
        """Refuse to begin what will not fit: so many bytes. Exit code 74."""
        free = shutil.disk_usage(self.path).free
        if free < needed:
            message = f"{self.path}: {binary(free)} free, and checkpoints will take {binary(needed)}"
            raise DlkitError(message, "another --out, or --keep 1", ExitCode.IO_ERROR)

    def write(self, name: str, data: bytes) -> None:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, data)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        self.write(name, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl. A number that is not finite is null there: JSON has none."""
        finite = {k: None if isinstance(v, float) and not abs(v) < float("inf") else v for k, v in row.items()}
        self.append(METRICS, (json.dumps(finite, allow_nan=False) + "\n").encode())

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a file, durably; a crash on the way may leave a part of `data`."""
        with naming(self.path / name), (self.path / name).open("ab") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())

    def logged(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        path = self.path / METRICS
        return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def reopen_log(self, epochs: int) -> None:
        """Keep the first `epochs` lines of metrics.jsonl: those after them are of work that will be done again."""
        path = self.path / METRICS
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if len(lines) > epochs:
            self.write(METRICS, b"".join(lines[:epochs]))

    def discard(self) -> None:
        """Remove what came to nothing. The manifest goes first: what cannot be removed is no run, and is named."""
        try:
            (self.path / MANIFEST).unlink(missing_ok=True)
            self._lock.release()  # a network's file system keeps a file that is open
            shutil.rmtree(self.path)
        except OSError as failure:
            reason = (failure.strerror or str(failure)).lower()
            console.warn(f"{self.path} came to nothing, and cannot be removed: {reason}")

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)
        sync_directory((self.path / name).parent)

    def finish(self) -> None:
        """Write the manifest: from here on the directory is a run, and nobody's."""
        files = sorted(p for p in self.path.rglob("*") if p.is_file() and p.name not in (MANIFEST, LOCK))
        digests = {p.relative_to(self.path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
        self.write_json(MANIFEST, {"sha256": digests})
        self._lock.release()


def no_run(path: Path) -> DlkitError:
    """Where the directory of a run is needed, and there is none."""
    if path.is_file():
        return bad_data(f"{path}: a file, where the directory of a run is needed")
    return missing(str(path), FileNotFoundError(errno.ENOENT, "no such run directory"))


def _taken(path: Path) -> DlkitError:
    return DlkitError(f"{path} already exists", "give --out a name that is free", ExitCode.CANT_CREATE)


class Lock:
    """A lock on a directory, by a file in it that goes with the lock. The kernel frees it when its holder dies."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOCK
        self.file: IO[str] | None = None  # closed, and so unlocked, at the latest when this object goes
        while self.file is None:
            file = self.path.open("a+", encoding="utf-8")
            if not _locked(file):
                file.seek(0)
                holder = file.read(32).strip()
                file.close()
                who = f"process {holder}" if holder.isdigit() else "another process"
                raise DlkitError(f"{directory} is in use by {who}", "give --out another name", ExitCode.CANT_CREATE)
            if _same_file(file, self.path):  # a holder that ended in between took the name away
                self.file = file
            else:
                file.close()
        try:
            self.file.truncate(0)
            self.file.write(f"{os.getpid()}\n")
            self.file.flush()
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        if self.file is not None:
            self.path.unlink(missing_ok=True)
            self.file.close()
            self.file = None

    def __del__(self) -> None:
        if self.file is not None:
            self.file.close()


def _locked(file: IO[str]) -> bool:
    """Whether the lock could be had. Where there is no flock (Windows), `mkdir` alone keeps runs apart."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class Run:
    """A finished run directory, whose files were what its manifest says when it was opened.

    path     the directory as the user named it
    command  train, baseline or cluster
    config   everything needed to repeat the run
    digests  sha256 of each file, by its name within the directory (`checkpoint/last.safetensors`)
    """

    path: Path
    command: str
    config: Mapping[str, Any]
    digests: Mapping[str, str]

    @cached_property
    def schema(self) -> Any:
        """The content of schema.json, not yet checked: `data.Schema.from_json` does that."""
        return _json(self, "schema.json")

    @property
    def writes(self) -> bool:
        """Whether it is of a causal language model, which can write."""
        return self.of_text and self.schema["task"] == WRITING

    @property
    def of_text(self) -> bool:
        """Whether it is of a language model, causal or masked: it is scored on a text, and has no rows to predict."""
        return self.command == "train" and isinstance(self.schema, dict) and self.schema.get("task") in OF_TEXT

    @property
    def na(self) -> tuple[str, ...]:
        """The cells that mean missing in what it was fitted on."""
        options = self.config.get("options")
        reading = options.get("reading") if isinstance(options, dict) else None
        na = reading.get("na") if isinstance(reading, dict) else None
        return tuple(word for word in na if isinstance(word, str)) if isinstance(na, list) else ()

    def inner(self, folder: str) -> "Run":
        """The run whose files lie in a folder of this one, and in its manifest. Not there, or no run: exit code 65."""
        digests = {name: digest for name, digest in self.digests.items() if name.startswith(f"{folder}/")}
        return _told(self.path / folder, {name.partition("/")[2]: digest for name, digest in digests.items()})

    def read(self, name: str) -> bytes:
        """A file's bytes. One that the manifest does not list, or that is not what it lists: exit code 65."""
        if name not in self.digests:
            raise bad_data(f"{self.path}: a run of {self.command} without {name}")
        try:
            data = (self.path / name).read_bytes()
        except OSError as failure:
            raise _unreadable(self.path, name, failure) from None
        if hashlib.sha256(data).hexdigest() != self.digests[name]:
            raise _damaged(self.path, name)
        return data


def open_run(path: str | Path) -> Run:
    """The run in a directory, each of its files checked against the manifest.

    Not there, or not finished: exit code 66. No run, or damaged: 65, and the damaged file is named.
    """
    path = Path(path)
    digests = _manifest(path)
    for name in digests:
        _check(path, name, digests[name])
    return _told(path, digests)


def _told(path: Path, digests: Mapping[str, str]) -> Run:
    """The run whose files these are, as its config.json tells."""
    bare = Run(path, "", {}, digests)
    config = _json(bare, "config.json") if "config.json" in digests else None
    command = config.get("command") if isinstance(config, dict) else None
    if command not in COMMANDS:
        raise bad_data(f"{path}: not a run of dlkit", "a run is a directory that train, baseline or cluster has made")
    assert isinstance(config, dict)
    return Run(path, str(command), config, digests)


def _manifest(path: Path) -> dict[str, str]:
    """File name -> sha256. The names stay within the directory, whatever the file says."""
    try:
        with (path / MANIFEST).open("rb") as file:
            content = _parse(f"{path / MANIFEST}", file.read(LIMIT))
    except OSError as failure:
        raise _no_manifest(path, failure) from None
    digests = content.get("sha256") if isinstance(content, dict) else None
    names = list(digests) if isinstance(digests, dict) else []
    inside = all(not PurePosixPath(n).is_absolute() and ".." not in PurePosixPath(n).parts and n for n in names)
    if not names or not inside or "\0" in "".join(names):
        raise bad_data(f"{path / MANIFEST}: damaged, or not written by dlkit")
    return {name: str(digest) for name, digest in digests.items()} if isinstance(digests, dict) else {}


def _no_manifest(path: Path, failure: OSError) -> DlkitError:
    """Why there is no manifest to read: no directory, no run, or one that is not finished."""
    if not isinstance(failure, FileNotFoundError | NotADirectoryError):
        return missing(str(path / MANIFEST), failure)
    if path.is_file():
        return no_run(path)
    if not path.is_dir():
        return missing(str(path), failure)
    if (path / "config.json").exists():
        message = f"{path}: this run is not finished: it has no {MANIFEST} yet"
        return DlkitError(message, "the manifest is written last, when a run ends", ExitCode.NO_INPUT)
    return DlkitError(f"{path}: no run in it (no {MANIFEST})", code=ExitCode.NO_INPUT)


def _check(path: Path, name: str, digest: str) -> None:
    """Hash a file block by block: a checkpoint may be larger than what memory is left."""
    file = path / name
    if file.exists() and not file.is_file():  # a pipe would wait for a writer for ever
        raise _damaged(path, name)
    try:
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as failure:
        raise _unreadable(path, name, failure) from None
    if found != digest:
        raise _damaged(path, name)


def _damaged(path: Path, name: str) -> DlkitError:
    return bad_data(f"{path / name}: damaged: it is not what {MANIFEST} says", "the run has to be made again")


def _unreadable(path: Path, name: str, failure: OSError) -> DlkitError:
    if isinstance(failure, FileNotFoundError | IsADirectoryError):
        return bad_data(f"{path / name}: missing, though {MANIFEST} lists it", "the run has to be made again")
    return missing(str(path / name), failure)


def _json(run: Run, name: str) -> Any:
    return _parse(str(run.path / name), run.read(name))


def _parse(where: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, an integer of thousands of digits
        raise bad_data(f"{where}: damaged: it is not JSON") from None
