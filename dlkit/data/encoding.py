"""Bytes of text: every encoding made UTF-8, and what is not text refused by line."""

from dlkit.core.errors import bad_data

BOM = b"\xef\xbb\xbf"
CHUNK = 1 << 22


def as_utf8(source: str, data: bytes, encoding: str) -> bytes:
    """The text `data` as UTF-8 without its byte order mark; UTF-8 itself is left for `check_text` to judge."""
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig"):
        return data.removeprefix(BOM)
    try:
        return data.decode(encoding).removeprefix("\ufeff").encode()
    except UnicodeDecodeError as failure:
        line = data[: failure.start].decode(encoding, "replace").count("\n") + 1
        message = f"{source}: line {line} is not {encoding} text (byte 0x{data[failure.start]:02x})"
        raise bad_data(message, "--encoding says another one") from None
    except UnicodeError as failure:  # half of a surrogate pair; no byte order mark where there must be one
        raise bad_data(f"{source}: not {encoding} text ({failure})") from None


def check_text(source: str, data: bytes, line: int = 1) -> None:
    """Refuse NUL and what is not UTF-8. `line` is the number of the first line."""
    nul = data.find(b"\0")
    if nul >= 0:
        raise bad_data(f"{source}: line {line_at(data, nul, line)} has a NUL byte: this is not a text file")
    if data.isascii():
        return
    start = 0
    while start < len(data):
        # A line feed is never part of another character.
        stop = data.rfind(b"\n", start, start + CHUNK) + 1 or len(data)
        try:
            str(memoryview(data)[start:stop], "utf-8")
        except UnicodeDecodeError as failure:
            at = start + failure.start
            message = f"{source}: line {line_at(data, at, line)} is not UTF-8 text (byte 0x{data[at]:02x})"
            raise bad_data(message, "--encoding says another one, such as cp1252, latin-1 or utf-16") from None
        start = stop


def line_at(data: bytes, position: int, first: int = 1) -> int:
    """The number of the line in which a position lies, where the first line has the number `first`."""
    return data.count(b"\n", 0, position) + first
