"""stderr: notes, warnings, errors, progress. And `safe`, the one door by which foreign text reaches a terminal."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from dlkit.core.errors import DlkitError

quiet = False
"""Set once by the command line: `-q` silences notes and progress, never warnings or errors."""

muted = False
"""Set in all processes of a run but the first: they say nothing but their error."""

_BIDI = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}


def safe(text: str) -> str:
    """`text` with control characters and bidirectional overrides made visible (ESC becomes \\x1b)."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _harmless(c) else _escape(c) for c in text)


def _harmless(c: str) -> bool:
    return ord(c) not in _BIDI and (c.isprintable() or (ord(c) > 0xA0 and c.isspace()))


def _escape(c: str) -> str:
    return c.encode("unicode_escape").decode("ascii")


def note(text: str) -> None:
    if not quiet and not muted:
        _line(f"note: {safe(text)}")


def warn(text: str) -> None:
    if not muted:
        _line(f"warning: {safe(text)}")


def error(failure: DlkitError, as_json: bool = False) -> None:
    """The one way an error is shown: text, or one JSON object where the caller asked for JSON."""
    if as_json:
        import json

        body = {"code": int(failure.code), "message": failure.message, "hint": failure.hint}
        _line(json.dumps({"error": body}, ensure_ascii=False))
        return
    _line(f"dlkit: error: {safe(failure.message)}")
    if failure.context:
        for line in failure.context.splitlines():
            _line(f"  {safe(line)}")
    if failure.hint:
        _line(f"hint: {safe(failure.hint)}")


def _line(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        # stderr is gone or full: there is nowhere left to say so, and the exit code still tells.
        return


def discard(stream: TextIO) -> None:
    """Send what `stream` still holds, and all that follows, nowhere: its reader has left, or its disk is full."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Bar(Protocol):
    """A progress bar: `advance` by steps of work done, `describe` what is going on now."""

    def advance(self, steps: int = 1) -> None: ...

    def describe(self, text: str) -> None: ...


class _NoBar:
    def advance(self, steps: int = 1) -> None:
        pass

    def describe(self, text: str) -> None:
        pass


class _RichBar:
    """Drawn at most ten times a second, whatever the rate of `advance`."""

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def advance(self, steps: int = 1) -> None:
        self._progress.advance(self._task, steps)

    def describe(self, text: str) -> None:
        self._progress.update(self._task, what=safe(text))


@contextmanager
def progress(total: int, what: str = "", unit: str = "step") -> Iterator[Bar]:
    """A bar on stderr while the block runs, with the rate in `unit`/s and the time left; still where no terminal is."""
    if quiet or muted or not sys.stderr.isatty():
        yield _NoBar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[what]}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _rate_column(unit),
        TimeRemainingColumn(compact=True),
    )
    # Rows that stream to a terminal must appear above the bar; rows that stream to a pipe must not touch it.
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())
    with bar:
        yield _RichBar(bar, bar.add_task("", total=total, what=safe(what)))


def _rate_column(unit: str) -> Any:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f} {unit}/s" if task.speed else "")

    return Rate()
