"""The run directory that `train`, `baseline` and `cluster` write and `eval` and `predict` read.

Files are written whole; the manifest, with the sha256 of each, comes last: a directory without it is not a run.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from dlkit.core.errors import DlkitError, ExitCode, bad_data
from dlkit.core.io import LIMIT, missing, write_atomic

MANIFEST = "manifest.json"
COMMANDS = ("train", "baseline", "cluster")


class RunDirectory:
    """A directory that one run owns: made by `mkdir`, so that two runs never share one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, out: str | None, stem: str) -> "RunDirectory":
        """Make `out`, or the first free `runs/<stem>-<n>`. One that exists or cannot be made: exit code 73."""
        candidates = [Path(out)] if out else (Path("runs") / f"{stem}-{n}" for n in itertools.count(1))
        for path in candidates:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.mkdir()
            except FileExistsError:
                if out or not path.is_dir():
                    break
                continue
            except OSError as failure:
                reason = (failure.strerror or str(failure)).lower()
                raise DlkitError(f"cannot make the run directory {path}: {reason}", code=ExitCode.CANT_CREATE) from None
            return cls(path)
        raise DlkitError(f"{path} already exists", "give --out a name that is free", ExitCode.CANT_CREATE)

    def write(self, name: str, data: bytes) -> None:
        target = self.path / name
        target.parent.mkdir(exist_ok=True)
        write_atomic(target, data)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        self.write(name, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl. A number that is not finite is null there: JSON has none."""
        finite = {k: None if isinstance(v, float) and not abs(v) < float("inf") else v for k, v in row.items()}
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(finite, allow_nan=False) + "\n")

    def finish(self) -> None:
        """Write the manifest: from here on the directory is a run."""
        files = sorted(p for p in self.path.rglob("*") if p.is_file() and p.name != MANIFEST)
        digests = {p.relative_to(self.path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
        self.write_json(MANIFEST, {"sha256": digests})


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
        return bad_data(f"{path}: a file, where the directory of a run is needed")
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
