"""NPY, NPZ and IDX: shapes, and files that lie about what they hold."""

import gzip
import io
import pickle
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlkit.core.errors import DlkitError
from dlkit.core.reading import Reading
from dlkit.data import load

Y = np.array([0, 1] * 6)


def npz(**arrays) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def npy(array) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def lying_npy(shape: tuple, descr: str = "<f4", payload: bytes = bytes(64)) -> bytes:
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + payload


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return out.getvalue()


def ramp(*shape: int, dtype=np.float32) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 251).reshape(shape).astype(dtype)


@pytest.mark.parametrize(
    ("x", "shape", "dtype"),
    [
        (ramp(12, 8, 8), (1, 8, 8), np.float32),
        (ramp(12, 8, 8, dtype=np.uint8), (1, 8, 8), np.uint8),
        (ramp(12, 8, 8, dtype=np.int64), (1, 8, 8), np.uint8),
        (ramp(12, 8, 8, dtype=np.int64) * 9, (1, 8, 8), np.float32),
        (ramp(12, 8, 8, dtype=">f8"), (1, 8, 8), np.float32),
        (ramp(12, 3, 8, 9, dtype=np.uint8), (3, 8, 9), np.uint8),
        (ramp(12, 5, 8, 9), (5, 8, 9), np.float32),
        (ramp(12, 8, 9, 3, dtype=np.uint8), (3, 8, 9), np.uint8),
    ],
)
def test_images(write, x, shape, dtype):
    dataset = load(write("a.npz", npz(X=x, y=Y)))
    assert dataset.arrays.shape == (12, *shape) and dataset.arrays.dtype == dtype
    assert dataset.arrays.flags.c_contiguous and dataset.classes == ("0", "1")
    channels_last = x.ndim == 4 and x.shape[1:] != shape
    assert np.array_equal(dataset.arrays, x.transpose(0, 3, 1, 2) if channels_last else x.reshape(12, *shape))
    assert bool(dataset.notes) == channels_last


@pytest.mark.parametrize("names", [("X", "y"), ("x", "y"), ("data", "target"), ("images", "labels")])
def test_tables(write, names):
    x = np.array([[i, i % 3 or np.nan] for i in range(12)])
    dataset = load(write("a.npz", npz(**dict(zip(names, (x, Y), strict=True)))), Reading(numeric=["x1"]))
    assert dataset.frame.columns == ["x1", "x2"] and dataset.frame["x2"].null_count() == 4
    assert dataset.labels.tolist() == Y.tolist()


def test_targets_of_any_type(write):
    x = ramp(12, 4)
    for y, classes in ((Y.astype(str), ("0", "1")), (Y.astype("S"), ("0", "1")), (Y == 1, ("false", "true"))):
        assert load(write("a.npz", npz(X=x, y=y))).classes == classes
    assert load(write("b.npz", npz(X=x, y=np.linspace(0, 1, 12)[:, None]))).task == "regression"


def test_training_and_test_in_one_file(write):
    x = ramp(12, 8, 8)
    dataset = load(write("a.npz", npz(x_train=x, y_train=Y, x_test=x[:4], y_test=Y[:4])))
    assert dataset.rows == 16 and dataset.fixed_split.nonzero()[0].tolist() == [12, 13, 14, 15]


