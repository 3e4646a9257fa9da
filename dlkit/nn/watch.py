"""What interrupts the loop between two steps: a signal that asks for a stop or a checkpoint, and the clock."""

import time

from dlkit.core import signals
from dlkit.core.errors import ExitCode
from dlkit.core.keeping import Every
from dlkit.nn.ranks import ALONE, Ranks

INTERVAL, MOST_LOOKS = 0.5, 50
"""Seconds and looks between two exchanges of what the processes were told."""


class Stopped(Exception):
    """A stop was wanted in the middle of an evaluation, which will be done again."""


class Watch:
    """Looked at after each step. Without `every`, no checkpoint falls due by itself.

    Several processes do as any one of them was told. They exchange it every so many looks, half a second apart at most.
    """

    def __init__(self, every: Every | None = None, ranks: Ranks = ALONE) -> None:
        self.every, self.ranks = every or Every(), ranks
        self.code: ExitCode | None = None
        self._wanted = False
        self._looks, self._until, self._last = 0, 1, time.monotonic()
        self.saved()

    @property
    def stopped(self) -> bool:
        """Whether a stop was wanted, by the signal whose exit code is `code`."""
        return self.code is not None

    def saved(self) -> None:
        """A checkpoint was written: the next one is due an interval later."""
        self._since = time.monotonic()

    def look(self, step: int) -> bool:
        """Whether the loop has to pause: for a checkpoint or, with `stopped`, for good."""
        self._ask()
        due = bool(self.every.steps) and step % (self.every.steps or 1) == 0
        wanted, self._wanted = self._wanted or due, False
        return self.stopped or wanted

    def stops(self) -> bool:
        """Whether a stop is wanted, in the middle of an evaluation; a checkpoint waits until that is over."""
        self._ask()
        return self.stopped

    def _ask(self) -> None:
        if self.ranks.alone:
            self.code = signals.asked()
            self._wanted |= signals.take_save() or self._due()
            return
        self._looks += 1
        if self._looks < self._until:
            return
        now = time.monotonic()
        told = [signals.asked() or 0, signals.take_save() or self._due(), (now - self._last) / self._looks]
        code, save, slowest = self.ranks.largest(told)
        self.code, self._wanted = (ExitCode(int(code)) if code else None), self._wanted or bool(save)
        self._until, self._looks, self._last = min(max(int(INTERVAL / max(slowest, 1e-9)), 1), MOST_LOOKS), 0, now

    def _due(self) -> bool:
        return self.every.seconds is not None and time.monotonic() - self._since >= self.every.seconds
