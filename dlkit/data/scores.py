"""What `eval` answers: every metric that predictions allow, with bootstrap intervals, as a Result."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dlkit.core.result import Column, Result, Row
from dlkit.data import metrics

DRAWS = 1000
MOST_WORK, FEWEST = 20_000_000, 100
"""Rows (times classes) that all draws of a bootstrap may add up to; below FEWEST draws an interval says little."""
MOST_COLUMNS = 20
"""Classes of which the confusion table still fits beside the classes' scores."""

THRESHOLD = 0.5
"""A row is said to have a label whose probability is above this."""

Values = dict[str, float]
Counted = Callable[[np.ndarray], Values]
"""Metrics as a function of how often each of the N rows is there."""


def classified(truth: np.ndarray, predicted: np.ndarray, proba: np.ndarray | None, classes: Sequence[str]) -> Result:
    """`truth` and `predicted` N int64 indices into `classes`, `proba` N×K or None where only labels are known."""
    table = metrics.confusion(truth, predicted, len(classes))
    each = metrics.per_class(table)
    summary: dict[str, Any] = _labels(truth, predicted, len(classes))(np.ones(len(truth)))
    for name in ("precision", "recall", "f1"):
        summary |= {f"{name}_macro": each.macro(name), f"{name}_weighted": each.weighted(name)}
    if len(classes) == 2:
        summary |= {"positive": classes[1]} | {n: float(getattr(each, n)[1]) for n in ("precision", "recall", "f1")}
    counted = [_labels(truth, predicted, len(classes))]
    if proba is not None:
        counted.append(_probabilities(truth, proba))
        summary |= counted[1](np.ones(len(truth)))
        summary["calibration_error"] = metrics.calibration_error(truth, proba)
    work = len(truth) * (1 if proba is None or len(classes) == 2 else len(classes))
    summary |= _intervals(counted, len(truth), work)
    summary |= {"rows": len(truth), "classes": list(classes), "confusion": table.tolist()}
    columns, rows = _class_rows(classes, table, each)
    facts = [Column(name, kind) for name, kind in _FACTS.items() if name in summary]
    return Result(columns, rows, summary, "accuracy", facts, notes=_doubts(each, classes))


_FACTS: dict[str, Any] = {
    "accuracy": "share", "balanced_accuracy": "share", "f1_macro": "float", "auc": "float", "log_loss": "float",
    "brier": "float", "calibration_error": "float", "rows": "int",
}  # fmt: skip


def _labels(truth: np.ndarray, predicted: np.ndarray, classes: int) -> Counted:
    cell, size = truth * classes + predicted, classes * classes

    def value(counts: np.ndarray) -> Values:
        table = np.bincount(cell, counts, size).reshape(classes, classes)
        each = metrics.per_class(table)
        right = float(np.trace(table) / table.sum())
        return {
            "accuracy": right,
            "balanced_accuracy": metrics.balanced_accuracy(table),
            "f1_macro": each.macro("f1"),
        }

    return value


def _probabilities(truth: np.ndarray, proba: np.ndarray) -> Counted:
    losses, errors = metrics.log_losses(truth, proba), metrics.brier_errors(truth, proba)
    sides = [1] if proba.shape[1] == 2 else range(proba.shape[1])
    areas = [metrics.auc_of_counts(truth == k, proba[:, k]) for k in sides]

    def value(counts: np.ndarray) -> Values:
        total = counts.sum()
        auc = float(np.mean([area(counts) for area in areas]))
        return {"auc": auc, "log_loss": float(counts @ losses / total), "brier": float(counts @ errors / total)}

    return value


def _class_rows(classes: Sequence[str], table: np.ndarray, each: metrics.PerClass) -> tuple[list[Column], list[Row]]:
    """A row for each class; beside its scores, what its rows were taken for."""
    columns = [Column("class"), Column("rows", "int"), *(Column(n, "float") for n in ("precision", "recall", "f1"))]
    shown = len(classes) <= MOST_COLUMNS
    columns += [Column(f"as_{name}", "int", f"as {name}") for name in classes] if shown else []
    rows: list[Row] = []
    for i, name in enumerate(classes):
        scores = {n: float(getattr(each, n)[i]) for n in ("precision", "recall", "f1")}
        taken = {f"as_{other}": int(table[i, j]) for j, other in enumerate(classes)} if shown else {}
        rows.append({"class": name, "rows": int(each.support[i]), **scores, **taken})
    return columns, rows


def _doubts(each: metrics.PerClass, classes: Sequence[str]) -> list[str]:
    """Where 0/0 was called 0, and where a class that is not there leaves a metric without a value."""
    notes = []
    absent = [name for name, support in zip(classes, each.support, strict=True) if not support]
    if absent:
        notes.append(f"no row is {_few(absent)}: recall is 0/0 there and called 0; the AUC needs every class")
    never = [n for n, p, s in zip(classes, each.predicted, each.support, strict=True) if s and not p]
    if never:
        notes.append(f"no row is predicted as {_few(never)}: precision is 0/0 there and called 0")
    return notes


