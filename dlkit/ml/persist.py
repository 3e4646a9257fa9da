"""A fitted model as a file that runs no code when it is read, and as a predictor (PROMISES 7, 8).

The file is skops' archive of arrays and JSON. Every type in it must be on the list below; trees are arrays that are
checked before they are used; and a few rows are predicted again, to see that the model does what it did.
"""

import importlib
import io
import json
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import scipy.sparse as sp
import sklearn
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.svm import SVC, SVR

from dlkit import __version__
from dlkit.core import console
from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.run import Run, RunDirectory
from dlkit.data import strict
from dlkit.data.dataset import Rows
from dlkit.data.schema import Schema
from dlkit.data.source import refuse_bomb
from dlkit.ml import trees
from dlkit.ml.block import Block, Coding
from dlkit.ml.embedding import Embedding
from dlkit.ml.model import Model

MODEL, FACTS = "model.skops", "model.json"
FORMAT = 1
PROBES = 8
# What a probe's prediction may differ by, as a share of the largest: another BLAS rounds another way.
TOLERANCE = 1e-3

_TYPES = {
    "builtins": "dict int list str tuple",
    "dlkit.ml.block": "Layout",
    "dlkit.ml.features": "Features",
    "dlkit.ml.estimators": "Clusters Density KernelMachine MixedBayes Tempered",
    "numpy": "dtype float32 float64 int64 uint64 ndarray",
    "scipy.sparse._csr": "csr_array csr_matrix",
    "sklearn._loss._loss": "CyHalfBinomialLoss CyHalfMultinomialLoss CyHalfSquaredError",
    "sklearn._loss.link": "IdentityLink Interval LogitLink MultinomialLogit",
    "sklearn._loss.loss": "HalfBinomialLoss HalfMultinomialLoss HalfSquaredError",
    "sklearn.cluster._kmeans": "KMeans MiniBatchKMeans",
    "sklearn.compose._target": "TransformedTargetRegressor",
    "sklearn.decomposition._pca": "PCA",
    "sklearn.decomposition._truncated_svd": "TruncatedSVD",
    "sklearn.dummy": "DummyClassifier DummyRegressor",
    "sklearn.ensemble._forest": "ExtraTreesClassifier ExtraTreesRegressor RandomForestClassifier RandomForestRegressor",
    "sklearn.ensemble._hist_gradient_boosting.binning": "_BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting": (
        "HistGradientBoostingClassifier HistGradientBoostingRegressor"
    ),
    "sklearn.feature_extraction.text": "TfidfTransformer TfidfVectorizer",
    "sklearn.impute._base": "MissingIndicator SimpleImputer",
    "sklearn.kernel_approximation": "Nystroem",
    "sklearn.linear_model._logistic": "LogisticRegression",
    "sklearn.linear_model._ridge": "Ridge",
    "sklearn.mixture._gaussian_mixture": "GaussianMixture",
    "sklearn.model_selection._split": "KFold StratifiedKFold",
    "sklearn.naive_bayes": "CategoricalNB GaussianNB MultinomialNB",
    "sklearn.neighbors._classification": "KNeighborsClassifier",
    "sklearn.neighbors._regression": "KNeighborsRegressor",
    "sklearn.preprocessing._data": "StandardScaler",
    "sklearn.preprocessing._encoders": "OneHotEncoder OrdinalEncoder",
    "sklearn.preprocessing._label": "LabelEncoder",
    "sklearn.preprocessing._target_encoder": "TargetEncoder",
    "sklearn.svm._classes": "LinearSVC LinearSVR SVC SVR",
    "sklearn.tree._classes": "DecisionTreeClassifier DecisionTreeRegressor ExtraTreeClassifier ExtraTreeRegressor",
}
TYPES = frozenset(f"{module}.{name}" for module, names in _TYPES.items() for name in names.split())
"""All that a model's file may hold. Nothing else is imported or built, whatever skops itself would trust."""
LOADERS = (
    *("DictNode", "DTypeNode", "JsonNode", "ListNode", "LossNode"),
    *("NdArrayNode", "ObjectNode", "SparseMatrixNode", "TupleNode", "TypeNode"),
)
# What reading crafted bytes may raise, in zipfile, json, numpy, scipy, skops and scikit-learn.
DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError),
    *(NotImplementedError, RecursionError, TypeError, ValueError, struct.error, zipfile.BadZipFile),
    zipfile.LargeZipFile,
)


