"""Pairs of images, sets of features, class probabilities of generated images: each scored by its published formula."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.reading import Reading
from dlkit.core.result import Column, Result, Row
from dlkit.data import metrics
from dlkit.data.images import decode_whole, whole_pictures
from dlkit.data.infer import Inference
from dlkit.data.load import read_table
from dlkit.data.source import IMAGE_SUFFIXES, bare_name

WINDOWS = {"gaussian": (11, "Gaussian window, σ 1.5, 11×11"), "uniform": (7, "uniform window, 7×7, sample covariance")}


def images(first: str, second: str, window: str, data_range: float | None) -> Result:
    """PSNR and SSIM of two folders of images paired by file name, two images, or two arrays paired by row."""
    rows: list[Row] = []
    largest = 0.0
    for name, x, y, largest in _pairs(first, second, data_range):
        size = WINDOWS[window][0]
        if x.shape != y.shape:
            shapes = " and ".join("×".join(map(str, part.shape)) for part in (x, y))
            raise bad_data(f"{name}: images of different shapes, {shapes}")
        if min(x.shape[-2:]) < size:
            raise bad_data(f"{name}: {x.shape[-2]}×{x.shape[-1]} pixels; the window of SSIM is {size}×{size}")
        found = {"psnr": metrics.psnr(x, y, largest), "ssim": metrics.ssim(x, y, largest, window)}
        rows.append({"image": name, **found})
    mean = {name: float(np.mean([row[name] for row in rows])) for name in ("psnr", "ssim")}
    summary = {**mean, "rows": len(rows), "window": window, "data_range": largest}
    columns = [Column("image"), Column("psnr", "float", "PSNR (dB)"), Column("ssim", "float", "SSIM")]
    facts = [Column("psnr", "float", "mean PSNR (dB)"), Column("ssim", "float", "mean SSIM"), Column("rows", "int")]
    notes = [f"SSIM: K1 .01, K2 .03, {WINDOWS[window][1]}; values range over {largest:g}"]
    if any(row["psnr"] == float("inf") for row in rows):
        notes.append("equal images have no error: their PSNR is infinite, and so is the mean")
    return Result(columns, rows, summary, "ssim", facts, notes=notes)


def _pairs(first: str, second: str, said: float | None) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:
    """(name, C×H×W, C×H×W, range of values) of each pair."""
    if _is_pictures(first) and _is_pictures(second):
        yield from ((name, x, y, said or 255.0) for name, x, y in _files(Path(first), Path(second)))
        return
    a, b = (_images(path) for path in (first, second))
    if len(a) != len(b):
        raise bad_data(f"{first} has {len(a)} images, {second} has {len(b)}: they are paired by row")
    if said is None and not (a.dtype == b.dtype == np.uint8):
        said = 1.0
        if max(a.max(), b.max()) > 1 or min(a.min(), b.min()) < 0:
            raise DlkitError("--data-range is needed: how far the values of these images can lie apart")
    for row, (x, y) in enumerate(zip(a, b, strict=True)):
        yield f"row {row + 1}", x, y, said or 255.0


def _is_pictures(path: str) -> bool:
    return Path(path).is_dir() or bare_name(path)[1] in IMAGE_SUFFIXES


def _images(path: str) -> np.ndarray:
    arrays = read_table(path, Reading(), labelled=False).arrays
    if arrays is None:
        raise bad_data(f"{path}: no images: a folder of images, or an array N×H×W or N×C×H×W, is needed")
    return arrays


def _files(first: Path, second: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    a, b = whole_pictures(first), whole_pictures(second)
    if len(a) == len(b) == 1:
        (name, x), (_, y) = next(iter(a.items())), next(iter(b.items()))
        yield name, decode_whole(x), decode_whole(y)
        return
    for folder, found in ((first, a), (second, b)):
        if not found:
            raise bad_data(f"{folder}: no images in it")
    alone = sorted(a.keys() ^ b.keys())
    if alone:
        here, there = (first, second) if alone[0] in a else (second, first)
        raise bad_data(f"{there}: no {alone[0]}, which {here} has", "images are paired by their names")
    for name in a:
        yield name, decode_whole(a[name]), decode_whole(b[name])


def features(first: str, second: str, reading: Reading) -> Result:
    """Fréchet distance of two sets of features, each an array N×D or a table of numbers."""
    a, b = (numbers(path, reading) for path in (first, second))
    if a.shape[1] != b.shape[1]:
        raise bad_data(f"{first} has {a.shape[1]} features, {second} has {b.shape[1]}")
    for path, x in ((first, a), (second, b)):
        if len(x) < 2:
            raise bad_data(f"{path}: one row has no covariance")
    summary = {"frechet": metrics.frechet_distance(a, b), "rows": len(a), "other_rows": len(b), "features": a.shape[1]}
    row: Row = {"metric": "frechet", "value": summary["frechet"]}
    notes = ["Fréchet distance: |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½); with Inception-v3 features it is the FID"]
    fewest = min(len(a), len(b))
    if fewest <= a.shape[1]:
        notes.append(f"{fewest} rows are too few for {a.shape[1]} features: the distance comes out too large")
    columns, facts = [Column("metric"), Column("value", "float")], [Column("rows", "int"), Column("features", "int")]
    return Result(columns, [row], summary, "frechet", facts, notes=notes)


def inception(path: str, splits: int | None, reading: Reading) -> Result:
    """Inception score of class probabilities, N×K."""
    proba = numbers(path, reading)
    wrong = (proba < 0).any(1) | (np.abs(proba.sum(1) - 1) > 1e-3)
    if wrong.any():
        row = int(wrong.argmax()) + 1
        raise bad_data(f"{path}: row {row}: these are no probabilities that sum to 1", "of logits take the softmax")
    parts = splits or (10 if len(proba) >= 1000 else 1)
    if parts > len(proba):
        raise DlkitError(f"--splits {parts}: there are only {len(proba)} rows")
    mean, std = metrics.inception_score(proba / proba.sum(1, keepdims=True), parts)
    summary = {"inception_score": mean, "std": std, "splits": parts, "rows": len(proba), "classes": proba.shape[1]}
    rows: list[Row] = [{"metric": "inception_score", "value": mean, "std": std}]
    columns = [Column("metric"), Column("value", "float"), Column("std", "float")]
    facts = [Column(name, "int") for name in ("splits", "rows", "classes")]
    notes = ["inception score: exp of the mean KL(p(y|x) | p(y)), mean and deviation over splits of the rows in order"]
    return Result(columns, rows, summary, "inception_score", facts, notes=notes)


def numbers(path: str, reading: Reading) -> np.ndarray:
    """N×D float64 of a table in which every cell is a number."""
    table = read_table(path, reading, labelled=False)
    if table.arrays is not None:
        raise bad_data(f"{path}: images, where an array N×D is needed")
    inference = Inference(table.place, reading.na, table.is_text)
    columns = [_column(inference, cells) for cells in table.frame]
    return np.column_stack(columns)


def _column(inference: Inference, cells: pl.Series) -> np.ndarray:
    values = inference.column(cells, "numeric")
    if values is None or values.null_count():
        row = 0 if values is None else int(values.is_null().arg_max() or 0)
        raise inference.place.bad_cell(row, cells.name, None, "is not a number")
    return values.to_numpy().astype(np.float64)