class Canary:
    """Pickled, it leaves a file behind where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_no_pickle_runs(write, refused, tmp_path):
    canary = Canary(tmp_path / "ran")
    objects = np.array([canary, canary], dtype=object)
    for name, data in (
        ("a.npz", npz(X=objects, y=Y[:2])),
        ("b.npz", npz(X=ramp(2, 3), y=objects)),
        ("c.npy", npy(objects)),
        ("d.npz", zipped(X=pickle.dumps(canary), y=pickle.dumps(canary))),
        ("e.npy", pickle.dumps(canary)),
        ("f.csv", pickle.dumps(canary)),
    ):
        assert refused(write(name, data), target="y" if name == "f.csv" else None).code == 65
    assert not (tmp_path / "ran").exists()


BAD = {
    "a trillion rows": zipped(X=lying_npy((10**12, 4)), y=npy(Y)),
    "a huge element": zipped(X=lying_npy((4,), "<U1000000000"), y=npy(Y)),
    "elements of no bytes": zipped(X=lying_npy((10**12,), "<U0", b""), y=npy(Y)),
    "negative rows": zipped(X=lying_npy((-4, -4)), y=npy(Y)),
    "cut short": zipped(X=npy(ramp(12, 4))[:-8], y=npy(Y)),
    "too long": zipped(X=npy(ramp(12, 4)) + b"x", y=npy(Y)),
    "no y": npz(X=ramp(12, 4)),
    "other names": npz(a=ramp(12, 4), b=Y),
    "lengths": npz(X=ramp(11, 4), y=Y),
    "one-hot": npz(X=ramp(12, 4), y=np.eye(12)),
    "no rows": npz(X=np.empty((0, 4)), y=np.empty(0)),
    "no columns": npz(X=np.empty((12, 0)), y=Y),
    "no pixels": npz(X=np.empty((12, 0, 8)), y=Y),
    "scalar": npz(X=np.float32(1), y=Y),
    "five dimensions": npz(X=ramp(12, 2, 2, 2, 2), y=Y),
    "complex": npz(X=ramp(12, 4) * 1j, y=Y),
    "structured": npz(X=np.zeros(12, [("a", "f4")]), y=Y),
    "text": npz(X=np.array(["a"] * 12), y=Y),
    "dates": npz(X=ramp(12, 4), y=Y.astype("M8[s]")),
    "infinite cell": npz(X=np.where(np.arange(48).reshape(12, 4) == 9, np.inf, 1), y=Y),
    "cut zip": npz(X=ramp(12, 4), y=Y)[:-30],
    "sides differ": npz(x_train=ramp(12, 4), y_train=Y, x_test=ramp(12, 5), y_test=Y),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_bad_npz(write, refused, data):
    assert refused(write("a.npz", data)).code == 65


def test_errors_point_there(write, refused):
    assert "row 3, column 'x2'" in refused(write("a.npz", BAD["infinite cell"])).message
    x = ramp(12, 4, 4)
    x[7, 1, 1] = np.nan
    assert "row 8" in refused(write("b.npz", npz(X=x, y=Y))).message
    assert "'a', 'b'" in refused(write("c.npz", BAD["other names"])).message
    error = refused(write("d.npy", npy(x)))
    assert "(12, 4, 4)" in error.message and "savez" in error.hint


def test_a_zip_bomb_is_refused_by_its_declared_size(write, refused, monkeypatch):
    monkeypatch.setattr("dlkit.data.source.BOMB_BYTES", 1 << 20)
    monkeypatch.setattr("dlkit.data.source.BOMB_RATIO", 100)
    data = zipped(X=npy(np.zeros((1 << 22, 4), np.uint8)), y=npy(Y))
    assert "bomb" in refused(write("a.npz", data)).message


def damaged_files_are_bad_data_or_read(seed: int, count: int, path) -> None:
    """Mutations of good files end in a data set or in bad data, and in nothing else."""
    rng = np.random.default_rng(seed)
    good = [
        ("a.npz", npz(X=ramp(12, 4), y=Y)),
        ("b.npz", zipped(X=npy(ramp(12, 4, 4)), y=npy(Y.astype(str)))),
        ("c-images-idx3-ubyte", idx(ramp(12, 4, 4, dtype=np.uint8))),
    ]
    (path / "c-labels-idx1-ubyte").write_bytes(idx(Y.astype(np.uint8)))
    for _ in range(count):
        name, data = good[rng.integers(len(good))]
        data = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            # Headers matter more than values.
            at = rng.integers(len(data)) if rng.random() < 0.5 else rng.integers(min(len(data), 200))
            data[at] = rng.integers(256)
        (path / name).write_bytes(data[: rng.integers(len(data))] if rng.random() < 0.1 else data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                load(str(path / name), Reading(task="classification"))
            except DlkitError as error:
                assert error.code in (65, 66) and "\n" not in error.message


def test_damage(tmp_path):
    damaged_files_are_bad_data_or_read(0, 400, tmp_path)


@pytest.mark.slow
def test_damage_10000_times(tmp_path):
    damaged_files_are_bad_data_or_read(1, 10_000, tmp_path)


# ---------------------------------------------------------------- IDX


def idx(array: np.ndarray) -> bytes:
    code = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}[array.dtype.str[1:]]
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


def test_mnist(shared):

    path = shared("mnist10k-images-idx3-ubyte.gz")
    dataset = load(str(path))
    assert dataset.arrays.shape == (10000, 1, 28, 28) and dataset.arrays.dtype == np.uint8
    assert dataset.classes == tuple("0123456789") and dataset.name == "mnist10k"
    raw = gzip.decompress(path.read_bytes())
    assert dataset.arrays.ravel()[:100_000].tolist() == list(raw[16 : 16 + 100_000])
    labels = gzip.decompress(path.with_name("mnist10k-labels-idx1-ubyte.gz").read_bytes())
    assert dataset.labels.tolist() == list(labels[8:])


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("packed", [(False, False), (True, False), (False, True), (True, True)])
def test_idx(write, dtype, packed):
    images = ramp(12, 5, 6, dtype=dtype)
    pack = [gzip.compress if p else bytes for p in packed]
    path = write("t-images-idx3-ubyte" + ".gz" * packed[0], pack[0](idx(images)))
    write("t-labels-idx1-ubyte" + ".gz" * packed[1], pack[1](idx(Y.astype(np.uint8))))
    assert np.array_equal(load(path).arrays[:, 0], images)


def test_bad_idx(write, refused, tmp_path):
    images = idx(ramp(12, 5, 6, dtype=np.uint8))
    path = write("t-images-idx3-ubyte", images)
    error = refused(path)
    assert error.code == 66 and "t-labels-idx1-ubyte" in error.message
    write("t-labels-idx1-ubyte", idx(Y[:11].astype(np.uint8)))
    assert "12 images, and 11 labels" in refused(path).message
    for damaged in (images[:-1], images + b"x", images[:10], b"\0\0\x08\x03" + b"\xff" * 12):
        assert refused(write("t-images-idx3-ubyte", damaged)).code == 65
    assert refused(str(tmp_path / "t-labels-idx1-ubyte")).code == 65


@given(st.binary(max_size=40))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_no_array(data):
    from dlkit.data.arrays import parse_npy
    from dlkit.data.idx import parse_idx

    for parse, magic in ((parse_npy, b"\x93NUMPY\x01\x00"), (parse_idx, b"\0\0")):
        for content in (data, magic + data):
            try:
                assert parse("f", content).nbytes <= len(content)
            except DlkitError as error:
                assert error.code == 65
