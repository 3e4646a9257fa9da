"""SIGINT and SIGTERM, from the first moment of the process: an exception, or a flag while work is under way that will
end itself in good order; the second one ends the process at once. SIGUSR1 asks such work for a checkpoint.

The handlers stand before any library is loaded. A library that swallows the exception does not swallow the flag, which
whoever starts such work looks at.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from dlkit.core.errors import ExitCode


class Terminated(BaseException):
    """SIGTERM, as an exception, so that `finally` blocks run. A BaseException: no `except Exception` may swallow it."""


class Interrupted(KeyboardInterrupt):
    """SIGINT. Not KeyboardInterrupt itself: where that passes through an exec, as in many an import, Python ends the
    process by the signal in the end, whatever exit code it was given."""


CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}
SAVE = getattr(signal, "SIGUSR1", None)


class _Asked:
    stop: int | None = None
    save = False
    deferred = False


def install() -> None:
    """Set the handlers, once, first thing in the process. SIGUSR1, before there is anything to save, does nothing."""
    for signum in CODES:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup and background jobs of sh ignore SIGINT: so do we
            signal.signal(signum, _stop)
    if SAVE is not None:
        signal.signal(SAVE, _save)


def signum() -> int | None:
    """The signal that asked for an end."""
    return _Asked.stop


def asked() -> ExitCode | None:
    """The exit code of the signal that asked for an end; None where none has."""
    return None if _Asked.stop is None else CODES[signal.Signals(_Asked.stop)]


def take_save() -> bool:
    """Whether a checkpoint was asked for since the last look."""
    wanted, _Asked.save = _Asked.save, False
    return wanted


@contextmanager
def deferred() -> Iterator[None]:
    """While the block runs a signal only sets the flag, which the block has to look at: `asked`, `take_save`."""
    before = {s: signal.getsignal(s) for s in CODES}
    for signum, handler in before.items():
        if handler in (signal.SIG_DFL, signal.default_int_handler):  # used as a library: nobody called `install`
            signal.signal(signum, _stop)
    _Asked.deferred = True
    try:
        yield
    finally:
        _Asked.deferred = False
        for signum, handler in before.items():
            if handler in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(signum, handler)
                _Asked.stop = None


def _stop(signum: int, frame: FrameType | None) -> None:
    again, _Asked.stop = _Asked.stop is not None, signum
    if _Asked.deferred and again:
        end(signum)
    if not _Asked.deferred:
        raise Interrupted if signum == signal.SIGINT else Terminated


def _save(signum: int, frame: FrameType | None) -> None:
    _Asked.save = True


def end(signum: int) -> NoReturn:
    """End the process as the signal itself would have."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    os._exit(128 + signum)
