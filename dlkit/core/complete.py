"""What the tab key offers inside a command. Nothing here may print or raise: a shell is waiting."""

import csv
import gzip
import itertools
import os
from collections.abc import Iterable
from pathlib import Path


def networks(incomplete: str) -> list[str]:
    """Layers and named networks that start so."""
    from dlkit.core import zoo
    from dlkit.core.sequence import CATALOGUE

    return [word for word in (*CATALOGUE, *zoo.names()) if word.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Finished run directories that start so, the newest first: those beside the word and those in runs/. Files that
    start so come with them, because the data follows the runs."""
    place = Path(incomplete).parent if incomplete and not incomplete.endswith("/") else Path(incomplete)
    try:
        beside = sorted(place.iterdir()) if place.is_dir() else []
        made = sorted(Path("runs").iterdir()) if Path("runs").is_dir() else []
        found = [path for path in dict.fromkeys([*made, *beside]) if (path / "manifest.json").is_file()]
        found.sort(key=lambda path: -(path / "manifest.json").stat().st_mtime)
    except OSError:  # a closed folder, or one that is gone by now
        return []
    files = [path for path in beside if path.is_file() and not path.name.startswith(".")]
    return [word for path in [*found, *files] if (word := str(path)).startswith(incomplete)]


def columns(incomplete: str) -> list[str]:
    """Columns of the table at hand that start so, read from its first line alone; none where it has no such line."""
    data = _file_at_hand()
    if data is None:
        return []
    opened = gzip.open if data.endswith(".gz") else open
    try:
        with opened(data, "rt", encoding="utf-8-sig", newline="") as table:
            names = _names(data, table)
    except (OSError, ValueError, EOFError, csv.Error):
        return []  # not a table: nothing to offer, and no place to say so
    return [name for name in names if name.startswith(incomplete)]


def _names(data: str, lines: Iterable[str]) -> list[str]:
    if ".jsonl" in data or ".ndjson" in data:
        import json

        found = json.loads(next(iter(lines), "{}"))
        return list(found) if isinstance(found, dict) else []
    words = _words()
    given = words[words.index("--delimiter") + 1] if "--delimiter" in words[:-1] else None
    delimiter = (given or "").strip("'\"") or ("\t" if ".tsv" in data else ",")
    return next(csv.reader(itertools.islice(lines, 1), delimiter=delimiter), [])


def _words() -> list[str]:
    """The line under completion. The shell's own words are read because the parser gives none: it stops at the option
    whose value is being typed."""
    return (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()


def _file_at_hand() -> str | None:
    """The first word of the line under completion that is a file."""
    return next((word for word in _words()[2:] if Path(word).is_file()), None)
