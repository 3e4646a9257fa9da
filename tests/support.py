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
