"""NPY and NPZ read by their own headers: no pickle, and nothing allocated that the file does not hold."""

import hashlib
import io
import zipfile
import zlib

import numpy as np
import polars as pl
from numpy.lib import format as npy

from dlkit.core.errors import bad_data
from dlkit.core.reading import Reading
from dlkit.data.dataset import Place
from dlkit.data.source import Source, refuse_bomb, short_name
from dlkit.data.table import Table

PAIRS = (("x", "y"), ("data", "target"), ("images", "labels"), ("data", "labels"), ("features", "labels"))
VALID_PARTS = ("valid", "val", "test")
CHANNELS = (1, 3, 4)


def read_npy(source: Source, reading: Reading, labelled: bool) -> Table:
    """One array: rows without a target, unless a column of it is named as that."""
    array = parse_npy(source.path, source.data)
    if labelled and (not reading.named_targets or array.ndim != 2):
        message = f"{source.path}: one array of shape {array.shape}, and no target to predict"
        raise bad_data(message, "np.savez('data.npz', X=…, y=…) keeps both in one file")
    if not array.ndim or not len(array):
        raise bad_data(f"{source.path}: one array of shape {array.shape}, which has no rows")
    return table_of(source.path, array, None, hashlib.sha256(source.data).hexdigest())


def read_npz(source: Source, reading: Reading, labelled: bool) -> Table:
    """`X` and `y`, or the names that Keras gives its sets (x_train, y_train, x_test, y_test); `y` only if `labelled`.

    An array that is alone in its file may have any name.
    """
    members = Members(source)
    digest = hashlib.sha256(source.data).hexdigest()
    parts = members.find_parts(labelled)
    xs, ys = zip(*(_checked(source.path, members, *pair) for pair in parts), strict=True)
    if len(parts) == 1:
        return table_of(source.path, xs[0], ys[0], digest)
    if xs[0].shape[1:] != xs[1].shape[1:]:
        raise bad_data(f"{source.path}: {parts[0][0]!r} is {xs[0].shape} and {parts[1][0]!r} is {xs[1].shape}")
    if ys[0].shape[1:] != ys[1].shape[1:]:
        raise bad_data(f"{source.path}: {parts[0][1]!r} is {ys[0].shape} and {parts[1][1]!r} is {ys[1].shape}")
    fixed = np.arange(len(xs[0]) + len(xs[1])) >= len(xs[0])
    return table_of(source.path, np.concatenate(xs), np.concatenate(ys), digest, fixed)


