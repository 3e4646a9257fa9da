"""IDX, the format of MNIST: an images file with its labels file beside it."""

import hashlib
import re
from pathlib import Path

import numpy as np

from dlkit.core.errors import DlkitError, ExitCode, bad_data
from dlkit.core.reading import Reading
from dlkit.data.arrays import table_of
from dlkit.data.source import Source, read_source
from dlkit.data.table import Table

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(source: Source, reading: Reading, labelled: bool) -> Table:
    """Images or rows of numbers, with its labels beside it, by its name: where they are there or `labelled`."""
    images = parse_idx(source.path, source.data)
    if images.ndim == 1:
        raise bad_data(f"{source.path}: these are labels alone", "name the file of images; its labels are found beside")
    if not len(images):
        raise bad_data(f"{source.path}: no images in it")
    beside = find_labels(source.path, labelled)
    if beside is None:
        return table_of(source.path, images, None, hashlib.sha256(source.data).hexdigest())
    labels_source = read_source(beside)
    labels = parse_idx(beside, labels_source.data)
    if labels.ndim != 1:
        raise bad_data(f"{beside}: labels have one dimension; these have shape {labels.shape}")
    if len(labels) != len(images):
        raise bad_data(f"{source.path}: {len(images)} images, and {len(labels)} labels in {beside}")
    digest = hashlib.sha256(source.data)
    digest.update(labels_source.data)
    return table_of(source.path, images, labels, digest.hexdigest())


def parse_idx(path: str, data: bytes) -> np.ndarray:
    """The array of an IDX file, read-only, big-endian. Its header must declare exactly the bytes that are there."""
    dimensions = data[3] if len(data) > 3 else 0
    start = 4 + 4 * dimensions
    if data[:2] != b"\0\0" or len(data) < start or data[2] not in TYPES or not dimensions:
        raise bad_data(f"{path}: damaged, or not an IDX file")
    dtype = np.dtype(TYPES[data[2]])
    shape = tuple(int.from_bytes(data[i : i + 4]) for i in range(4, start, 4))
    count = 1
    for length in shape:
        count *= length
    if count * dtype.itemsize != len(data) - start:
        raise bad_data(f"{path}: it declares shape {shape} of {dtype} and holds {len(data) - start:,} bytes of data")
    return np.frombuffer(data, dtype, offset=start).reshape(shape) if count else np.empty(shape, dtype)


def with_rows(data: bytes, rows: np.ndarray) -> bytes:
    """An IDX file's bytes with only the N int64 `rows` of it."""
    array = parse_idx("", data)
    start = len(data) - array.nbytes
    return data[:4] + len(rows).to_bytes(4) + data[8:start] + bytes(array[rows].data)


def find_labels(path: str, needed: bool) -> str | None:
    """train-images-idx3-ubyte.gz -> train-labels-idx1-ubyte, with .gz or without, whichever is there."""
    images = Path(path)
    name = re.sub(r"idx\d", "idx1", images.name.removesuffix(".gz").replace("images", "labels"))
    candidates = [images.with_name(name + suffix) for suffix in (".gz", "")]
    for candidate in candidates:
        if candidate.name != images.name and candidate.exists():
            return str(candidate)
    if not needed:
        return None
    raise DlkitError(f"{path}: no labels beside it: {name} or {name}.gz", code=ExitCode.NO_INPUT)
