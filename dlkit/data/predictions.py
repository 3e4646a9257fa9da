"""A file of predictions from anywhere, scored: classes, values, rankings, log-probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.reading import Reading, check_column
from dlkit.core.result import Column, Result, Row
from dlkit.data import metrics, scores
from dlkit.data.infer import Inference
from dlkit.data.labels import label_matrix, pair_of
from dlkit.data.load import read_table
from dlkit.data.table import Table
from dlkit.data.target import ABSENT, UNKNOWN, class_indices, encode_classes, infer_task


@dataclass(frozen=True)
class Named:
    """The columns of a predictions file that mean something, as the command line names them.

    truth     what is true: classes, values, or with `query` relevances
    pred      what was predicted: classes, values, or with `query` scores
    proba     the prefix of the columns of class probabilities (`p_` + class), or the column of the second class alone
    query     rows of one value are one query's documents: a ranking
    log_prob  natural logarithms of the probabilities of what came: perplexity
    truths    two columns or more, then without `truth`: labels. `pred` and `proba` are prefixes (prediction_, p_) then
    """

    truth: str | None = None
    pred: str | None = None
    proba: str | None = None
    query: str | None = None
    log_prob: str | None = None
    gain: str = "linear"
    at: int | None = None
    truths: tuple[str, ...] = ()

    def check(self) -> None:
        """What goes with rankings alone is refused elsewhere. Several truths are labels, which are no ranking and no
        values; DlkitError where something else is said."""
        for option, said in (("gain", self.gain != "linear"), ("at", self.at is not None)):
            if said and self.query is None:
                raise DlkitError(f"--{option} is for rankings", "--query COLUMN says which rows are one")
        twice = next((name for i, name in enumerate(self.truths) if name in self.truths[:i]), None)
        if twice is not None:
            raise DlkitError(f"--truth {twice} is given twice")
        for option, value in (("query", self.query), ("log-prob", self.log_prob)):
            if self.truths and value is not None:
                raise DlkitError(f"--{option} takes one --truth at most; got {len(self.truths)}")


def scored(source: str, named: Named, reading: Reading) -> Result:
    """The metrics of a file of predictions. A column that is not there: exit code 2; a bad cell: 65."""
    named.check()
    if named.truths and reading.task == "regression":
        raise DlkitError(f"--task regression takes one --truth; got {len(named.truths)}")
    file = _File(read_table(source, replace(reading, task=None), labelled=False), reading)
    if named.truths:
        return _of_labels(file, named)
    if named.log_prob is not None:
        return _of_log_probabilities(file, named.log_prob)
    if named.truth is None:
        raise DlkitError("--truth is needed: which column says what is true?", f"columns: {', '.join(file.names[:20])}")
    truth = file.typed("truth", named.truth)
    kept = truth.is_not_null().to_numpy()
    if not kept.any():
        raise bad_data(f"{source}: every cell of {named.truth!r} is missing")
    if named.query is not None:
        return _of_rankings(file, named)
    if (reading.task or infer_task(truth.drop_nulls())) == "classification":
        result = _of_classes(file, named, kept)
    else:
        y = file.numbers("truth", named.truth, kept)
        result = scores.regressed(y, file.numbers("pred", _needed(named), kept))
    if not kept.all():
        result.notes.insert(0, f"left out {int((~kept).sum())} rows whose {named.truth!r} is missing")
    return result


def _needed(named: Named) -> str:
    if named.pred is None:
        raise DlkitError("--pred is needed: which column was predicted?")
    return named.pred


class _File:
    """A table whose columns are asked for by option, so that a message can say which option is wrong."""

    def __init__(self, table: Table, reading: Reading) -> None:
        if table.arrays is not None:
            raise bad_data(f"{table.place.source}: images, where a table of predictions is needed")
        self.table, self.names = table, table.frame.columns
        self.inference = Inference(table.place, reading.na, table.is_text)

    def cells(self, option: str, name: str) -> pl.Series:
        check_column(self.table.place.source, option, name, self.names)
        return self.table.frame[name]

    def typed(self, option: str, name: str, role: str | None = None) -> pl.Series:
        """A column as numbers, or as text where it is not only numbers."""
        values = self.inference.column(self.cells(option, name), role, lenient=True)
        if values is None or values.dtype == pl.Datetime:
            held = "dates" if values is not None else "lists or bytes"
            raise bad_data(f"{self.table.place.source}: column {name!r} holds {held}: no classes and no numbers")
        return values

    def numbers(self, option: str, name: str, kept: np.ndarray | None = None) -> np.ndarray:
        """The kept rows of a column, float64; a missing cell there is an error that names it."""
        values = np.asarray(self.typed(option, name, "numeric").to_numpy(), np.float64)
        self._there(np.isnan(values), name, kept)
        return np.asarray(values if kept is None else values[kept])

    def _there(self, absent: np.ndarray, name: str, kept: np.ndarray | None) -> None:
        absent = absent if kept is None else absent & kept
        if absent.any():
            where = self.table.place.where(int(absent.argmax()))
            raise bad_data(f"{self.table.place.source}: {where}, column {name!r}: nothing is there")

    def classes(self, option: str, name: str, classes: tuple[str, ...], kept: np.ndarray) -> np.ndarray:
        """The kept rows of a column as indices into `classes`."""
        values = self.typed(option, name, "categorical")
        found = class_indices(values, classes)
        self._there(found == ABSENT, name, kept)
        if (wrong := (found == UNKNOWN) & kept).any():
            row = int(wrong.argmax())
            said = " or ".join(map(repr, classes))
            raise self.table.place.bad_cell(row, name, values[row], f"is not {said}")
        return np.asarray(found[kept])

    def shares(self, name: str, kept: np.ndarray) -> np.ndarray:
        """The kept rows of a column of probabilities, float64."""
        values = self.numbers("proba", name, kept)
        wrong = (values < 0) | (values > 1)
        if wrong.any():
            row = int(np.flatnonzero(kept)[wrong.argmax()])
            raise self.table.place.bad_cell(row, name, values[wrong.argmax()], "is no probability: those are 0 to 1")
        return values

    def probabilities(self, names: list[str], kept: np.ndarray) -> np.ndarray:
        """N×K that sum to 1, from one column a class or from that of the second of two alone."""
        proba = np.column_stack([self.numbers("proba", name, kept) for name in names])
        if proba.shape[1] == 1:
            proba = np.column_stack([1 - proba[:, 0], proba[:, 0]])
        wrong = (proba < 0).any(1) | (np.abs(proba.sum(1) - 1) > 1e-3)
        if wrong.any():
            row = int(np.flatnonzero(kept)[wrong.argmax()])
            shown = ", ".join(f"{p:.4g}" for p in proba[wrong.argmax()][:6])
            message = f"{self.table.place.source}: {self.table.place.where(row)}: {shown} are no probabilities"
            raise bad_data(message, "they lie between 0 and 1, and those of a row sum to 1")
        return np.asarray(proba / proba.sum(1, keepdims=True))


def _of_classes(file: _File, named: Named, kept: np.ndarray) -> Result:
    assert named.truth is not None
    cells = [file.typed("truth", named.truth, _text_like(file, "truth", named.truth))]
    if named.pred is not None:
        cells.append(file.typed("pred", named.pred, _text_like(file, "pred", named.pred)))
    prefixed = _prefixed(file, named)
    names = {name for values in cells for name in encode_classes(values.drop_nulls())[0]} | set(prefixed)
    classes, _ = encode_classes(pl.Series(sorted(names)))
    truth = file.classes("truth", named.truth, classes, kept)
    proba = _proba(file, named, classes, prefixed, kept)
    if named.pred is not None:
        predicted = file.classes("pred", named.pred, classes, kept)
    elif proba is not None:
        predicted = proba.argmax(1)
    else:
        raise DlkitError("--pred or --proba is needed: what was predicted?")
    return scores.classified(truth, predicted, proba, classes)


def _text_like(file: _File, option: str, name: str) -> str | None:
    """Classes that are numbers are read as numbers (1.0 is 1); what has any other cell is text."""
    values = file.typed(option, name)
    return None if values.dtype == pl.Float64 else "categorical"


def _prefixed(file: _File, named: Named) -> dict[str, str]:
    """Class -> column of its probability, for the columns whose name begins with the prefix."""
    prefix = "p_" if named.proba is None else named.proba
    if prefix in file.names:
        return {}
    found = {name.removeprefix(prefix): name for name in file.names if name.startswith(prefix) and name != prefix}
    if named.proba is not None and len(found) < 2:
        check_column(file.table.place.source, "proba", named.proba, file.names)
    return found


def _proba(
    file: _File, named: Named, classes: tuple[str, ...], prefixed: dict[str, str], kept: np.ndarray
) -> np.ndarray | None:
    """N×K, or None where the file has no probabilities, or by chance columns that begin so for a few classes."""
    if named.proba is not None and named.proba in file.names:
        if len(classes) != 2:
            raise DlkitError(f"--proba {named.proba}: one column is enough for two classes; there are {len(classes)}")
        return file.probabilities([named.proba], kept)
    if set(prefixed) == set(classes):
        return file.probabilities([prefixed[name] for name in classes], kept)
    if named.proba is not None:
        absent = min(set(classes) - set(prefixed))
        raise DlkitError(f"--proba {named.proba}: there is no column {named.proba + absent!r}")
    return None


def _of_labels(file: _File, named: Named) -> Result:
    """Several labels, by the names that `predict` gives its columns: prediction_LABEL and p_LABEL."""
    place = file.table.place
    truths = [file.typed("truth", name, _text_like(file, "truth", name)) for name in named.truths]
    pairs = [pair_of(place.source, cells) for cells in truths]
    truth, kept = label_matrix(place, truths, pairs)
    proba = None
    if (columns := _of_each(file, "proba", named.proba, "p_", named.truths)) is not None:
        proba = np.column_stack([file.shares(name, kept) for name in columns])
    if (columns := _of_each(file, "pred", named.pred, "prediction_", named.truths)) is not None:
        each = zip(columns, pairs, strict=True)
        predicted = np.column_stack([file.classes("pred", name, pair, kept) for name, pair in each]) == 1
    elif proba is not None:
        predicted = proba > scores.THRESHOLD
    else:
        absent = f"prediction_{named.truths[0]}"
        raise DlkitError(f"--pred or --proba is needed: {place.source} has no columns {absent!r} and so on")
    result = scores.labelled(truth, predicted, proba, named.truths)
    if not kept.all():
        result.notes.insert(0, f"left out {int((~kept).sum())} rows without labels")
    return result


def _of_each(file: _File, option: str, prefix: str | None, usual: str, labels: Sequence[str]) -> list[str] | None:
    """The column of each label; None where the file has not all of them and no `prefix` was said."""
    columns = [f"{usual if prefix is None else prefix}{label}" for label in labels]
    absent = next((name for name in columns if name not in file.names), None)
    if absent is None:
        return columns
    if prefix is not None:
        check_column(file.table.place.source, option, absent, file.names)
    return None


def _of_rankings(file: _File, named: Named) -> Result:
    assert named.truth is not None and named.query is not None
    relevance, score = file.numbers("truth", named.truth), file.numbers("pred", _needed(named))
    most = 60.0 if named.gain == "exponential" else np.inf
    wrong = (relevance < 0) | (relevance > most)
    if wrong.any():
        row = int(wrong.argmax())
        problem = "is no relevance: 0 is none" + (", and 60 the most" if np.isfinite(most) else "")
        raise file.table.place.bad_cell(row, named.truth, relevance[row], problem)
    query = file.typed("query", named.query, "categorical").fill_null("")
    names, index = encode_classes(query)
    order = np.argsort(index, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(index[order])) + 1)
    rows: list[Row] = [
        {
            "query": name,
            "documents": len(group),
            "relevant": int((relevance[group] > 0).sum()),
            "ndcg": metrics.ndcg(relevance[group], score[group], named.gain, named.at),
            "reciprocal_rank": metrics.reciprocal_rank(relevance[group], score[group]),
        }
        for name, group in zip(names, groups, strict=True)
    ]
    values = np.array([[row["ndcg"], row["reciprocal_rank"]] for row in rows])
    summary = _means(values, ["ndcg", "mrr"])
    summary |= {"gain": named.gain, "at": named.at, "queries": len(rows), "rows": len(relevance)}
    nothing = sum(not row["relevant"] for row in rows)
    depth = f"nDCG@{named.at}" if named.at else "nDCG"
    notes = [f"{depth}: {named.gain} gain over log2(rank + 1); equal scores share the mean of their ranks"]
    notes += [f"{nothing} queries have no relevant row and count as 0"] if nothing else []
    columns = [Column("query"), Column("documents", "int"), Column("relevant", "int")]
    columns += [Column("ndcg", "float"), Column("reciprocal_rank", "float")]
    facts = [Column("ndcg", "float", depth), Column("mrr", "float", "MRR"), Column("queries", "int")]
    return Result(columns, rows, summary, "ndcg", facts, notes=notes)


def _of_log_probabilities(file: _File, name: str) -> Result:
    values = file.numbers("log-prob", name)
    if (values > 0).any():
        row = int((values > 0).argmax())
        raise file.table.place.bad_cell(row, name, values[row], "is no log-probability: those are 0 at most")
    draws = min(scores.DRAWS, max(scores.MOST_WORK // len(values), scores.FEWEST))
    low, high = metrics.bootstrap(lambda rows: metrics.perplexity(values[rows]), len(values), draws)
    loss = float(-values.mean())
    found = metrics.perplexity(values)
    summary = {"perplexity": found, "perplexity_low": low, "perplexity_high": high, "log_loss": loss}
    summary |= {"bits": loss / float(np.log(2)), "bootstrap": draws, "rows": len(values)}
    columns = [Column("metric"), *(Column(end, "float") for end in ("value", "low", "high"))]
    facts = [Column("log_loss", "float"), Column("bits", "float", "bits a token"), Column("rows", "int")]
    notes = ["perplexity: exp of the mean negative log-probability, natural logarithms"]
    rows: list[Row] = [{"metric": "perplexity", "value": found, "low": low, "high": high}]
    return Result(columns, rows, summary, "perplexity", facts, notes=notes)


def _means(values: np.ndarray, names: list[str]) -> dict[str, object]:
    """Mean of each column with its bootstrap interval over rows."""
    draws = min(scores.DRAWS, max(scores.MOST_WORK // len(values), scores.FEWEST))
    low, high = metrics.bootstrap(lambda rows: values[rows].mean(0), len(values), draws)
    found: dict[str, object] = {"bootstrap": draws}
    for i, name in enumerate(names):
        found |= {name: float(values[:, i].mean()), f"{name}_low": float(low[i]), f"{name}_high": float(high[i])}
    return found
