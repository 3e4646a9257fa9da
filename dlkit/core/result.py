"""What every command returns: columns, rows and a summary. Nothing here prints."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Row = Mapping[str, Any]
Kind = Literal["text", "int", "float", "si", "seconds", "shape", "share", "flops", "bytes", "money", "p"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of rows, or one fact of a summary: its key in JSON, its heading, and how a person reads its values.

    `width` matters only where rows stream, because later values are not known when the first line is drawn.
    `terminal` is False for a column that a terminal leaves out, because the facts under the table say it; `spare` is
    True for one that it leaves out where it is too narrow for all.
    """

    name: str
    kind: Kind = "text"
    title: str | None = None
    width: int = 9
    terminal: bool = True
    spare: bool = False

    @property
    def heading(self) -> str:
        return self.title or self.name.replace("_", " ")


@dataclass(slots=True)
class Result:
    """The answer of a command.

    rows      any iterable; a generator streams, and may fill `summary` in while it runs.
    headline  the key of `summary` that `-q` prints alone.
    facts     the entries of `summary` that a terminal shows under the table.
    bare      in a pipe, without a format asked for, print the headline alone (the answer is one value).
    streams   rows come slowly: each is written, and flushed, as it comes.
    ok        False is the answer "no": exit code 1. Read after the rows are consumed.
    drawing   what a terminal shows in place of the rows: text, drawn for a width in columns.
    overview  the rows that a terminal shows in place of `rows`, where there are too many to read.
    total     a last row that a terminal shows under a rule: the sums of a table whose rows add up.
    notes     lines for stderr after the result; where to go next.
    warnings  lines for stderr that -q does not silence: the answer may be wrong.
    text      a plain text that is the answer where it is not a table (a network's source).
    encode    (tsv, csv or jsonl) -> header and rows as pieces of text, where a million rows one by one would be slow.
    """

    columns: Sequence[Column]
    rows: Iterable[Row]
    summary: dict[str, Any]
    headline: str
    facts: Sequence[Column] = ()
    title: str | None = None
    bare: bool = False
    streams: bool = False
    ok: bool = True
    drawing: Callable[[int], str] | None = None
    overview: Sequence[Row] | None = None
    total: Row | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    text: str | None = None
    encode: Callable[[str], Iterable[str]] | None = None
