"""Promise 2: a disk that is full, or fails, at the n-th call that writes: the whole output or nothing, and one line."""

import builtins
import errno
import io
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support import Writing

from dlkit.core.run import open_run

CALLS = ("open", "mkdir", "replace", "rename", "fsync", "chmod", "symlink", "rmdir", "unlink")


class Faults:
    """Fails the n-th call that changes something under a folder; counts them all. `struck`: which one it was."""

    def __init__(self, monkeypatch, folder: Path, n: int, code: int) -> None:
        self.folder, self.count, self.n, self.code, self.struck = str(folder), 0, n, code, ""
        for name in CALLS:
            monkeypatch.setattr(os, name, self._failing(getattr(os, name), name))
        for module in (io, builtins):
            monkeypatch.setattr(module, "open", self._open(io.open))
        monkeypatch.setattr(pl.LazyFrame, "sink_parquet", self._sink(pl.LazyFrame.sink_parquet))

    def strike(self, name: str, where: object) -> None:
        if not self._within(where):
            return
        self.count += 1
        if self.count == self.n:
            self.struck = name
            named = (str(where),) if isinstance(where, str | os.PathLike) else ()
            raise OSError(self.code, os.strerror(self.code), *named)

    def _within(self, where: object) -> bool:
        if isinstance(where, int):
            where = os.readlink(f"/proc/self/fd/{where}")
        return os.path.abspath(os.fsdecode(where)).startswith(self.folder)

    def _failing(self, real, name):
        def call(*args, **named):
            if name != "open" or args[1] & (os.O_WRONLY | os.O_RDWR):
                self.strike(name, args[0])
            return real(*args, **named)

        return call

    def _open(self, real):
        def call(file, mode="r", *args, **named):
            if not isinstance(file, str | os.PathLike) or not set(mode) & set("wax+"):
                return real(file, mode, *args, **named)
            self.strike("open", file)
            return Writing(real(file, mode, *args, **named), lambda: self.strike("write", file), torn=True)

        return call

    def _sink(self, real):
        """Polars writes by itself: it fails before it has begun, or when a part is there."""

        def call(frame, path, *args, **named):
            if not isinstance(path, str | os.PathLike):  # into memory
                return real(frame, path, *args, **named)
            self.strike("open", path)
            done = real(frame, path, *args, **named)
            try:
                self.strike("write", path)
            except OSError:
                os.truncate(path, os.path.getsize(path) // 2)
                raise
            return done

        return call


@pytest.fixture
def prepared(inside, tmp_path):
    """Data of each kind, a run of each command that predicts, and files where some outputs will go."""
    from PIL import Image

    rng = np.random.default_rng(0)
    rows = [f"{rng.normal():.3f},{rng.normal():.3f},{'abc'[i % 3]},{i % 2}" for i in range(90)]
    (tmp_path / "t.csv").write_text("p,q,colour,y\n" + "\n".join(rows) + "\n")
    pl.read_csv(tmp_path / "t.csv").write_parquet(tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", X=rng.normal(size=(60, 3)), y=np.arange(60) % 2)
    for i in range(12):
        (tmp_path / "images" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / "ab"[i % 2] / f"{i}.png")
    assert inside("train", "t.csv", "linear:2", "--target", "y", "--epochs", "1", "--out", "net").code == 0
    for name in ("old.csv", "old.parquet"):
        (tmp_path / name).write_bytes(b"what was there before\n")
    return tmp_path


# `train` has its own: what it leaves is to be gone on with (tests/nn/test_survive.py).
COMMANDS = {
    "split": (["split", "t.csv", "--out", "sides"], "sides"),
    "split folds": (["split", "t.csv", "--folds", "3", "--out", "sides"], "sides"),
    "split column": (["split", "t.csv", "--column", "side", "--out", "sides"], "sides"),
    "split parquet": (["split", "t.parquet", "--out", "sides"], "sides"),
    "split npz": (["split", "t.npz", "--out", "sides"], "sides"),
    "split images": (["split", "images", "--out", "sides"], "sides"),
    "split links": (["split", "images", "--link", "--out", "sides"], "sides"),
    "predict csv": (["predict", "net", "t.csv", "--out", "old.csv"], "old.csv"),
    "predict gz": (["predict", "net", "t.csv", "--out", "new.jsonl.gz"], "new.jsonl.gz"),
    "predict parquet": (["predict", "net", "t.csv", "--out", "old.parquet"], "old.parquet"),
    "splitcheck weights": (["splitcheck", "t.csv", "t.csv", "--weights", "weights.csv"], "weights.csv"),
    "splitcheck plot": (["splitcheck", "t.csv", "t.csv", "--plot", "plot.svg"], "plot.svg"),
    "export": (["export", "net", "net.pt2"], "net.pt2"),
    "cluster": (
        ["cluster", "t.csv", "--k", "2", "--models", "kmeans", "--starts", "1", "--bootstrap", "0", "--out", "groups"],
        "groups",
    ),
    "baseline": (
        ["baseline", "t.npz", "--models", "bayes", "--tries", "1", "--budget", "60s", "--out", "base"],
        "base",
    ),
}


def content(path: Path) -> dict[str, bytes] | None:
    """The files of an output, or None where there is none."""
    if not os.path.lexists(path):
        return None
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def fails_at(inside, folder: Path, name: str, n: int, code: int, whole: set[str]) -> bool:
    """Fail the n-th call of a command; False where it has fewer. Puts everything back."""
    words, output = COMMANDS[name]
    path, beside = folder / output, {p: content(p) for p in folder.iterdir()}
    before = content(path)
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, folder, n, code)
        ran = inside(*words)
    after, where = content(path), (name, n, faults.struck, ran)
    clean_up(path, before)
    if not faults.struck:
        assert ran.code in (0, 1), where
        return False
    assert ran.code in (0, 1, 73, 74), where
    if ran.code in (73, 74):
        assert ran.err.count("dlkit: error:") == 1 and "Traceback" not in ran.err, where
        assert ran.out == "" or words[0] == "baseline", where  # a board's rows are shown as they come
    assert after == before or is_whole(after, whole), (where, after and after.keys())
    assert ran.code in (73, 74) or after != before, where
    left = [p for p in folder.iterdir() if p not in beside]
    if faults.struck not in ("unlink", "rmdir"):  # what cannot be taken away stays
        assert not left, (where, left)
    for stray in left:
        clean_up(stray, None)
    assert {p: content(p) for p in folder.iterdir()} == beside, where
    return True


def is_whole(found: dict[str, bytes] | None, names: set[str]) -> bool:
    return found is not None and found.keys() == names and all(found[name] or name.startswith(".") for name in names)


def clean_up(path: Path, before: dict[str, bytes] | None) -> None:
    """Put an output back as it was."""
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    for name, data in (before or {}).items():
        (path / name if name else path).write_bytes(data)


def untroubled(inside, folder: Path, name: str) -> set[str]:
    """The files that a command leaves when nothing fails."""
    words, output = COMMANDS[name]
    before = content(folder / output)
    assert inside(*words).code in (0, 1)
    found = content(folder / output)
    assert found and found != before
    if (folder / output / "manifest.json").exists():
        open_run(folder / output)
    clean_up(folder / output, before)
    return set(found)


@pytest.mark.parametrize("name", ["split", "predict csv", "predict parquet", "cluster"])
def test_faults_at_some_calls(inside, prepared, name):
    whole = untroubled(inside, prepared, name)
    for n, code in ((1, errno.EACCES), (3, errno.ENOSPC), (5, errno.EIO)):
        fails_at(inside, prepared, name, n, code, whole)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", COMMANDS)
def test_faults_at_every_call(inside, prepared, name):
    whole, n = untroubled(inside, prepared, name), 1
    while fails_at(inside, prepared, name, n, [errno.ENOSPC, errno.EIO][n % 2], whole):
        n += 1
    print("faults", name, n - 1)
    assert n > 3


def test_a_predictions_file_that_polars_could_not_finish_says_why(inside, prepared, monkeypatch):
    def full(*_, **__):
        raise pl.exceptions.ComputeError("No space left on device (os error 28)")

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", full)
    ran = inside("predict", "net", "t.csv", "--out", "old.parquet")
    assert ran.code == 74 and "cannot write old.parquet: no space left on device" in ran.err
    assert (prepared / "old.parquet").read_bytes() == b"what was there before\n"
