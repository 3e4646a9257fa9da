"""Text: whole for a language model, or as rows of one line each. And every encoding of text made UTF-8."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from dlkit.core.errors import bad_data
from dlkit.core.reading import Reading
from dlkit.data.bundled import NAMES
from dlkit.data.dataset import Place
from dlkit.data.encoding import as_utf8, check_text
from dlkit.data.source import Source, bare_name, read_source, short_name
from dlkit.data.table import Table


@dataclass(frozen=True)
class Corpus:
    """A text to model. `fingerprint` is the sha256 of the file's bytes, decompressed."""

    name: str
    source: str
    text: str
    fingerprint: str


def is_text(source: str) -> bool:
    """Whether a source is text for a language model, as its name says: .txt, perhaps compressed."""
    return bare_name(source)[1] == ".txt" and not Path(source).is_dir()


def read_text_corpus(source: str, reading: Reading) -> Corpus:
    """The text of a file, or of stdin for `-`. Not text: 65; missing: 66."""
    read = read_source(source, NAMES)
    text = checked_text(read, reading).decode()
    return Corpus(short_name(source), source, text, hashlib.sha256(read.data).hexdigest())


def read_lines(source: Source, reading: Reading) -> Table:
    """Each line is a row, the blank ones too: an empty cell."""
    lines = checked_text(source, reading).decode().removesuffix("\n").split("\n")
    cells = pl.Series("text", [line.removesuffix("\r") for line in lines], dtype=pl.String)
    place = Place(source.path, unit="line")
    return Table(short_name(source.path), place, pl.DataFrame([cells]), hashlib.sha256(source.data).hexdigest())


def checked_text(source: Source, reading: Reading) -> bytes:
    """UTF-8 without a byte order mark or a NUL byte."""
    foreign = source.foreign(reading.encoding)
    if foreign:
        raise bad_data(f"{source.path}: this is {foreign}, not text")
    data = as_utf8(source.path, source.data, reading.encoding)
    check_text(source.path, data)
    return data
