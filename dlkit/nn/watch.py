"""What interrupts the loop between two steps: a signal that asks for a stop or a checkpoint, and the clock."""

import time

from dlkit.core import signals
from dlkit.core.keeping import Every


class Stopped(Exception):
    """A stop was wanted in the middle of an evaluation, which will be done again."""


class Watch:
    """Looked at after each step. Without `every`, no checkpoint falls due by itself."""

    def __init__(self, every: Every | None = None) -> None:
        self.every = every or Every()
        self.stopped = False
        self.saved()

    def saved(self) -> None:
        """A checkpoint was written: the next one is due an interval later."""
        self._since = time.monotonic()

    def look(self, step: int) -> bool:
        """Whether the loop has to pause: for a checkpoint or, with `stopped`, for good."""
        return self.stops() or signals.take_save() or self._due(step)

    def stops(self) -> bool:
        self.stopped = signals.asked() is not None
        return self.stopped

    def _due(self, step: int) -> bool:
        if self.every.steps:
            return step % self.every.steps == 0
        return self.every.seconds is not None and time.monotonic() - self._since >= self.every.seconds
