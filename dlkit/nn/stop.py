"""SIGINT and SIGTERM as a request that the loop reads between steps; a second one ends the process at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from dlkit.core.errors import ExitCode

_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class Stop:
    """`asked` turns true at the first signal; `code` is the exit code that goes with it."""

    def __init__(self) -> None:
        self.asked = False
        self.code = ExitCode.OK

    def ask(self, signum: int, frame: object = None) -> None:
        self.asked, self.code = True, _CODES[signal.Signals(signum)]
        signal.signal(signum, signal.SIG_DFL)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """A `Stop` that the two signals set while the block runs; the handlers of before come back after it."""
    stop = Stop()
    before = {s: signal.signal(s, stop.ask) for s in _CODES}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
