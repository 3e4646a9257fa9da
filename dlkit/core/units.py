"""Numbers as people write and read them: 70B, 1.4T, 80GiB, 40%. Machine formats keep the raw integer.

Readers work on the digits, never through a float, so that 1.4T is 1,400,000,000,000 exactly. They raise ValueError
with the allowed range and what was given; whoever knows the option's name puts it in front.
"""

import math
import re

LARGEST = 10**30

_SI = (
    *((1e30, "Q"), (1e27, "R"), (1e24, "Y"), (1e21, "Z"), (1e18, "E")),
    *((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")),
)
_BINARY = ((1 << 50, "PiB"), (1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))

_POWERS = {"": 0, "k": 3, "m": 6, "b": 9, "g": 9, "t": 12, "p": 15}
_BYTES = {
    **{f"{prefix}b": 1000**i for i, prefix in enumerate(("", "k", "m", "g", "t", "p"))},
    **{f"{prefix}ib": 1024**i for i, prefix in enumerate(("", "k", "m", "g", "t", "p")) if i},
}
_NUMBER = r"([0-9]{1,40})?(?:\.([0-9]{0,40}))?(?:[eE]([+-]?[0-9]{1,2})(?![a-zA-Z]))?[ ]?([a-zA-Z]*)"


def _decimal(text: str) -> tuple[int, int, str]:
    """`text` as digits · 10^exponent and its suffix in lower case; ValueError where it is no number."""
    found = re.fullmatch(_NUMBER, text.strip())  # compiled when asked for: every command imports this
    if not found or not (found[1] or found[2]):
        raise ValueError(text)
    whole, fraction, exponent, suffix = found.groups(default="")
    return int(whole + fraction), int(exponent or 0) - len(fraction), suffix.lower()


def _whole(digits: int, exponent: int, scale: int) -> int:
    """digits · 10^exponent · scale; ValueError where that is not a whole number."""
    up: int = 10 ** max(exponent, 0)
    down: int = 10 ** max(-exponent, 0)
    if digits * scale % down:
        raise ValueError(digits)
    return digits * scale * up // down


def count(text: str, low: int = 1) -> int:
    """A whole number with a decimal suffix: 70B, 1.4T, 1.28M, 3e11; ValueError says the range and what was given."""
    try:
        digits, exponent, suffix = _decimal(text)
        value = _whole(digits, exponent + _POWERS[suffix], 1)
        if not low <= value <= LARGEST:
            raise ValueError
    except (ValueError, KeyError):
        raise ValueError(
            f"must be a whole number in the range [{low}, 1e30], such as 70B, 1.4T or 3e11. Got {text!r} instead."
        ) from None
    return value


def quantity(text: str) -> float:
    """A positive number with a decimal suffix, not necessarily whole: 30.84M, 12.5; ValueError says what was given."""
    try:
        digits, exponent, suffix = _decimal(text)
        value = float(f"{digits}e{exponent + _POWERS[suffix]}")
        if not 0 < value <= float(LARGEST):
            raise ValueError
    except (ValueError, KeyError):
        raise ValueError(f"must be a number above 0 and at most 1e30, such as 12.5 or 30.84M. Got {text!r}.") from None
    return value


def size(text: str) -> int:
    """Bytes with a unit that says which: 80GB is 80·10⁹, 80GiB is 80·2³⁰; ValueError where there is none."""
    try:
        digits, exponent, suffix = _decimal(text)
        value = _whole(digits, exponent, _BYTES[suffix])
        if not 1 <= value <= LARGEST:
            raise ValueError
    except (ValueError, KeyError):
        raise ValueError(
            f"must be a size with its unit, such as 80GB (10⁹ bytes) or 80GiB (2³⁰). Got {text!r} instead."
        ) from None
    return value


_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def duration(text: str) -> float:
    """A time in seconds: 30s, 5m, 1.5h, 2d; ValueError says what was given."""
    try:
        digits, exponent, suffix = _decimal(text)
        value = float(digits * 10.0**exponent * _SECONDS[suffix])
        if not 0 < value < math.inf:
            raise ValueError
    except (ValueError, KeyError, OverflowError):
        raise ValueError(f"must be a time above 0, such as 30s, 5m or 2h. Got {text!r} instead.") from None
    return value


def share(text: str) -> float:
    """A share in (0, 1]: 0.4 or 40%; ValueError says so and what was given."""
    percent = text.endswith("%")
    try:
        value = float(text.removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise ValueError(f"must be a share above 0 and at most 1, such as 0.4 or 40%. Got {text!r} instead.")
    return value


def exact(value: int) -> str:
    """A whole number in full, or in scientific form where that is the same number: 588·10²¹ -> '5.88e+23'."""
    short = abs(value) >= 10**16 and len(str(abs(value)).rstrip("0")) <= 15
    return repr(float(value)) if short else str(value)


def si(value: float) -> str:
    """Four significant digits and an SI prefix: 4089184256 -> '4.089 G'. Integers below 1000 stay as they are."""
    for scale, prefix in _SI:
        if abs(value) >= scale:
            return f"{value / scale:.4g} {prefix}"
    return f"{value:.4g}"


def operations(value: float) -> str:
    """FLOPs as the field writes them: an SI prefix below 10¹⁵, 5.88e+23 from there on."""
    return si(value) if abs(value) < 1e15 else f"{value:.4g}"


def binary(value: float) -> str:
    """Bytes with a binary unit: 1342177280 -> '1.25 GiB'."""
    for scale, unit in _BINARY:
        if abs(value) >= scale:
            return f"{value / scale:.4g} {unit}"
    return f"{value:.4g} B"


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
