"""Numbers as people read them. Machine formats never pass through here."""

import math

_SI = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def si(value: float) -> str:
    """Four significant digits and an SI prefix: 4089184256 -> '4.089 G'. Integers below 1000 stay as they are."""
    for scale, prefix in _SI:
        if abs(value) >= scale:
            return f"{value / scale:.4g} {prefix}"
    return f"{value:.4g}"


def significant(value: float, digits: int = 4) -> str:
    """A float in `digits` significant digits without trailing zeros: 0.00312345 -> '0.003123'."""
    return f"{value:.{digits}g}"


def seconds(value: float) -> str:
    """A duration: 0.42 -> '0.42 s', 75 -> '1:15', 3700 -> '1:01:40'."""
    if not math.isfinite(value):
        return "?"
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
