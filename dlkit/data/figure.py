"""Pictures of what a command found, by matplotlib's Figure, which needs no screen and touches no global state."""

import io
import warnings
from pathlib import Path
from typing import Any

from dlkit.core import console
from dlkit.core.console import safe
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.io import check_free, write_atomic

TRAIN, VALID, MARK = "#4878a8", "#d1792e", "#444444"
"""Colours of the two sides, and of what points something out."""


def check(plot: str, replaces: bool = False) -> None:
    """Refuse a picture that could not be written, before the work that it is to show: without matplotlib exit code 69,
    where no new file can be made 73. `replaces`: a file may be there."""
    path = Path(plot)
    make(path, 1, 1)
    if not (replaces and path.is_file()):
        check_free(path)


def make(path: Path, width: float, height: float) -> Any:
    """An empty figure of so many inches, for a file of that name."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DlkitError("--plot needs matplotlib", "pip install 'dlkit[plot]'", ExitCode.NO_DEPENDENCY) from None
    return Figure(figsize=(width, height), layout="constrained")


def write(path: Path, figure: Any) -> None:
    """Write a figure in the format of its suffix, whole or not at all. What its font lacks is said once."""
    out = io.BytesIO()
    with warnings.catch_warnings(record=True) as said:
        warnings.filterwarnings("always", "Glyph ")
        figure.savefig(out, format=path.suffix[1:].lower(), dpi=120)
    if any(str(one.message).startswith("Glyph ") for one in said):
        console.note(f"{path}: the font has no signs for some characters of a name, and shows boxes")
    for other in said:
        if not str(other.message).startswith("Glyph "):
            warnings.warn(other.message, stacklevel=2)
    write_atomic(path, out.getvalue())


def short(text: str, most: int = 28) -> str:
    """A name from somebody's file, cut to what a label has room for."""
    text = safe(text)
    return text if len(text) <= most else text[: most - 1] + "…"
