"""What the user says about how rows are dealt out to sides: the same for every command that splits."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from dlkit.core.errors import DlkitError
from dlkit.core.reading import ROLES, Named, Reading, check_column


@dataclass(frozen=True)
class Splitting:
    """The fields are options of the command line, each None where it is not given.

    stratify  a column whose values all sides hold in the same shares
    group     a column none of whose values is on two sides
    time      a column whose values are later in validation than in training, and later still in test
    gap       how much later at least: '7d', '12h', '30m' of dates; a number of a numeric column
    hash      a column whose value alone decides the side, whatever else is in the file
    split     a column that says the side: train, valid or test
    """

    stratify: str | None = None
    group: str | None = None
    time: str | None = None
    gap: str | None = None
    hash: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        for alone in ("hash", "split"):
            if getattr(self, alone) is not None:
                self._refuse(alone, {"hash": "the value alone decides", "split": "the column says it all"}[alone])
        if self.time is not None and self.stratify is not None:
            raise DlkitError("--time and --stratify: time alone decides which rows validate", "leave one of them out")
        if self.group is not None and self.group in (self.stratify, self.time):
            raise DlkitError(
                f"--group {self.group}: a whole group is on one side, so nothing else can follow its column"
            )
        if self.gap is not None and self.time is None:
            raise DlkitError("--gap is the time between the sides, and there is no --time")

    def _refuse(self, alone: str, why: str) -> None:
        other = next((f.name for f in fields(self) if f.name != alone and getattr(self, f.name) is not None), None)
        if other:
            raise DlkitError(f"--{alone} and --{other}: {why}", "leave one of them out")

    @property
    def columns(self) -> dict[str, str]:
        """Option -> the column that it names."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "gap"}
        return {option: name for option, name in named.items() if name is not None}

    def check_columns(self, source: str, names: Sequence[str], targets: Sequence[str] = ()) -> None:
        """Every column that is named must be there, and be no target."""
        for option, name in self.columns.items():
            if name in targets:
                raise DlkitError(f"--{option}: {name!r} is the target")
            check_column(source, option, name, names)

    def reading(self, reading: Reading) -> Reading:
        """`reading` with the columns that split kept, and no features where they name groups, sides or rows.

        A column to hash is text, so that its values do not depend on what else is in the file.
        """
        for option, name in self.columns.items():
            role = reading.role(name)
            if role not in (None, "drop"):
                continue
            if role == "drop":
                reading = replace(reading, drop=[n for n in reading.drop if n != name])
            wanted = {"hash": "text", "group": "id", "split": "id"}.get(option, "id" if role else None)
            if wanted in ROLES:
                more: dict[str, Any] = {wanted: (*getattr(reading, wanted), Named(name, option))}
                reading = replace(reading, **more)
        return reading

    def words(self) -> list[str]:
        """The options of a command line that say this."""
        return [word for f in fields(self) if (value := getattr(self, f.name)) for word in (f"--{f.name}", value)]
