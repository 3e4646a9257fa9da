"""Result -> table, tsv, csv, json, jsonl. The only place where a result becomes text, and the only writer of stdout."""

import sys
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any, Literal

from dlkit.core import console, units
from dlkit.core.result import Column, Result, Row

Format = Literal["table", "tsv", "csv", "json", "jsonl"]


def write(result: Result, command: str, version: str, fmt: Format | None, quiet: bool) -> None:
    """Write `result` to stdout, whole or, where it streams, row by row; no `fmt`: a table on a terminal, else TSV.

    OSErrors (closed pipe, full disk) pass through, except that a reader who has left does not end work that streams.
    """
    if not result.streams:
        return _write(result, command, version, fmt, quiet)
    rows = iter(result.rows)
    # The first row is made before the header is written: work that fails at once leaves stdout empty.
    result.rows = chain(list(islice(rows, 1)), rows)
    try:
        _write(result, command, version, fmt, quiet)
    except BrokenPipeError:
        console.discard(sys.stdout)
        _drain(result.rows)


def _write(result: Result, command: str, version: str, fmt: Format | None, quiet: bool) -> None:
    terminal = sys.stdout.isatty()
    if quiet:
        _drain(result.rows)
        if result.summary[result.headline] is not None:  # no answer is no line
            _put(exact(result.summary[result.headline]))
    elif result.text is not None and fmt is None:
        _put(result.text.rstrip("\n"))
    elif result.bare and fmt is None and not terminal:
        _drain(result.rows)
        _put(exact(result.summary[result.headline]))
    else:
        form = fmt or ("table" if terminal else "tsv")
        if result.encode is not None and form in ("tsv", "csv", "jsonl"):
            sys.stdout.writelines(result.encode(form))
        else:
            _WRITERS[form](result, command, version)
    sys.stdout.flush()
    for text in result.warnings:
        console.warn(text)
    for text in result.notes:
        console.note(text)


def _drain(rows: Iterable[Row]) -> None:
    for _ in rows:
        pass


def _put(text: str, flush: bool = False) -> None:
    sys.stdout.write(text + "\n")
    if flush:
        sys.stdout.flush()


def exact(value: Any) -> str:
    """A value in full precision as one machine-readable cell: lists join by x, None is empty, flags in lower case."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "x".join(exact(v) for v in value)
    if isinstance(value, int):
        return units.exact(value)
    return repr(value) if isinstance(value, float) else str(value)


def human(value: Any, kind: str) -> str:
    """A value as a person reads it on a terminal; foreign text is made safe."""
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        sign = " " if kind == "text" else "×"
        return sign.join(human(v, kind) for v in value) or "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return console.safe(exact(value))
    if kind == "si":
        return units.si(value)
    if kind == "seconds":
        return units.seconds(value)
    if kind == "flops":
        return units.operations(value)
    if kind == "bytes":
        return units.binary(value)
    if kind == "money":
        return f"{value:,.2f}"
    if kind == "share":
        return f"{100 * value:.2f} %"
    if kind == "p":
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    if kind == "int":
        return f"{round(value):,}"
    if isinstance(value, int):
        return str(value) if kind == "shape" else f"{value:,}"
    return units.significant(value, 5)


# --- one writer a format ---------------------------------------------------------------------------------------------


def _json(result: Result, command: str, version: str) -> None:
    import json

    rows = [_plain(dict(row)) for row in result.rows]
    body = {
        "command": command,
        "version": version,
        "ok": result.ok,
        "summary": _plain(result.summary),
        "rows": rows,
    }
    _put(json.dumps(body, ensure_ascii=False, allow_nan=False))


def _jsonl(result: Result, command: str, version: str) -> None:
    import json

    for row in result.rows:
        _put(json.dumps(_plain(dict(row)), ensure_ascii=False, allow_nan=False), result.streams)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: a number that is not there is null."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
TSV_ESCAPES = _CONTROLS | str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"})


def _tsv(result: Result, command: str, version: str) -> None:
    _put("\t".join(c.name for c in result.columns), result.streams)
    for row in result.rows:
        _put("\t".join(exact(row.get(c.name)).translate(TSV_ESCAPES) for c in result.columns), result.streams)


def _csv(result: Result, command: str, version: str) -> None:
    import csv

    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow([c.name for c in result.columns])
    for row in result.rows:
        out.writerow([exact(row.get(c.name)) for c in result.columns])
        if result.streams:
            sys.stdout.flush()


def _table(result: Result, command: str, version: str) -> None:
    from rich.text import Text

    if result.title:
        _show(Text(console.safe(result.title), style="bold"))
    if result.drawing:
        _put(result.drawing(min(_width(), 100)))
    elif result.streams:
        _stream_table(result)
    else:
        _show(_whole_table(result))
    if result.facts:
        _show(_facts(result), soft_wrap=True)


def _whole_table(result: Result) -> Any:
    shown = list(result.overview or result.rows)
    columns = [column for column in result.columns if column.terminal]
    if _crowded(columns, [_cells(columns, row) for row in shown]):
        columns = [column for column in columns if not column.spare]
    table = _grid(columns, [_cells(columns, row) for row in shown])
    if result.total is not None:
        table.add_section()
        _add(table, _cells(columns, result.total), style="bold")
    return table


def _width() -> int:
    """Columns of the terminal. A table piped on purpose is for reading, not for folding: it gets all it wants."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000


