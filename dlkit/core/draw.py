"""Curves drawn with characters, for a terminal."""

import math
from collections.abc import Sequence

from dlkit.core.units import significant

PICTURES = (".png", ".svg", ".pdf")
"""The suffixes of files that a picture is drawn in."""
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of the 2×4 dots of a braille character, by column and row."""


def curve(
    xs: Sequence[float],
    ys: Sequence[float],
    width: int,
    height: int = 12,
    mark: float | None = None,
    x_title: str = "",
    y_title: str = "",
) -> str:
    """A line through (x, y) with x on a logarithmic axis; `mark` draws a vertical line at that x."""
    label = 10
    columns = max(width - label - 2, 20)
    grid = _Braille(columns, height)
    lo, hi = min(ys), max(ys)
    left, right = math.log(xs[0]), math.log(xs[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        return (math.log(x) - left) / ((right - left) or 1), (y - lo) / ((hi - lo) or 1)

    for i in range(len(xs) - 1):
        grid.line(place(xs[i], ys[i]), place(xs[i + 1], ys[i + 1]))
    if mark is not None and xs[0] <= mark <= xs[-1]:
        grid.column(place(mark, lo)[0])
    rows = grid.rows()
    edges = {0: significant(hi, 4), height - 1: significant(lo, 4)}
    lines = [f"{edges.get(i, ''):>{label}} │{row}" for i, row in enumerate(rows)]
    lines.append(" " * label + " └" + "─" * columns)
    ends = f"{significant(xs[0], 2)}{x_title:^{columns - 16}}{significant(xs[-1], 2):>8}"
    return "\n".join([f"{y_title:>{label}}", *lines, " " * (label + 2) + ends])


class _Braille:
    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.cells = [[0] * columns for _ in range(lines)]

    def dot(self, x: int, y: int) -> None:
        row = self.lines * 4 - 1 - y
        self.cells[row // 4][x // 2] |= _DOTS[x % 2][row % 4]

    def line(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        wide, high = self.columns * 2 - 1, self.lines * 4 - 1
        x0, y0, x1, y1 = start[0] * wide, start[1] * high, end[0] * wide, end[1] * high
        count = max(int(abs(x1 - x0)), int(abs(y1 - y0)), 1)
        for i in range(count + 1):
            self.dot(round(x0 + (x1 - x0) * i / count), round(y0 + (y1 - y0) * i / count))

    def column(self, share: float) -> None:
        x = round(share * (self.columns * 2 - 1))
        for y in range(0, self.lines * 4, 2):
            self.dot(x, y)

    def rows(self) -> list[str]:
        return ["".join(chr(0x2800 + cell) for cell in row) for row in self.cells]


_SHADES = " ░▒▓█"


def heat(values: Sequence[Sequence[float]], width: int, height: int = 24) -> str:
    """A map of values of at least 0 as shades, the largest the darkest; a cell is twice as high as wide."""
    rows, columns = len(values), len(values[0])
    wide = min(width, max(2 * columns, 1))
    high = max(1, min(height, round(wide * rows / columns / 2)))
    wide = max(1, min(wide, round(2 * high * columns / rows))) if rows > 1 else wide
    cells = [[_mean(values, _span(y, high, rows), _span(x, wide, columns)) for x in range(wide)] for y in range(high)]
    top = max(map(max, cells)) or 1.0
    last = len(_SHADES) - 1
    return "\n".join("".join(_SHADES[min(last, math.ceil(cell / top * last - 0.25))] for cell in row) for row in cells)


_EIGHTHS = " ▁▂▃▄▅▆▇█"


def bars(values: Sequence[float], width: int, height: int = 8) -> str:
    """Values of at least 0 as bars side by side, the largest as high as the drawing."""
    wide = min(width, len(values))
    shown = [_mean([values], range(1), _span(x, wide, len(values))) for x in range(wide)]
    top = max(shown) or 1.0
    eighths = [math.ceil(value / top * 8 * height - 0.25) for value in shown]
    rows = reversed(range(height))
    return "\n".join("".join(_EIGHTHS[min(8, max(0, high - 8 * row))] for high in eighths) for row in rows)


def _span(cell: int, cells: int, size: int) -> range:
    start = cell * size // cells
    return range(start, max(start + 1, (cell + 1) * size // cells))


def _mean(values: Sequence[Sequence[float]], rows: range, columns: range) -> float:
    return sum(values[y][x] for y in rows for x in columns) / (len(rows) * len(columns))
