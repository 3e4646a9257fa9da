"""Where an exception comes from: code of the user's own, or what is installed."""

import os
import sys
import sysconfig
import traceback
from pathlib import Path

OURS = str(Path(__file__).resolve().parent.parent) + os.sep
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")} | {sys.base_prefix + "/lib"})


def installed(filename: str) -> bool:
    """Whether a source file is dlkit's, Python's or an installed package's, and not the user's own."""
    return "site-packages" in filename or "dist-packages" in filename or filename.startswith((OURS, "<", *_LIBRARIES))


def place(failure: BaseException) -> str:
    """The innermost line of the user's own code when it failed, as file:line; empty where it had no part in it."""
    if isinstance(failure, SyntaxError):
        return f"{_short(failure.filename or '?')}:{failure.lineno}"
    for frame in reversed(traceback.extract_tb(failure.__traceback__)):
        if not installed(frame.filename):
            return f"{_short(frame.filename)}:{frame.lineno}"
    return ""


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename
