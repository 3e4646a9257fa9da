"""What TensorBoard shows of a run: the lines of metrics.jsonl as event files, written without TensorFlow.

One file for each time that the run was begun or taken up. One that goes on says from which step on those before it no
longer count, so that no step is shown twice.
"""

import io
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

from dlkit.core import console
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.run import RunDirectory

FOLDER, _STEM = "tensorboard", "events.out.tfevents"
_PLACE = ("epoch", "step", "layers")
_LOSSES = {"train_loss": "loss/train", "valid_loss": "loss/valid"}


def check() -> None:
    """Whether the extra is there. Not so: exit code 69."""
    try:
        import tensorboard.compat.proto.event_pb2
        import tensorboard.summary.writer.record_writer  # noqa: F401
    except ImportError:
        hint = "pip install 'dlkit[tensorboard]'"
        raise DlkitError("--tensorboard needs tensorboard", hint, ExitCode.NO_DEPENDENCY) from None


class Scalars:
    """The event file of one process that trains."""

    def __init__(self, directory: RunDirectory, name: str) -> None:
        self.directory, self.name = directory, name

    @classmethod
    def begin(cls, directory: RunDirectory, asked: bool) -> "Scalars | None":
        """A new file in the run's directory, where that was asked for or the run has such files already; what was
        logged before there were any is in it too."""
        before = sorted(
            int(p.suffix[1:]) for p in (directory.path / FOLDER).glob(f"{_STEM}.*") if p.suffix[1:].isdigit()
        )
        if not (asked or before):
            return None
        try:
            check()
        except DlkitError:
            if asked:
                raise
            console.warn(f"{directory.path / FOLDER} is not gone on with: tensorboard is not installed")
            return None
        rows, number = directory.logged(), max([int(time.time()), *(last + 1 for last in before)])
        found = cls(directory, f"{FOLDER}/{_STEM}.{number:010d}")
        directory.write(found.name, _record(file_version="brain.Event:2") + _start(rows[-1]["step"] + 1 if rows else 0))
        for row in () if before else rows:
            found.add(row)
        return found

    def add(self, row: Mapping[str, Any]) -> None:
        """The numbers of one epoch, at its last step."""
        self.directory.append(self.name, _scalars(row["step"], dict(_numbers(row))))


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(name, number) of what is finite; those of layers under what was measured."""
    for name, value in row.items():
        if name not in _PLACE and value is not None and math.isfinite(value):
            yield _LOSSES.get(name, name), value
    for layer in row.get("layers", ()):
        for name, value in layer.items():
            if name != "layer" and value is not None and math.isfinite(value):
                yield f"{name}/{layer['layer']}", value


def _start(step: int) -> bytes:
    from tensorboard.compat.proto.event_pb2 import SessionLog

    return _record(step=step, session_log=SessionLog(status=SessionLog.START))


def _scalars(step: int, numbers: Mapping[str, float]) -> bytes:
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
    return _record(step=step, summary=Summary(value=values))


def _record(**what: Any) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    out = io.BytesIO()
    RecordWriter(out).write(Event(wall_time=time.time(), **what).SerializeToString())
    return out.getvalue()