def _show(drawable: Any, soft_wrap: bool = False) -> None:
    """Draw on stdout. As text through `sys.stdout`, because while a progress bar is up that is what draws above it."""
    from rich.console import Console

    screen = Console(width=_width(), highlight=False)
    with screen.capture() as drawn:
        screen.print(drawable, soft_wrap=soft_wrap)
    sys.stdout.write(drawn.get())


def _cells(columns: Sequence[Column], row: Row) -> list[str]:
    return [human(row.get(c.name), c.kind) for c in columns]


def _stream_table(result: Result) -> None:
    columns = [column for column in result.columns if column.terminal]
    for spare in [column for column in reversed(columns) if column.spare]:
        if sum(map(_least, columns)) + 2 * len(columns) - 1 > _width():
            columns.remove(spare)
    widths = [_least(column) for column in columns]
    _show(_grid(columns, [], widths))
    for row in result.rows:
        _show(_grid(columns, [_cells(columns, row)], widths, header=False))
        sys.stdout.flush()


def _least(column: Column) -> int:
    """How wide a column that streams is, whatever comes."""
    return max(column.width, len(column.heading))


def _grid(
    columns: Sequence[Column], rows: list[list[str]], widths: list[int] | None = None, header: bool = True
) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_header=header, pad_edge=True, show_edge=False)
    if _too_wide(columns, rows, widths):
        table.padding = (0, 1, 0, 0)
    for i, column in enumerate(columns):
        numeric = column.kind not in ("text", "shape")
        table.add_column(
            Text(console.safe(column.heading)),
            justify="right" if numeric else "left",
            min_width=widths[i] if widths else None if i or numeric else _readable(column, rows),
            no_wrap=numeric,
            overflow="fold",
        )
    for cells in rows:
        _add(table, cells)
    return table


def _too_wide(columns: Sequence[Column], rows: list[list[str]], widths: list[int] | None) -> bool:
    """Whether something must fold: then the columns stand closer, those that stream by what is known of them."""
    natural = widths or [max([len(c.heading), *(len(cells[i]) for cells in rows)]) for i, c in enumerate(columns)]
    return sum(natural) + 3 * len(natural) > _width()


def _crowded(columns: Sequence[Column], rows: list[list[str]]) -> bool:
    """Whether no room is left for texts of 24 characters beside numbers that do not fold."""
    needed = 0
    for i, column in enumerate(columns):
        widest = max((len(cells[i]) for cells in rows), default=0)
        heading = max(map(len, column.heading.split()))
        needed += 2 + max(heading, min(widest, 24) if column.kind == "text" else widest)
    return needed > _width()


def _readable(column: Column, rows: list[list[str]]) -> int:
    """The least width of a first column of text: where numbers leave it little room it folds, but to words."""
    return min(14, max([len(column.heading), *(len(cells[0]) for cells in rows)]))


def _add(table: Any, cells: list[str], style: str = "") -> None:
    from rich.text import Text

    table.add_row(*(Text(cell) for cell in cells), style=style)


def _facts(result: Result) -> Any:
    """The facts of a summary, as many on a line as fit, none broken in two."""
    from rich.text import Text

    width = _width()
    lines = [Text()]
    for fact in result.facts:
        value = result.summary.get(fact.name)
        if value is None:
            continue
        part = Text.assemble((f"{fact.heading} ", "dim"), human(value, fact.kind), _interval(result.summary, fact))
        if lines[-1] and lines[-1].cell_len + part.cell_len + 5 > width:
            lines.append(Text())
        lines[-1].append("  ·  " if lines[-1] else " ").append(part)
    return Text("\n").join(lines)


def _interval(summary: dict[str, Any], fact: Column) -> str:
    """How sure a fact is, where the summary says: ' (96.1 % … 98.0 %)'."""
    ends = [summary.get(f"{fact.name}_{side}") for side in ("low", "high")]
    known = all(isinstance(end, float) and abs(end) < float("inf") for end in ends)
    return f" ({' … '.join(human(end, fact.kind) for end in ends)})" if known else ""


_WRITERS = {"table": _table, "tsv": _tsv, "csv": _csv, "json": _json, "jsonl": _jsonl}