def _checked(path: str, members: "Members", x_name: str, y_name: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    x = members.read(x_name)
    if not x.ndim or not len(x):
        raise bad_data(f"{path}: {x_name!r} has no rows")
    if y_name is None:
        return x, None
    y = members.read(y_name)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 and not _zeros_and_ones(y):
        hint = "several for each are zeros and ones" if y.ndim == 2 else None
        raise bad_data(f"{path}: {y_name!r} has shape {y.shape}; one target for each row is needed", hint)
    if len(x) != len(y):
        raise bad_data(f"{path}: {x_name!r} has {len(x)} rows and {y_name!r} has {len(y)}")
    return x, y


def _zeros_and_ones(y: np.ndarray) -> bool:
    """Whether this is N×K labels, each there or not in a row."""
    return y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind in "buif" and bool(((y == 0) | (y == 1)).all())


def parse_npy(path: str, data: bytes) -> np.ndarray:
    """The array in an NPY file's bytes, read-only. Its header must declare exactly the bytes that are there."""
    stream = io.BytesIO(data)
    try:
        version = npy.read_magic(stream)
        header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = header(stream)
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError, UnicodeError):
        raise bad_data(f"{path}: damaged, or not an NPY array") from None
    if dtype.hasobject:
        message = f"{path}: it holds Python objects, which are never loaded: they can run code"
        raise bad_data(message, "save numbers or text: y.astype(str)")
    count = 1
    for length in shape:
        count *= length
    start = stream.tell()
    # An element of no bytes (text of length 0) would let a header declare any number of them.
    if min(shape, default=0) < 0 or not dtype.itemsize or count * dtype.itemsize != len(data) - start:
        there = len(data) - start
        raise bad_data(f"{path}: it declares shape {shape} of {dtype} and holds {there:,} bytes of data")
    array = np.frombuffer(data, dtype, offset=start) if count else np.empty(0, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


class Members:
    """The arrays of an NPZ, found by name and read one at a time."""

    def __init__(self, source: Source) -> None:
        self.path = source.path
        try:
            self.zip = zipfile.ZipFile(io.BytesIO(source.data))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as failure:
            raise bad_data(f"{self.path}: damaged, or not an NPZ file ({failure})") from None
        self.infos = {info.filename.removesuffix(".npy"): info for info in self.zip.infolist()}
        if "xl/workbook.xml" in self.infos:
            raise bad_data(f"{self.path}: this is an Excel workbook", "save the sheet as CSV")

    def find_parts(self, labelled: bool) -> list[tuple[str, str | None]]:
        """The names of X and y, once, or for training and validation."""
        lower = {name.lower(): name for name in self.infos}
        for x, y in PAIRS:
            if x in lower and y in lower:
                return [(lower[x], lower[y])]
            for part in VALID_PARTS:
                wanted = [f"{x}_train", f"{y}_train", f"{x}_{part}", f"{y}_{part}"]
                if all(name in lower for name in wanted):
                    found = [lower[name] for name in wanted]
                    return [(found[0], found[1]), (found[2], found[3])]
        held = ", ".join(map(repr, list(self.infos)[:10])) or "nothing"
        alone = [lower[x] for x, _ in PAIRS if x in lower] or (list(self.infos) if len(self.infos) == 1 else [])
        if labelled or not alone:
            raise bad_data(f"{self.path}: it holds {held}; arrays 'X' and 'y' are needed", "np.savez(path, X=…, y=…)")
        return [(alone[0], None)]

    def read(self, name: str) -> np.ndarray:
        info, label = self.infos[name], f"{self.path}: {name}"
        refuse_bomb(label, info.file_size, info.compress_size)
        try:
            data = self.zip.read(info)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as failure:
            raise bad_data(f"{label}: damaged ({failure})") from None
        except (RuntimeError, NotImplementedError) as failure:  # encrypted; a compression that Python has not
            raise bad_data(f"{label}: cannot be read ({failure})") from None
        return parse_npy(label, data)


def table_of(
    path: str, x: np.ndarray, y: np.ndarray | None, fingerprint: str, fixed: np.ndarray | None = None
) -> Table:
    """N×D is a table with columns x1 … xD; N×H×W and N×C×H×W are images. `y` is its column y, or y1 … yK if N×K."""
    place, name = Place(path), short_name(path)
    target = [] if y is None else _targets(path, y)
    labels = tuple(column.name for column in target) if len(target) > 1 else ()
    x = _values(path, "X", x)
    if x.ndim <= 2:
        x = x[:, None] if x.ndim == 1 else x
        refuse_infinite(path, x)
        columns = [pl.Series(f"x{i}", np.ascontiguousarray(x[:, i - 1])) for i in range(1, x.shape[1] + 1)]
        return Table(name, place, pl.DataFrame([*columns, *target]), fingerprint, fixed_split=fixed, labels=labels)
    arrays, notes = as_images(path, x)
    return Table(name, place, pl.DataFrame(target), fingerprint, False, arrays, fixed, notes, labels)


def _targets(path: str, y: np.ndarray) -> list[pl.Series]:
    if y.ndim == 1:
        return [_series(path, y)]
    return [pl.Series(f"y{i}", column) for i, column in enumerate(np.ascontiguousarray(y.T, np.uint8), 1)]


def _series(path: str, y: np.ndarray) -> pl.Series:
    """The target as a column named y."""
    if y.dtype.kind == "S":
        try:
            y = np.char.decode(y, "utf-8")
        except UnicodeDecodeError:
            raise bad_data(f"{path}: 'y' holds text that is not UTF-8") from None
    if y.dtype.kind == "U":
        return pl.Series("y", y.tolist(), dtype=pl.String)
    return pl.Series("y", np.ascontiguousarray(_values(path, "y", y)))


def _values(path: str, name: str, array: np.ndarray) -> np.ndarray:
    """Numbers in native byte order."""
    if array.dtype.kind not in "buif":
        raise bad_data(f"{path}: {name!r} holds {array.dtype}; numbers are needed")
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        return array.astype(np.float32 if array.dtype.itemsize == 2 else np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def refuse_infinite(path: str, x: np.ndarray) -> None:
    """Of a table's cells NaN means missing; an infinity means nothing."""
    if x.dtype.kind == "f" and np.isinf(x).any():
        row, column = np.argwhere(np.isinf(x))[0]
        raise bad_data(f"{path}: row {row + 1}, column 'x{column + 1}': {x[row, column]} is not a finite number")


def as_images(path: str, x: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N×C×H×W of uint8 or float32, notes). Integers from 0 to 255 become uint8, all other numbers float32."""
    notes: tuple[str, ...] = ()
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or not x.size:
        raise bad_data(f"{path}: 'X' has shape {x.shape}; a row must be D, H×W or C×H×W, and not empty")
    if x.shape[1] not in CHANNELS and x.shape[3] in CHANNELS:
        notes = (f"X is N×H×W×C, {'×'.join(map(str, x.shape))}: read with its channels first",)
        x = x.transpose(0, 3, 1, 2)
    if x.dtype.kind == "f":
        _refuse_non_finite(path, x)
    return np.ascontiguousarray(x, np.uint8 if _fits_byte(x) else np.float32), notes


def _fits_byte(x: np.ndarray) -> bool:
    return x.dtype.kind in "bui" and (x.dtype in (np.uint8, np.bool_) or bool(x.min() >= 0 and x.max() <= 255))


def _refuse_non_finite(path: str, x: np.ndarray) -> None:
    finite = np.isfinite(x).all(axis=(1, 2, 3))
    if not finite.all():
        row = int(np.argmin(finite))
        raise bad_data(f"{path}: row {row + 1} of 'X' has values that are not finite")
