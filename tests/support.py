"""What tests share besides fixtures: how the command line is started, and how a terminal's text is read."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


class Ran(NamedTuple):
    """A finished process."""

    code: int
    out: str
    err: str


def environment(**extra: str) -> dict[str, str]:
    """This process's environment, without what would colour or redirect output, and with one thread for torch."""
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "PYTHONUNBUFFERED")}
    return kept | {"OMP_NUM_THREADS": "1"} | extra


def command_line(*args: str) -> list[str]:
    return [sys.executable, "-m", "dlkit", *args]


class Writing:
    """A file whose writes can fail: `strike` is called before each and may raise OSError; `torn` leaves half of it."""

    def __init__(self, file, strike: Callable[[], None], torn: bool = False) -> None:
        self.file, self.strike, self.torn = file, strike, torn

    def write(self, data):
        try:
            self.strike()
        except OSError:
            if self.torn:
                self.file.write(data[: len(data) // 2])
            raise
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def python_calls(function: Callable[[], object]) -> int:
    """How many Python functions run while `function` does: work that a busy machine does not make more of."""
    counted = 0

    def count(frame, event, argument):
        nonlocal counted
        counted += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return counted


def plain(text: str) -> str:
    """`text` without colours and cursor movement."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def last_weights(run: Path) -> dict:
    """The weights where a run of `train` ended, by their names in the network, from its newest checkpoint."""
    from safetensors.torch import load_file

    newest = max(p for p in (run / "checkpoint").iterdir() if not p.name.startswith("best"))
    return {k.removeprefix("model."): v for k, v in load_file(newest).items() if k.startswith("model.")}
