"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to step out of order."""

import math
from collections.abc import Callable

Schedule = Callable[[int, int], float]
"""(step, total steps) -> factor of the learning rate, for step 0 … total − 1."""


def one_cycle(step: int, total: int, warm: float = 0.3, start: float = 25.0, end: float = 1e4) -> float:
    """Cosine, 1/25 to 1 over 30 % of the steps, then to 1/250,000 (Smith & Topin 2018; as torch's OneCycleLR)."""
    peak = max(warm * total - 1, 0.0)
    if step <= peak and peak > 0:
        return _cosine(1 / start, 1.0, step / peak)
    return _cosine(1.0, 1 / start / end, (step - peak) / max(total - 1 - peak, 1e-9))


def cosine(step: int, total: int) -> float:
    """Cosine annealing from 1 to 0 (Loshchilov & Hutter 2017)."""
    return _cosine(1.0, 0.0, step / total)


def constant(step: int, total: int) -> float:
    return 1.0


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


SCHEDULES: dict[str, Schedule] = {"one-cycle": one_cycle, "cosine": cosine, "constant": constant}