def _few(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")


def labelled(truth: np.ndarray, predicted: np.ndarray, proba: np.ndarray | None, names: Sequence[str]) -> Result:
    """`truth` and `predicted` N×K bool, `proba` N×K or None: each label alone, and all of them together.

    Macro is the plain mean over all labels; micro counts the cells of all as of one. 0/0 is 0 in both.
    """
    ones = np.ones(len(truth))
    counted = [_cells(truth, predicted), *([_label_probabilities(truth, proba)] if proba is not None else [])]
    each = metrics.per_label(truth, predicted)
    summary: dict[str, Any] = {name: value for metric in counted for name, value in metric(ones).items()}
    summary |= dict(zip(("precision_micro", "recall_micro"), metrics.micro(each)[:2], strict=True))
    summary |= {f"{name}_macro": float(getattr(each, name).mean()) for name in ("precision", "recall")}
    shown = {name: getattr(each, name) for name in ("precision", "recall", "f1")}
    if proba is not None:
        shown |= {name: [score(t, p) for t, p in zip(truth.T, proba.T, strict=True)] for name, score in _AREAS.items()}
        summary["average_precision_macro"] = float(np.mean(shown["average_precision"]))
        summary["calibration_error"] = metrics.label_calibration_error(truth, proba)
    rows: list[Row] = [
        {"label": name, "rows": int(each.support[i]), "predicted": int(each.predicted[i])}
        | {score: float(values[i]) for score, values in shown.items()}
        for i, name in enumerate(names)
    ]
    summary |= _intervals(counted, len(truth), truth.size)
    summary |= {"rows": len(truth), "labels": list(names)}
    headline = "f1_micro" if proba is None else "log_loss"
    columns = [Column("label"), *(Column(name, "int") for name in ("rows", "predicted"))]
    columns += [Column(name, "float") for name in shown]
    facts = [Column(name, kind) for name, kind in _LABEL_FACTS.items() if name in summary]
    return Result(columns, rows, summary, headline, facts, notes=_label_doubts(truth, predicted, names))


_AREAS = {"auc": metrics.auc, "average_precision": metrics.average_precision}
_LABEL_FACTS: dict[str, Any] = {
    "subset_accuracy": "share", "hamming_loss": "float", "f1_micro": "float", "f1_macro": "float", "auc_macro": "float",
    "average_precision_macro": "float", "log_loss": "float", "brier": "float", "calibration_error": "float",
    "rows": "int",
}  # fmt: skip


def _cells(truth: np.ndarray, predicted: np.ndarray) -> Counted:
    wrong = truth != predicted
    whole, cells = ~wrong.any(1), wrong.mean(1)

    def value(counts: np.ndarray) -> Values:
        each, total = metrics.per_label(truth, predicted, counts), counts.sum()
        return {
            "subset_accuracy": float(counts @ whole / total),
            "hamming_loss": float(counts @ cells / total),
            "f1_micro": metrics.micro(each)[2],
            "f1_macro": float(each.f1.mean()),
        }

    return value


def _label_probabilities(truth: np.ndarray, proba: np.ndarray) -> Counted:
    losses, errors = metrics.label_log_losses(truth, proba).mean(1), ((proba - truth) ** 2).mean(1)
    areas = [metrics.auc_of_counts(t, p) for t, p in zip(truth.T, proba.T, strict=True)]

    def value(counts: np.ndarray) -> Values:
        total = counts.sum()
        auc = float(np.mean([area(counts) for area in areas]))
        return {"auc_macro": auc, "log_loss": float(counts @ losses / total), "brier": float(counts @ errors / total)}

    return value


def _label_doubts(truth: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> list[str]:
    """Where 0/0 was called 0, and where a label that all rows have, or none, leaves a metric without a value."""
    notes = []
    constant = [name for name, shares in zip(names, truth.T, strict=True) if shares.all() or not shares.any()]
    if constant:
        notes.append(f"all rows or none are {_few(constant)}: no AUC there, and so no mean of them")
    never = [name for name, t, p in zip(names, truth.T, predicted.T, strict=True) if t.any() and not p.any()]
    if never:
        notes.append(f"no row is predicted as {_few(never)}: precision is 0/0 there and called 0")
    return notes


def regressed(truth: np.ndarray, predicted: np.ndarray) -> Result:
    """`truth` and `predicted` N float64 in the target's units."""

    def value(rows: np.ndarray) -> Values:
        y, x = truth[rows], predicted[rows]
        return {"rmse": metrics.rmse(y, x), "mae": metrics.mae(y, x), "r2": metrics.r2(y, x)}

    found = value(np.arange(len(truth)))
    low, high, draws = _bootstrap(value, len(truth), len(truth))
    summary: dict[str, Any] = dict(found)
    rows = []
    for i, (name, number) in enumerate(found.items()):
        summary |= {f"{name}_low": low[i], f"{name}_high": high[i]}
        rows.append({"metric": name, "value": number, "low": low[i], "high": high[i]})
    summary |= {"bootstrap": draws, "rows": len(truth)}
    columns = [Column("metric"), *(Column(name, "float") for name in ("value", "low", "high"))]
    notes = [] if len(np.unique(truth)) > 1 else ["the truth is one value in every row: R² has no meaning"]
    return Result(columns, rows, summary, "rmse", [Column("rows", "int")], notes=notes)


def _intervals(counted: list[Counted], rows: int, work: int) -> Values:
    """NAME_low and NAME_high, 95 %, of all that `counted` gives, and how many draws they rest on."""

    def value(drawn: np.ndarray) -> Values:
        counts = np.bincount(drawn, minlength=rows)
        return {name: number for metric in counted for name, number in metric(counts).items()}

    names = list(value(np.arange(rows)))
    low, high, draws = _bootstrap(value, rows, work)
    ends = {f"{name}_{side}": end[i] for i, name in enumerate(names) for side, end in (("low", low), ("high", high))}
    return {**ends, "bootstrap": draws}


def _bootstrap(value: Callable[[np.ndarray], Values], rows: int, work: int) -> tuple[list[float], list[float], int]:
    draws = min(DRAWS, max(MOST_WORK // work, FEWEST))
    low, high = metrics.bootstrap(lambda drawn: list(value(drawn).values()), rows, draws)
    return low.tolist(), high.tolist(), draws
