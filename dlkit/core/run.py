"""The run directory that `train`, `baseline` and `cluster` write and `eval` and `predict` read.

Files are written whole; the manifest, with the sha256 of each, comes last: a directory without it is not a run.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.io import write_atomic

MANIFEST = "manifest.json"


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