def _skops() -> ModuleType:
    """skops.io, which on its way looks into every package of scikit-learn. Some of these import torch and Dask where
    they are installed: two seconds that no classic model needs."""
    absent = [name for name in ("torch", "dask") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  None: not to be imported
    try:
        return importlib.import_module("skops.io")
    finally:
        for name in absent:
            del sys.modules[name]


def get_ready() -> None:
    """Load now what saving needs."""
    _skops()


# --- a model as bytes ------------------------------------------------------------------------------------------------


def dumps(model: Model, probes: Block) -> bytes:
    """The model, rows to try it on, and what it makes of them. The model is used up: its trees are taken out."""
    predictions = model.predict(probes)
    content = {"features": model.features, "estimator": model.estimator, "classes": model.classes}
    content["trees"] = trees.take_out(model.estimator)
    for part in trees.parts(model.estimator):
        if isinstance(part, KNeighborsClassifier | KNeighborsRegressor):
            part._tree = None  # built again from the rows
    content["probes"] = {"numbers": probes.numbers, "texts": list(probes.texts), "predictions": predictions}
    return bytes(_skops().dumps(content))


def loads(data: bytes, where: str) -> Model:
    """A model out of what `dumps` made. Anything else: bad data, in one line, without running anything."""
    try:
        _check_archive(where, data)
        content = _skops().loads(data, trusted=sorted(TYPES))
        return _assembled(content)
    except DAMAGE as failure:
        reason = " ".join(str(failure).split())[:120] or type(failure).__name__
        raise bad_data(f"{where}: this is no saved model, or a damaged one: {reason}") from None


def _assembled(content: Any) -> Model:
    names = {"features", "estimator", "classes", "trees", "probes"}
    if not isinstance(content, dict) or set(content) != names:
        raise ValueError("parts are missing")
    model = Model(content["features"], content["estimator"], content["classes"])
    trees.put_in(model.estimator, content["trees"])
    for part in trees.parts([model.features, model.estimator]):
        _check_part(part)
    probes = content["probes"]
    block = Block(np.asarray(probes["numbers"]), tuple(probes["texts"]))
    then, now = np.asarray(probes["predictions"], np.float64), model.predict(block)
    scale = max(float(np.abs(then).max(initial=0.0)), np.finfo(float).tiny)
    if now.shape != then.shape or not np.allclose(now, then, rtol=0, atol=TOLERANCE * scale):
        raise ValueError("it does not predict what it predicted when it was saved")
    return model


def _check_part(part: Any) -> None:
    """What compiled code would follow without a look: support vectors, sparse rows; and neighbours get their tree."""
    for value in vars(part).values():
        if sp.issparse(value):
            value.check_format(full_check=True)
    if isinstance(part, SVC | SVR):
        _check_machine(part)
    elif isinstance(part, KNeighborsClassifier):
        part.fit(part._fit_X, part.classes_[part._y])
    elif isinstance(part, KNeighborsRegressor):
        part.fit(part._fit_X, part._y)


def _check_machine(part: Any) -> None:
    vectors = part.support_vectors_.shape[0]
    classes = len(part.classes_) if isinstance(part, SVC) else 2
    fits = [
        part.support_vectors_.shape[1] == part.n_features_in_ == part.shape_fit_[1],
        part._dual_coef_.shape == part.dual_coef_.shape == (classes - 1, vectors),
        len(part.support_) == vectors,
        len(part._intercept_) == classes * (classes - 1) // 2,
        part.kernel in ("rbf", "poly"),
    ]
    if isinstance(part, SVC):  # a regression does not look at these
        counts = np.asarray(part._n_support)
        fits.append(len(counts) == classes and (counts >= 0).all() and counts.sum() == vectors)
    if not all(fits):
        raise ValueError("support vectors do not fit each other")


def _check_archive(where: str, data: bytes) -> None:
    """Members that are as large as they say, of listed types alone."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError("compressed, which dlkit's files are not")
            if member.filename.endswith(".npy"):
                with archive.open(member) as file:
                    _check_array(file, member.file_size)
            elif member.filename.endswith(".npz"):
                _check_nested(where, archive.read(member))
        for name, loader in _types(json.loads(archive.read("schema.json"))):
            if name not in TYPES or loader not in LOADERS:
                raise ValueError(f"it holds {name!r} ({loader}), which no model of dlkit does")


def _check_nested(where: str, data: bytes) -> None:
    """A sparse matrix, which scipy compresses."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            refuse_bomb(where, member.file_size, len(data))
            with archive.open(member) as file:
                _check_array(file, member.file_size)


def _check_array(file: Any, size: int) -> None:
    """An array's header may not promise more than the member holds: numpy would make room for it first."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    count = 1
    for length in shape:
        count *= int(length)
    if dtype.hasobject or min(shape, default=0) < 0 or count * dtype.itemsize > size:
        raise ValueError("an array that is not as large as it says")


def _types(node: Any) -> Iterator[tuple[str, str]]:
    """(type, loader) of every node of skops' schema."""
    if isinstance(node, dict):
        if "__class__" in node or "__loader__" in node:
            yield f"{node.get('__module__')}.{node.get('__class__')}", str(node.get("__loader__"))
        node = list(node.values())
    for child in node if isinstance(node, list) else ():
        yield from _types(child)


# --- a model in a run directory --------------------------------------------------------------------------------------


def probe_rows(count: int) -> np.ndarray:
    """Which of N rows a model is tried on when it is read."""
    return np.unique(np.linspace(0, count - 1, min(PROBES, count)).astype(np.int64))


def save(directory: RunDirectory, data: bytes, coding: Coding) -> None:
    """Write a model's file and the facts that go with it: config, schema and manifest are the caller's."""
    directory.write(MODEL, data)
    versions = {"scikit-learn": sklearn.__version__, "numpy": np.__version__, "dlkit": __version__}
    directory.write_json(FACTS, {"format": FORMAT, "versions": versions, "coding": coding.to_json()})


@dataclass(frozen=True)
class Baseline:
    """A saved classic model, as `eval` and `predict` use it (`data.predictor.Predictor`)."""

    schema: Schema
    coding: Coding
    model: Model
    embedding: Embedding | None = None

    @property
    def task(self) -> str:
        return self.schema.task

    def predict(self, rows: Rows) -> np.ndarray:
        """N×classes probabilities, or N values in the target's units."""
        return self.model.predict(self.block(rows))

    def block(self, rows: Rows) -> Block:
        """What the model is given of rows: their columns, or what a network makes of them."""
        if self.embedding is None:
            return self.coding.block(rows)
        numbers = self.embedding.numbers(rows)
        if numbers.shape[1] != self.coding.features:
            where, made = self.embedding.run.path, numbers.shape[1]
            raise bad_data(f"{where}: it makes {made} numbers of a row, and the model reads {self.coding.features}")
        return Block(numbers)


def load(run: Run, embedding: Embedding | None = None) -> Baseline:
    """The model of a run of `baseline`, which was opened checked: each file is what the manifest says.

    embedding  the network that it reads rows through (`embedding.network_within`), opened

    Damaged, or of a scikit-learn that this one cannot continue: exit code 65.
    """
    where = str(run.path / MODEL)
    facts = _facts(run)
    saved = str(facts["versions"].get("scikit-learn"))
    coding, schema = Coding.from_json(facts["coding"]), Schema.from_json(run.schema)
    try:
        model = loads(run.read(MODEL), where)
    except DlkitError as failure:
        if saved != sklearn.__version__:
            failure.hint = f"it was saved with scikit-learn {saved}, and this is {sklearn.__version__}"
        raise
    if embedding is not None and not embedding.schema.reads_as(schema):
        raise bad_data(f"{embedding.run.path}: not the network that the model in {run.path} was fitted behind")
    if model.classes != len(schema.classes):
        raise bad_data(f"{where}: it has {model.classes} classes, and the schema has {len(schema.classes)}")
    if saved != sklearn.__version__:
        same = f"its {PROBES} probe rows are predicted as they were"
        console.warn(f"{where}: saved with scikit-learn {saved}, read with {sklearn.__version__}: {same}")
    return Baseline(schema, coding, model, embedding)


def _facts(run: Run) -> Mapping[str, Any]:
    where = str(run.path / FACTS)
    try:
        facts = strict.members(json.loads(run.read(FACTS)), where, {"format", "versions", "coding"})
    except (ValueError, RecursionError):
        raise bad_data(f"{where}: damaged: it is not JSON") from None
    strict.check(facts["format"] == FORMAT, where, f"not of format {FORMAT}: written by another version?")
    strict.check(isinstance(facts["versions"], dict), where, "no versions")
    return facts
