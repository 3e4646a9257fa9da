"""The command line: finds commands by file name, imports only the one asked for, and turns every error into one line.

This is the only place where an exception becomes a message and an exit code.
"""

import io
import os
import re
import sys
from itertools import pairwise
from typing import Any, NoReturn

from dlkit.core import console, foreign, peers, signals
from dlkit.core.errors import DlkitError, ExitCode

SPREAD = {"train", "lrfind", "eval", "predict"}
"""The commands that several processes may do together."""


def main() -> NoReturn:
    """Run the command line in `sys.argv` and exit."""
    signals.install()  # before any library is loaded: one that swallows the exception leaves the flag
    peers.watch_parent()
    _open_closed_streams()
    if peers.rank():
        if not set(sys.argv[1:2]) & SPREAD:
            sys.exit(0)  # under torchrun: the rest is the first process's work alone
        _be_quiet()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As stderr does: what a terminal's encoding, or a file name's bytes, cannot express is shown as an escape.
        sys.stdout.reconfigure(errors="backslashreplace")
    code = run(sys.argv[1:])
    _flush_or_discard()
    sys.exit(int(code))


def run(argv: list[str]) -> int:
    """Run one command line; return its exit code. stdout and stderr are the process's own."""
    as_json, peers.argv = _wants_json(argv), argv
    try:
        from dlkit.app import invoke

        code = invoke(argv)
        sys.stdout.flush()
        return code
    except DlkitError as failure:
        return _show(failure, as_json)
    except KeyboardInterrupt:
        return _show(DlkitError("interrupted", code=ExitCode.INTERRUPTED), as_json)
    except signals.Terminated:
        return _show(DlkitError("terminated", code=ExitCode.TERMINATED), as_json)
    except BrokenPipeError:
        return ExitCode.BROKEN_PIPE
    except Exception as failure:
        if os.environ.get("DLKIT_TRACEBACK"):
            raise
        return _show(_translate(failure), as_json)
    finally:
        peers.leave()


def _show(failure: DlkitError, as_json: bool) -> int:
    """Show an error, once for all the processes of a run, and give its exit code."""
    if isinstance(failure, peers.Echo):
        return failure.code
    peers.report(failure)
    if peers.speaks():
        console.error(failure, as_json)
    return failure.code


def _wants_json(argv: list[str]) -> bool:
    """Whether the answer was asked for as JSON: known before parsing, because parsing itself can fail."""
    words = argv[: argv.index("--")] if "--" in argv else argv
    return "--json" in words or "--format=json" in words or ("--format", "json") in pairwise(words)


def _translate(failure: Exception) -> DlkitError:
    """A foreign exception as the error a user can read."""
    from typer import TyperException

    if isinstance(failure, TyperException):
        return _usage(failure)
    if isinstance(failure, OSError):  # in writing: readers turn their own into exit code 66
        where = f"{failure.filename}: " if failure.filename else ""
        return DlkitError(f"{where}{failure.strerror or failure}", code=ExitCode.IO_ERROR)
    name = type(failure).__name__
    if name in ("MemoryError", "OutOfMemoryError"):  # the second is torch's, which is not imported here
        return DlkitError(
            "out of memory", "try a smaller --batch-size, a smaller network or less data", ExitCode.INTERNAL
        )
    if where := foreign.place(failure):
        said = " ".join(str(failure).split())[:300] or "no message"
        hint = "it is code of your own that failed: DLKIT_TRACEBACK=1 shows the whole way there"
        return DlkitError(f"{where}: {name}: {said}", hint, ExitCode.INTERNAL)
    return DlkitError(
        f"internal error: {name}: {' '.join(str(failure).split()) or 'no message'}",
        "this is a bug in dlkit; run again with DLKIT_TRACEBACK=1 to see where",
        ExitCode.INTERNAL,
    )


def _usage(failure: Any) -> DlkitError:
    """Typer's own complaint (unknown option, bad value) in our form, with the help that would show what is right."""
    context = getattr(failure, "ctx", None)
    path = context.command_path if context else "dlkit"
    message = " ".join(failure.format_message().split()) or "no command given"
    message = re.sub(r"a valid int( range)?\b", "a whole number", message)
    return DlkitError(message[:1].lower() + message[1:].rstrip("."), f"see '{path} --help'")


def _open_closed_streams() -> None:
    """A standard stream that the shell closed (`>&-`) is as one at /dev/null."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123  open as long as the process is


def _be_quiet() -> None:
    """Of the processes of a run the first one speaks; the others only end it with an error that is theirs."""
    console.muted = True
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123  open as long as the process is


def _flush_or_discard() -> None:
    """Leave nothing for the interpreter to flush at exit, where a closed pipe or full disk would print a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            console.discard(stream)
