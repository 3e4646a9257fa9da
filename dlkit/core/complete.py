"""What the tab key offers inside a command. Nothing here may print or raise: a shell is waiting."""

import csv
import gzip
import itertools
import os
from pathlib import Path


def networks(incomplete: str) -> list[str]:
    """Layers and named networks that start so."""
    from dlkit.core import zoo
    from dlkit.core.sequence import CATALOGUE

    return [word for word in (*CATALOGUE, *zoo.names()) if word.startswith(incomplete)]


def columns(incomplete: str) -> list[str]:
    """Columns of the table at hand that start so, read from its first line alone; none where it has no such line."""
    data = _file_at_hand()
    if data is None:
        return []
    opened = gzip.open if data.endswith(".gz") else open
    delimiter = "\t" if ".tsv" in data else ","
    try:
        with opened(data, "rt", encoding="utf-8-sig", newline="") as table:
            header = next(csv.reader(itertools.islice(table, 1), delimiter=delimiter), [])
    except (OSError, UnicodeDecodeError, EOFError, csv.Error):
        return []  # not a table: nothing to offer, and no place to say so
    return [name for name in header if name.startswith(incomplete)]


def _file_at_hand() -> str | None:
    """The first word of the line under completion that is a file. The shell's own words are read because the parser
    gives none: it stops at the option whose value is being typed."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    return next((word for word in line.split()[2:] if Path(word).is_file()), None)
