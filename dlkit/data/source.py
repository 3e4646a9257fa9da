"""Bytes of a source, decompressed within bounds, and what kind of data they are."""

import gzip
import io
import re
import sys
import zlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from dlkit.core.errors import DlkitError, ExitCode, bad_data, nearest
from dlkit.core.io import missing

# A decompression bomb: more than a gibibyte out of less than a thousandth of it.
BOMB_BYTES, BOMB_RATIO = 2**30, 1000

COMPRESSIONS = (".gz", ".zst")
SUFFIX_KINDS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".npz": "npz",
    ".npy": "npy",
    ".txt": "txt",
    ".json": "json",
}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# How a file that was taken for text is called when it turns out to be something else.
FOREIGN = (
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x80", "a Python pickle"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
)

# First bytes that are honest text in some other encoding.
TEXT_ELSEWHERE = (b"\xff\xfe", b"\xfe\xff", b"\x80", b"\xff\xd8\xff")


@dataclass(frozen=True)
class Source:
    """A file's content. `path` is what the user wrote; `suffix` leaves a compression's suffix out.

    A later part of a table has the `names` of its columns, from the header that stood before, and its first `line`.
    """

    path: str
    data: bytes
    suffix: str
    names: tuple[str, ...] | None = None
    line: int = 1

    @property
    def kind(self) -> str:
        """csv, tsv, jsonl, parquet, npz, npy, idx, txt, json, image, or unknown (text with a header, presumably)."""
        head = self.data[:8]
        if head.startswith(b"\x93NUMPY"):
            return "npy"
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return "npz"
        if head[:4] == b"PAR1" == self.data[-4:]:
            return "parquet"
        if len(head) >= 4 and head[:2] == b"\0\0" and head[2] in b"\x08\x09\x0b\x0c\x0d\x0e" and 1 <= head[3] <= 4:
            return "idx"
        if self.suffix in IMAGE_SUFFIXES:
            return "image"
        if self.suffix not in SUFFIX_KINDS and self.data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{":
            return "jsonl"
        return SUFFIX_KINDS.get(self.suffix, "unknown")

    def foreign(self, encoding: str = "utf-8") -> str | None:
        """What the bytes are, where they are a known kind of file that is not text in `encoding`."""
        if encoding.lower() not in ("utf-8", "utf8"):
            signs = [pair for pair in FOREIGN if pair[0] not in TEXT_ELSEWHERE]
        else:
            signs = list(FOREIGN)
        return next((name for magic, name in signs if self.data.startswith(magic)), None)


def read_source(path: str, sets: tuple[str, ...] = ()) -> Source:
    """Read a file, or stdin for `-`. `sets` are names that a missing file may have been meant for.

    Missing or unreadable: exit code 66. Empty, damaged or exploding: 65.
    """
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as failure:
        raise not_there(path, failure, sets) from None
    data = decompress(path, data)
    if not data:
        raise bad_data(f"{path}: there is nothing in it")
    return Source(path, data, bare_name(path)[1])


def not_there(path: str, failure: OSError, sets: tuple[str, ...]) -> DlkitError:
    """The error for a source that cannot be opened; `sets` are names that it may have been meant for."""
    error = missing(path, failure)
    if error.hint is None and isinstance(failure, FileNotFoundError):
        near = nearest(path, sets)
        error.hint = near if near.startswith("did you mean") else f"or one of the sets at hand: {', '.join(sets)}"
    return error


def bare_name(path: str) -> tuple[str, str]:
    """(name without suffixes, suffix in lower case), a compression's suffix left out: a/b.CSV.gz -> ('b', '.csv')."""
    name = Path(path)
    if name.suffix.lower() in COMPRESSIONS:
        name = name.with_suffix("")
    return name.stem, name.suffix.lower()


def short_name(path: str) -> str:
    """A source's name as part of a directory's: letters, digits, `.`, `_` and `-`."""
    if path == "-":
        return "stdin"
    place = Path(path)
    stem = place.resolve().name if place.is_dir() else bare_name(path)[0]
    if "-idx" in stem or "-ubyte" in bare_name(path)[1]:
        stem = re.sub(r"[-.](images|labels)[-.]idx.*$", "", Path(path).name)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.")[:40] or "data"


def decompress(path: str, data: bytes) -> bytes:
    """`data` out of gzip or Zstandard, told by its first bytes; anything else as it is."""
    stream = inflating(path, data[:4], io.BytesIO(data))
    return data if stream is None else _inflate(path, stream, len(data))


@dataclass(frozen=True)
class Inflating:
    """A compressed stream being read; damage in it is bad data, not an exception of the library's own."""

    path: str
    stream: BinaryIO | gzip.GzipFile
    damage: type[Exception]

    def read(self, size: int) -> bytes:
        try:
            return self.stream.read(size)
        except (OSError, EOFError, self.damage) as failure:
            raise bad_data(f"{self.path}: damaged compressed data ({failure})") from None


def inflating(path: str, head: bytes, raw: BinaryIO) -> Inflating | None:
    """What reads `raw` decompressed, where its first bytes say gzip or Zstandard."""
    if head.startswith(b"\x1f\x8b"):
        return Inflating(path, gzip.GzipFile(fileobj=raw), zlib.error)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        zstd = zstandard(path)
        return Inflating(path, zstd.ZstdFile(raw), zstd.ZstdError)
    return None


def zstandard(path: str) -> ModuleType:
    """The standard library's module of Zstandard, which Python has had since 3.14, or its backport."""
    try:
        return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError:
        hint = "pip install backports.zstd, or decompress it first: zstd -d"
        raise DlkitError(f"{path}: reading Zstandard needs a package", hint, ExitCode.NO_DEPENDENCY) from None


def _inflate(path: str, stream: Inflating, compressed: int) -> bytes:
    parts, size = [], 0
    while part := stream.read(1 << 20):
        parts.append(part)
        size += len(part)
        refuse_bomb(path, size, compressed)
    return b"".join(parts)


def refuse_bomb(path: str, size: int, compressed: int) -> None:
    """Refuse `size` bytes, declared or already there, out of `compressed` ones where no honest file has that ratio."""
    if size > BOMB_BYTES and size > BOMB_RATIO * compressed:
        raise bad_data(
            f"{path}: {compressed:,} bytes would expand to {size:,} or more; refused as a decompression bomb"
        )
