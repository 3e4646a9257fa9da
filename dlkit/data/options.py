"""What the user says about how to read a source, checked against what the source holds."""

from collections.abc import Sequence
from dataclasses import dataclass

from dlkit.core.errors import DlkitError, nearest

TASKS = ("classification", "regression")
# A table without --target is read by the first of these names that it has.
TARGET_NAMES = ("target", "label", "y", "class")


@dataclass(frozen=True)
class Options:
    """The keyword arguments of `load`."""

    target: str | None = None
    task: str | None = None
    na: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    delimiter: str | None = None
    image_size: int = 64

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in TASKS:
            raise DlkitError(f"--task {self.task}: there is no such task", nearest(self.task, TASKS))
        if not 1 <= self.image_size <= 4096:
            raise DlkitError(f"the image size must be in the range [1, 4096]; got {self.image_size}")
        for first, second in (("categorical", "numeric"), ("drop", "categorical"), ("drop", "numeric")):
            both = set(getattr(self, first)) & set(getattr(self, second))
            if both:
                raise DlkitError(f"column {min(both)!r} is named by both --{first} and --{second}")

    def check_columns(self, source: str, names: Sequence[str]) -> None:
        """Every column that an option names must be there."""
        named = [("target", self.target)] if self.target is not None else []
        named += [(option, name) for option in ("categorical", "numeric", "drop") for name in getattr(self, option)]
        for option, name in named:
            if name not in names:
                raise DlkitError(f"--{option}: {source} has no column {name!r}", nearest(name, list(names)))

    def choose_target(self, source: str, names: Sequence[str]) -> str:
        """The column to predict: the one named, or one whose name says so."""
        target = self.target
        if target is None:
            target = next((name for name in TARGET_NAMES if name in names and name not in self.drop), None)
        if target is None:
            raise DlkitError(f"{source}: --target is needed: which column is to be predicted?", listed(names))
        if target in self.drop:
            raise DlkitError(f"--drop: column {target!r} is the target")
        return target

    def refuse_for(self, what: str, *names: str) -> None:
        """Refuse the options that mean nothing for a kind of source."""
        for name in names:
            if getattr(self, name):
                raise DlkitError(f"--{name} is for tables with named columns; this is {what}")

    def refuse_delimiter(self) -> None:
        if self.delimiter is not None:
            raise DlkitError("--delimiter is for CSV and TSV")


def listed(names: Sequence[str], most: int = 30) -> str:
    return "columns: " + ", ".join(names[:most]) + (", …" if len(names) > most else "")
