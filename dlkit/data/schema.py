"""What a model needs to know about its data, fitted on the training rows alone."""

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from dlkit.core.errors import bad_data
from dlkit.core.reading import MULTI_LABEL, TASKS
from dlkit.data import strict
from dlkit.data.dataset import Dataset, Rows
from dlkit.data.encode import Encoder, Scale, Text, encoder_from_json, encoder_to_json, fit_encoder, match_type
from dlkit.data.tokens import Tokens

FORMAT = 1
CHUNK_ROWS = 1024


@dataclass(frozen=True)
class Pixels:
    """The type of images, and mean and standard deviation of each channel, in the images' own units."""

    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class _Plain:
    """The fields of a schema that JSON holds as they are."""

    task: str
    target: str | None
    classes: tuple[str, ...]
    target_mean: float | None
    target_std: float | None
    input_shape: tuple[int, ...]


@dataclass(frozen=True)
class Schema(_Plain):
    """Columns, categories, classes and scales. `encoders` make a table's features, in order; images have `pixels`.

    values  of several targets, whose names `classes` then are, the words of rows without and of rows with each
    tokens  of a network of sequences, which reads one column of text, the only encoder's
    """

    encoders: tuple[Encoder, ...] = ()
    pixels: Pixels | None = None
    values: tuple[tuple[str, str], ...] = ()
    tokens: Tokens | None = None

    @property
    def about(self) -> str:
        """What is predicted, for a message."""
        return ", ".join(map(repr, self.classes)) if self.values else repr(self.target)

    @property
    def pixel_mean(self) -> tuple[float, ...] | None:
        return self.pixels.mean if self.pixels else None

    @property
    def pixel_std(self) -> tuple[float, ...] | None:
        return self.pixels.std if self.pixels else None

    @cached_property
    def features(self) -> tuple[str, ...]:
        """The names of a table's F features."""
        return tuple(name for encoder in self.encoders for name in encoder.features)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Column name -> where its features are."""
        stops = np.cumsum([len(encoder.features) for encoder in self.encoders]).tolist()
        pairs = zip(self.encoders, [0, *stops], stops, strict=False)
        return {encoder.column: slice(start, stop) for encoder, start, stop in pairs}

    def inputs(self, dataset: Rows, rows: np.ndarray | None = None) -> np.ndarray:
        """What a network reads: N×F float32 of a table; N×L int32 tokens of its column of text, PAD after their end;
        N×C×H×W as it is, uint8 or float32, of images.

        Columns are found by name. One that is missing, or holds what training did not: bad data.
        """
        if self.tokens:
            return self.tokens.encode(self._values(self.encoders[0], dataset, rows))
        return self._images(dataset, rows) if self.pixels else self._table(dataset, rows)

    def _table(self, dataset: Rows, rows: np.ndarray | None) -> np.ndarray:
        out = np.zeros((dataset.rows if rows is None else len(rows), len(self.features)), np.float32)
        for encoder in self.encoders:
            encoder.encode(self._values(encoder, dataset, rows), out[:, self.slices[encoder.column]])
        return out

    def _values(self, encoder: Encoder, dataset: Rows, rows: np.ndarray | None) -> pl.Series:
        """The cells of an encoder's column, in the type that it was fitted on."""
        if dataset.frame is None:
            raise bad_data(f"{dataset.source}: images, where a table with {len(self.encoders)} columns is needed")
        if encoder.column not in dataset.frame.columns:
            raise bad_data(f"{dataset.source}: no column {encoder.column!r}, which the model needs")
        values = dataset.frame[encoder.column]
        return match_type(encoder, dataset, values if rows is None else values.gather(rows), rows)

    def _images(self, dataset: Rows, rows: np.ndarray | None) -> np.ndarray:
        assert self.pixels is not None
        arrays = dataset.arrays
        needed = f"{_times(self.input_shape)} of {self.pixels.dtype}"
        if arrays is None:
            raise bad_data(f"{dataset.source}: a table, where images {needed} are needed")
        if arrays.shape[1:] != self.input_shape or arrays.dtype != self.pixels.dtype:
            found = f"{_times(arrays.shape[1:])} of {arrays.dtype}"
            raise bad_data(f"{dataset.source}: images are {found}, where {needed} are needed")
        return arrays if rows is None else arrays[rows]

    def reads_as(self, other: "Schema") -> bool:
        """Whether both read the same of a row, whatever they predict."""
        ours, theirs = ((one.input_shape, one.encoders, one.pixels, one.tokens) for one in (self, other))
        return ours == theirs

    def targets(self, dataset: Dataset, rows: np.ndarray | None = None) -> np.ndarray:
        """N int64 indices into `classes`, N float32 standardised values, or of several targets N×K float32 0 and 1."""
        if dataset.task != self.task:
            raise bad_data(f"{dataset.source}: the target makes a {dataset.task}, where {self.task} was trained")
        labels = dataset.labels if rows is None else dataset.labels[rows]
        if self.task == "regression":
            assert self.target_mean is not None and self.target_std is not None
            return ((labels - self.target_mean) / self.target_std).astype(np.float32)
        if self.task == MULTI_LABEL:
            return labels.astype(np.float32)
        index = {name: i for i, name in enumerate(self.classes)}
        unknown = [name for name in dataset.classes if name not in index]
        if unknown:
            raise bad_data(f"{dataset.source}: the class {unknown[0]!r} was not there in training")
        position = np.array([index[name] for name in dataset.classes], np.int64)
        return np.asarray(position[labels])

    def unscale(self, predictions: np.ndarray) -> np.ndarray:
        """A regression's outputs in the target's units, float64."""
        assert self.target_mean is not None and self.target_std is not None
        return np.asarray(predictions, np.float64) * self.target_std + self.target_mean

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, in full precision: `from_json` gives back an equal schema."""
        return {
            "format": FORMAT,
            **{field.name: _plain(getattr(self, field.name)) for field in fields(_Plain)},
            "columns": [encoder_to_json(encoder) for encoder in self.encoders],
            "pixels": self.pixels and {name: _plain(value) for name, value in asdict(self.pixels).items()},
            **({"values": [list(pair) for pair in self.values]} if self.values else {}),
            **({"tokens": self.tokens.to_json()} if self.tokens else {}),
        }

    @classmethod
    def from_json(cls, data: object) -> "Schema":
        """A schema out of what `to_json` made; anything else is bad data."""
        where = "schema"
        names = {field.name for field in fields(_Plain)} | {"format", "columns", "pixels"}
        several = isinstance(data, dict) and data.get("task") == MULTI_LABEL
        more = ({"values"} if several else set()) | (
            {"tokens"} if isinstance(data, dict) and "tokens" in data else set()
        )
        values = dict(strict.members(data, where, names | more))
        words = strict.value(tuple[tuple[str, ...], ...], values.pop("values", []), f"{where}: values")
        strict.check(values.pop("format") == FORMAT, where, f"not of format {FORMAT}: written by another version?")
        columns, pixels, texts = values.pop("columns"), values.pop("pixels"), values.pop("tokens", None)
        strict.check(isinstance(columns, list), where, "columns is not a list")
        encoders = tuple(encoder_from_json(column, f"{where}: column {i}") for i, column in enumerate(columns, 1))
        plain = strict.read(_Plain, values, where)
        images = None if pixels is None else strict.read(Pixels, pixels, f"{where}: pixels")
        tokens = Tokens.from_json(texts, f"{where}: tokens") if "tokens" in more else None
        schema = cls(**vars(plain), encoders=encoders, pixels=images, values=words, tokens=tokens)
        schema._check()
        return schema

    def _check(self) -> None:
        """What the types alone do not say."""
        where, shape, pixels = "schema", self.input_shape, self.pixels
        is_regression = self.task == "regression"
        strict.check(self.task in TASKS, where, f"no such task as {self.task!r:.40}")
        strict.check(is_regression == (self.target_std is not None), where, "target_std does not fit the task")
        strict.check(is_regression == (self.target_mean is not None), where, "target_mean does not fit the task")
        strict.check((self.target_std or 1) > 0, where, "target_std is not positive")
        unique = len(set(self.classes)) == len(self.classes)
        strict.check(unique and is_regression == (len(self.classes) < 2), where, "classes do not fit the task")
        if self.task == MULTI_LABEL:
            pairs = all(len(set(pair)) == len(pair) == 2 for pair in self.values)
            paired = pairs and len(self.values) == len(self.classes) and self.target is None
            strict.check(paired, where, "values do not fit the labels")
        strict.check(len(self.slices) == len(self.encoders), where, "a column is there twice")
        if self.tokens:
            one = len(self.encoders) == 1 and isinstance(self.encoders[0], Text) and pixels is None
            strict.check(one and shape == (self.tokens.context,), where, "tokens are not those of one column of text")
            return
        if pixels is None:
            fits = shape == (len(self.features),) and len(self.encoders) > 0
            strict.check(fits, where, "input_shape does not fit the columns")
            return
        strict.check(not self.encoders, where, "both columns and pixels")
        strict.check(len(shape) == 3 and min(shape) > 0, where, "input_shape is not C×H×W")
        strict.check(pixels.dtype in ("uint8", "float32"), where, f"no images of {pixels.dtype!r:.40}")
        strict.check(len(pixels.mean) == len(pixels.std) == shape[0], where, "pixels do not fit input_shape")
        strict.check(min(pixels.std) > 0, where, "a pixel std is not positive")


def fit_schema(dataset: Dataset, rows: np.ndarray, texts: bool = False, columns: Schema | None = None) -> Schema:
    """Learn columns, categories and scales from `rows`; no other row has any influence.

    texts    columns of text are listed too, without features: for models that read them as they are
    columns  whose columns and pixels are taken as they are: only the target is fitted
    """
    common = _of_target(dataset, rows)
    if columns is not None:
        return Schema(*common, columns.input_shape, columns.encoders, columns.pixels, dataset.values, columns.tokens)
    if dataset.arrays is not None:
        pixels = _fit_pixels(dataset.arrays, rows)
        return Schema(*common, dataset.arrays.shape[1:], pixels=pixels, values=dataset.values)
    assert dataset.frame is not None
    train = dataset.frame[rows]
    fitted = (fit_encoder(column, train[column.name], texts) for column in dataset.columns)
    encoders = tuple(encoder for encoder in fitted if encoder)
    if not encoders:
        raise bad_data(f"{dataset.source}: every column has one value on the training side: nothing to learn from")
    width = sum(len(encoder.features) for encoder in encoders)
    return Schema(*common, (width,), encoders, values=dataset.values)


def text_schema(dataset: Dataset, rows: np.ndarray, column: str, tokens: Tokens) -> Schema:
    """The schema of a network that reads one column of text alone; the target's part is fitted on `rows`."""
    return Schema(*_of_target(dataset, rows), (tokens.context,), (Text(column),), values=dataset.values, tokens=tokens)


