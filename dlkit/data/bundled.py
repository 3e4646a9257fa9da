"""The small sets that scikit-learn ships, read from its files: importing it would take a second."""

import gzip
import hashlib
import importlib.util
import io
from pathlib import Path

import numpy as np
import polars as pl

from dlkit.core.errors import DlkitError, ExitCode
from dlkit.data.dataset import Place
from dlkit.data.table import Table

CELL_PARTS = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
    "fractal dimension",
)
# name: its columns, the target apart
FEATURES: dict[str, tuple[str, ...]] = {
    "digits": (),
    "iris": ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"),
    "wine": (
        "alcohol",
        "malic_acid",
        "ash",
        "alcalinity_of_ash",
        "magnesium",
        "total_phenols",
        "flavanoids",
        "nonflavanoid_phenols",
        "proanthocyanins",
        "color_intensity",
        "hue",
        "od280/od315_of_diluted_wines",
        "proline",
    ),
    "breast_cancer": (
        *(f"mean {part}" for part in CELL_PARTS),
        *(f"{part} error" for part in CELL_PARTS),
        *(f"worst {part}" for part in CELL_PARTS),
    ),
    "diabetes": ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"),
}
NAMES = tuple(FEATURES)


def read_bundled(name: str) -> Table:
    """digits: images 1×8×8 with values 0 … 16; the others: tables (diabetes unscaled) with the column `target`."""
    if name == "digits":
        content = _content("digits.csv.gz")
        cells = np.loadtxt(io.BytesIO(content), np.uint8, delimiter=",")
        images = np.ascontiguousarray(cells[:, :-1]).reshape(-1, 1, 8, 8)
        labels = pl.Series("target", cells[:, -1])
        digest = hashlib.sha256(content).hexdigest()
        return Table(name, Place(name), pl.DataFrame([labels]), digest, arrays=images)
    return _diabetes() if name == "diabetes" else _classes(name)


def _classes(name: str) -> Table:
    """Files whose first line is: rows, columns, class names; and whose last column is the index of a class."""
    content = _content("wine_data.csv" if name == "wine" else f"{name}.csv")
    header, _, body = content.partition(b"\n")
    classes = header.decode().strip().split(",")[2:]
    cells = np.loadtxt(io.BytesIO(body), delimiter=",")
    target = [classes[int(index)] for index in cells[:, -1]]
    return _table(name, cells[:, :-1], pl.Series("target", target), content)


def _diabetes() -> Table:
    features, target = _content("diabetes_data_raw.csv.gz"), _content("diabetes_target.csv.gz")
    y = pl.Series("target", np.loadtxt(io.BytesIO(target)))
    return _table("diabetes", np.loadtxt(io.BytesIO(features)), y, features + target)


def _table(name: str, cells: np.ndarray, target: pl.Series, content: bytes) -> Table:
    columns = [pl.Series(column, cells[:, i].copy()) for i, column in enumerate(FEATURES[name])]
    return Table(name, Place(name), pl.DataFrame([*columns, target]), hashlib.sha256(content).hexdigest())


def _content(file: str) -> bytes:
    """A data file of the installed scikit-learn, decompressed."""
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "datasets", "data", file)
        if path.is_file():
            data = path.read_bytes()
            return gzip.decompress(data) if path.suffix == ".gz" else data
    raise DlkitError(
        f"the set is read from scikit-learn's files, and {file} is not there",
        "pip install scikit-learn",
        ExitCode.NO_DEPENDENCY,
    )
