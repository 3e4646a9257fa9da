"""Where something stands in a text: line and position for a message, and the line with a caret."""

WIDTH = 100


def place(text: str, offset: int) -> str:
    """ "position 5", or "line 3, position 5" in a text of several lines; both count from 1."""
    start = text.rfind("\n", 0, offset) + 1
    position = f"position {offset - start + 1}"
    if "\n" not in text.strip("\n"):
        return position
    return f"line {text.count(chr(10), 0, offset) + 1}, {position}"


def context(text: str, offset: int, length: int = 1) -> str:
    """The line that holds `offset`, a window of it if long, with carets under `length` characters."""
    start = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    line = "".join(c if c.isprintable() else " " for c in text[start : end if end >= 0 else len(text)])
    at = offset - start
    left = max(0, min(at - WIDTH // 2, len(line) - WIDTH))
    shown = line[left : left + WIDTH]
    before, after = "…" if left else "", "…" if left + WIDTH < len(line) else ""
    carets = "^" * max(1, min(length, len(shown) - (at - left)))
    return f"{before}{shown}{after}\n{' ' * (at - left + len(before))}{carets}"