def _of_target(
    dataset: Dataset, rows: np.ndarray
) -> tuple[str, str | None, tuple[str, ...], float | None, float | None]:
    """(task, target, classes, mean, standard deviation): the mean and deviation of a regression."""
    mean = std = None
    if dataset.task == "regression":
        scale = Scale.fit(dataset.labels[rows], f"{dataset.source}: the target {dataset.target!r}")
        mean, std = (scale.mean, scale.std) if scale else (float(dataset.labels[rows][0]), 1.0)
    return dataset.task, dataset.target, dataset.classes, mean, std


def _fit_pixels(arrays: np.ndarray, rows: np.ndarray) -> Pixels:
    """Exact for bytes, whose values are counted; float64 sums otherwise. A channel of one value has std 1."""
    chunks = [rows[i : i + CHUNK_ROWS] for i in range(0, len(rows), CHUNK_ROWS)]
    moments = _byte_moments if arrays.dtype == np.uint8 else _float_moments
    found = [moments(arrays[:, channel], chunks) for channel in range(arrays.shape[1])]
    mean, std = zip(*((float(m), float(s) if s > 0 else 1.0) for m, s in found), strict=True)
    return Pixels(str(arrays.dtype), mean, std)


def _byte_moments(channel: np.ndarray, chunks: list[np.ndarray]) -> tuple[float, float]:
    counts = np.sum([np.bincount(channel[rows].ravel(), minlength=256) for rows in chunks], axis=0)
    values = np.arange(256)
    mean = (counts * values).sum() / counts.sum()
    return mean, np.sqrt((counts * (values - mean) ** 2).sum() / counts.sum())


def _float_moments(channel: np.ndarray, chunks: list[np.ndarray]) -> tuple[float, float]:
    size = sum(len(rows) for rows in chunks) * channel[0].size
    mean = sum(channel[rows].sum(dtype=np.float64) for rows in chunks) / size
    return mean, np.sqrt(sum(((channel[rows] - mean) ** 2).sum(dtype=np.float64) for rows in chunks) / size)


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
