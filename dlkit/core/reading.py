"""What the user says about how to read a source: the same for every command that reads data."""

import codecs
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from dlkit.core.errors import DlkitError, nearest

MULTI_LABEL = "multi-label"
TASKS = ("classification", "regression", MULTI_LABEL)
WRITING, MASKED = "language-model", "masked-language-model"
OF_TEXT = (WRITING, MASKED)
"""The tasks of a text: what comes next, or what is hidden. A source is one by its name (.txt), not by --task."""
# A table without --target is read by the first of these names that it has.
TARGET_NAMES = ("target", "label", "y", "class")
ROLES = ("numeric", "categorical", "datetime", "text", "id", "drop")
"""The options that say what a column is; a column has one of them at most."""


@dataclass(frozen=True)
class Reading:
    """The fields are options of the command line. Sequences may be given as lists; they are kept as tuples.

    target      the column to predict; without it one named target, label, y or class
    targets     two columns or more, of two values each, to predict at once; there is no `target` then
    task        one of TASKS, where the inferred one is not wanted
    na          cells that are missing, besides the empty one
    numeric, categorical, datetime, text, id, drop   columns to read so, or not at all
    delimiter   what separates the cells of CSV: one ASCII character, or 'tab'
    header      whether the first record names the columns; else they are c1, c2, …
    encoding    of CSV, JSON lines and text
    image_size  side of the square that the images of a folder are cut to, in pixels
    """

    target: str | None = None
    targets: Sequence[str] = ()
    task: str | None = None
    na: Sequence[str] = ()
    numeric: Sequence[str] = ()
    categorical: Sequence[str] = ()
    datetime: Sequence[str] = ()
    text: Sequence[str] = ()
    id: Sequence[str] = ()
    drop: Sequence[str] = ()
    delimiter: str | None = None
    header: bool = True
    encoding: str = "utf-8"
    image_size: int = 64

    def __post_init__(self) -> None:
        for option in ("targets", "na", *ROLES):
            object.__setattr__(self, option, tuple(getattr(self, option)))
        if self.task is not None and self.task not in TASKS:
            raise DlkitError(f"--task {self.task}: there is no such task", nearest(self.task, TASKS))
        self._check_targets()
        if not 1 <= self.image_size <= 4096:
            raise DlkitError(f"--image-size must be in the range [1, 4096]; got {self.image_size}")
        _check_encoding(self.encoding)
        said: dict[str, str] = {}
        for option in ROLES:
            for name in getattr(self, option):
                if said.setdefault(name, option) != option:
                    raise DlkitError(f"column {name!r} is named by both --{said[name]} and --{option}")

    def _check_targets(self) -> None:
        """Several targets are different ones, and a task of several; one target is not."""
        twice = next((name for i, name in enumerate(self.targets) if name in self.targets[:i]), None)
        if twice is not None:
            raise DlkitError(f"--target {twice} is given twice")
        if self.targets and self.task not in (None, MULTI_LABEL):
            given = " ".join(f"--target {name}" for name in self.targets)
            raise DlkitError(f"--task {self.task} is of one target; got {given}")
        if self.task == MULTI_LABEL and self.target is not None:
            raise DlkitError(f"--task {self.task}: one target, {self.target!r}", "--target once more names another")

    def role(self, column: str) -> str | None:
        """What the user says that a column is: one of ROLES, or nothing."""
        return next((option for option in ROLES if column in getattr(self, option)), None)

    def only(self, columns: Sequence[str]) -> "Reading":
        """The same, said of these columns alone."""
        kept: dict[str, Any] = {role: [name for name in getattr(self, role) if name in columns] for role in ROLES}
        return replace(self, target=self.target if self.target in columns else None, **kept)

    def check_columns(self, source: str, names: Sequence[str]) -> None:
        """Every column that an option names must be there."""
        for name in self.named_targets:
            check_column(source, "target", name, names)
        for option in ROLES:
            for name in getattr(self, option):
                check_column(source, option, name, names)

    @property
    def named_targets(self) -> tuple[str, ...]:
        """Every --target."""
        return tuple(self.targets) if self.target is None else (self.target,)

    def choose_targets(self, source: str, names: Sequence[str]) -> tuple[str, ...]:
        """The columns to predict: those named, or one whose name says so."""
        guesses = [name for name in TARGET_NAMES if name in names and name not in self.drop]
        targets = self.named_targets or tuple(guesses[:1])
        if not targets:
            raise DlkitError(f"{source}: --target is needed: which column is to be predicted?", listed(names))
        for name in targets:
            if name in self.drop:
                raise DlkitError(f"--drop: column {name!r} is the target")
        return targets

    def refuse_for(self, what: str, *names: str) -> None:
        """Refuse the options that mean nothing for a kind of source."""
        for name in names:
            value = getattr(self, name)
            if value != getattr(Reading, name):
                wanted = _KINDS.get(name, "tables with named columns")
                named = value[0].option if name in ROLES and isinstance(value[0], Named) else name
                raise DlkitError(f"{said_as(named)} is for {wanted}; this is {what}")

    def words(self) -> list[str]:
        """The options of a command line that say this, defaults left out."""
        words = []
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name == "header":
                words += [] if value else [said_as("header")]
            elif value != option.default:
                for one in value if isinstance(value, tuple) else (value,):
                    words += [said_as(option.name), str(one)]
        return words


def said_as(name: str) -> str:
    """The option of the command line that a field's value came by."""
    return "--" + {"header": "no-header", "targets": "target"}.get(name, name.replace("_", "-"))


_KINDS = {
    "delimiter": "CSV and TSV",
    "header": "CSV and TSV",
    "encoding": "CSV, JSON lines and text",
    "image_size": "folders of images",
}


def _check_encoding(name: str) -> None:
    try:
        codecs.lookup(name)
        b"1234".decode(name, "ignore")
    except (LookupError, UnicodeError, ValueError):
        message = f"--encoding {name!r}: there is no such encoding of text"
        raise DlkitError(message, nearest(name.lower(), _ENCODINGS)) from None


_ENCODINGS = ("utf-8", "utf-16", "utf-32", "latin-1", "cp1252", "cp1251", "shift_jis", "gb18030", "big5", "euc-kr")


class Named(str):
    """A column's name with the option that the user gave it by, where another one comes of that: --group makes an id
    of it."""

    option: str

    def __new__(cls, name: str, option: str) -> "Named":
        named = super().__new__(cls, name)
        named.option = option
        return named


def check_column(source: str, option: str, name: str, names: Sequence[str]) -> None:
    """A column that an option names must be among `names`."""
    if name not in names:
        option = getattr(name, "option", option)
        raise DlkitError(f"--{option}: {source} has no column {name!r}", _meant(option, name, names))


def _meant(option: str, name: str, names: Sequence[str]) -> str:
    """What the user may have meant by a column that is not there: one of a like name, or several by comma."""
    parts = [part.strip() for part in name.split(",")]
    if len(parts) < 2 or not all(part in names for part in parts):
        return nearest(name, list(names))
    if option not in (*ROLES, "target", "truth"):
        return f"--{option} takes one column"
    return "one column at a time: " + " ".join(f"--{option} {shlex.quote(part)}" for part in parts)


def listed(names: Sequence[str], most: int = 30) -> str:
    return "columns: " + ", ".join(names[:most]) + (", …" if len(names) > most else "")
