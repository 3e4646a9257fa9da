"""How images are changed while a network trains on them, as the user says it: `flip,crop:4,color:0.2,mixup:0.2`."""

import math
from dataclasses import dataclass, fields

from dlkit.core.errors import DlkitError, nearest

EXAMPLE = "such as --augment flip,crop:4,color:0.2,mixup:0.2"


@dataclass(frozen=True)
class Augment:
    """Each field is a word of the option; one that is left out is off.

    flip, vflip    mirrored left to right, top to bottom, half the time
    crop           moved by up to so many pixels each way; what comes in from outside is 0
    resize         a box of at least this share of the area, its sides in 3/4 to 4/3 of the image's ratio, stretched to
                   the whole (Szegedy 2015)
    color          brightness, contrast and saturation each times 1 ± so much
    mixup, cutmix  α of the Beta(α, α) by which two rows and their targets are mixed (Zhang 2018, Yun 2019)
    """

    flip: bool = False
    vflip: bool = False
    crop: int = 0
    resize: float = 0.0
    color: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


_WORDS = tuple(field.name for field in fields(Augment))
_RANGES = {"resize": (0.0, 1.0), "color": (0.0, 1.0), "mixup": (0.0, 100.0), "cutmix": (0.0, 100.0)}
"""Above the first number, up to the second."""


def parse_augment(text: str) -> Augment:
    """The words of --augment. One that is unknown, twice there, or out of range: exit code 2."""
    said: dict[str, bool | int | float] = {}
    for part in text.split(","):
        name, colon, number = part.strip().partition(":")
        if name not in _WORDS:
            raise DlkitError(f"--augment: there is no {name!r}", nearest(name, _WORDS))
        if name in said:
            raise DlkitError(f"--augment: {name} is there twice")
        said[name] = _value(name, number if colon else None)
    found = Augment(**said)  # type: ignore[arg-type]
    if found.crop and found.resize:
        raise DlkitError("--augment: crop and resize are two ways to choose a box: give one of them")
    return found


def _value(name: str, number: str | None) -> bool | int | float:
    if name in ("flip", "vflip"):
        if number is not None:
            raise DlkitError(f"--augment: {name} takes no number; got {number!r}", EXAMPLE)
        return True
    if name == "crop":
        if number is None or not (number.isascii() and number.isdigit() and 1 <= int(number[:9]) <= 4096):
            raise DlkitError(f"--augment crop: needs pixels in the range [1, 4096]; got {number!r}", EXAMPLE)
        return int(number)
    low, high = _RANGES[name]
    value = _real(number)
    if not low < value <= high:
        raise DlkitError(f"--augment {name}: needs a number above {low:g}, up to {high:g}; got {number!r}", EXAMPLE)
    return value


def _real(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
