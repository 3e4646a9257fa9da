"""What `cluster` answers: the curve that chose, what the clusters are like, and a run that `predict` reads."""

import json
import platform
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import sklearn

from dlkit import __version__
from dlkit.core import console, draw, units
from dlkit.core.clustering import Clustering
from dlkit.core.errors import bad_data
from dlkit.core.result import Column, Result, Row
from dlkit.core.run import RunDirectory
from dlkit.data import metrics
from dlkit.data.images import Files
from dlkit.ml import persist
from dlkit.ml.block import Block
from dlkit.ml.cluster import (
    EM_ROWS,
    RIDGE,
    SAMPLE,
    Fit,
    Job,
    Sample,
    Stability,
    by_size,
    choose,
    jobs,
    make_sample,
    search,
    stability,
)
from dlkit.ml.engine import open_engine
from dlkit.ml.estimators import Clusters
from dlkit.ml.model import Model
from dlkit.ml.space import Space, make_space

MOST_SHOWN = 6
"""Columns of centres that a terminal shows: those that tell clusters apart best."""


@dataclass(frozen=True, eq=False)
class Found:
    """The chosen model and what is known of its clusters, numbered from the largest.

    labels  N cluster indices
    proba   N×K of a mixture; None for K-means, where a row belongs to one cluster alone
    tells   column -> how far it tells clusters apart, 0 … 1: the share of its variance that lies between them (η²), or
            for categories Cramér's V²
    """

    fit: Fit
    criterion: str
    labels: np.ndarray
    proba: np.ndarray | None
    stability: Stability | None
    tells: dict[str, float]
    centres: list[dict[str, Any]]

    @property
    def sizes(self) -> np.ndarray:
        return np.bincount(self.labels, minlength=self.fit.job.k)


def cluster(options: Clustering, out: str | None) -> Result:
    """Fit every model, choose one, describe its clusters and save it."""
    RunDirectory.check_free(out)
    space = make_space(options.data, options.reading, options.scale, options.seed)
    for text in space.notes:
        console.note(text)
    todo, sample = jobs(options, space.x), make_sample(space.x, options.seed)
    directory = RunDirectory.create(out, f"{space.dataset.name}-cluster")
    try:
        fits, found = _find(options, space, todo, sample)
        result = _result(options, space, fits, found, directory)
        _save(options, directory, space, fits, found)
    except BaseException:
        directory.discard()
        raise
    return result


def _find(options: Clustering, space: Space, todo: Sequence[Job], sample: Sample) -> tuple[list[Fit], Found]:
    fits: list[Fit] = []
    with open_engine() as engine, console.progress(len(todo) + 1, "fitting", "fit") as bar:
        for one in search(engine, todo, space.x, sample, options):
            fits.append(one)
            bar.advance()
            bar.describe(f"{one.job.model} k={one.job.k}")
        chosen, criterion = _choose(options, fits)
        by_size(chosen, space.x)
        bar.describe("bootstrap")
        steady = stability(engine, chosen, space.x, options.resamples, options.seed) if options.resamples else None
    return fits, _describe(space, chosen, criterion, steady)


def _choose(options: Clustering, fits: Sequence[Fit]) -> tuple[Fit, str]:
    """The model that the criterion prefers. Where EM's covariances all collapsed, the silhouette decides instead."""
    wanted = options.criterion or ("bic" if "em" in options.models else "silhouette")
    found = [(choose(fits, criterion), criterion) for criterion in dict.fromkeys((wanted, "silhouette", "bic"))]
    known = [(fit, criterion) for fit, criterion in found if fit is not None]
    if not known:
        reason = next((fit.failed for fit in fits if fit.failed), "every row is in one cluster")
        raise bad_data(f"{options.data}: no model could be fitted: {reason}")
    return next((pair for pair in known if pair[0].is_sound), known[0])


def _describe(space: Space, fit: Fit, criterion: str, steady: Stability | None) -> Found:
    proba = fit.estimator.predict_proba(space.x) if fit.job.form else None
    labels = fit.estimator.predict(space.x) if proba is None else proba.argmax(1)
    frame = space.dataset.frame
    columns = [] if frame is None else [frame[encoder.column] for encoder in space.schema.encoders]
    tells = {cells.name: _tells(cells, labels, fit.job.k) for cells in columns}
    places = [{cells.name: _middle(cells, labels == i) for cells in columns} for i in range(fit.job.k)]
    return Found(fit, criterion, labels, proba, steady, tells, places)


def _middle(cells: pl.Series, rows: np.ndarray) -> Any:
    """The mean of a cluster's numbers, the middle of its dates, its most frequent category."""
    there = cells.filter(rows).drop_nulls()
    if not len(there):
        return None
    if cells.dtype == pl.Float64:
        return float(there.mean())  # type: ignore[arg-type]
    return there.mode().sort()[0] if cells.dtype == pl.String else str(there.median())


def _tells(cells: pl.Series, labels: np.ndarray, k: int) -> float:
    there = cells.is_not_null().to_numpy()
    values, groups = cells.drop_nulls(), labels[there]
    if not len(values):
        return 0.0
    if cells.dtype == pl.String:
        codes = values.rank("dense").to_numpy().astype(int) - 1
        table = np.bincount(groups * (codes.max() + 1) + codes, minlength=k * (codes.max() + 1)).reshape(k, -1)
        expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
        chi2 = np.divide((table - expected) ** 2, expected, out=np.zeros(table.shape), where=expected > 0).sum()
        return float(chi2 / table.sum() / max(min(k, table.shape[1]) - 1, 1))
    x = values.to_physical().cast(pl.Float64).to_numpy()
    counts, total = np.bincount(groups, minlength=k), float(((x - x.mean()) ** 2).sum())
    means = np.bincount(groups, x, k) / np.maximum(counts, 1)
    return float((counts * (means - x.mean()) ** 2).sum() / total) if total else 0.0


# --- the run ---------------------------------------------------------------------------------------------------------


def _save(options: Clustering, directory: RunDirectory, space: Space, fits: Sequence[Fit], found: Found) -> None:
    """What `predict` needs, the fits as they were compared, and each row's cluster."""
    k = found.fit.job.k
    names = tuple(str(i + 1) for i in range(k))
    model = Model(space.features, Clusters(found.fit.estimator), k)
    block, probes = space.block, persist.probe_rows(space.block.rows)
    tried = Block(block.numbers[probes], tuple([column[i] for i in probes] for column in block.texts))
    directory.write_json("config.json", _config(options, space, found))
    directory.write_json("schema.json", replace(space.schema, classes=names).to_json())
    directory.write("metrics.jsonl", "".join(json.dumps(_row(fit)) + "\n" for fit in fits).encode())
    directory.write("clusters.csv", _labels(space, found, names))
    persist.save(directory, persist.dumps(model, tried), space.coding)
    directory.finish()


def _config(options: Clustering, space: Space, found: Found) -> dict[str, Any]:
    """Everything needed to repeat the run."""
    versions = {"dlkit": __version__, "scikit-learn": sklearn.__version__, "python": platform.python_version()}
    return {
        "command": "cluster",
        "options": asdict(options),
        "model": found.fit.job.model,
        "k": found.fit.job.k,
        "criterion": found.criterion,
        "fingerprint": space.dataset.fingerprint,
        "rows": space.dataset.rows,
        "versions": versions,
    }


def _labels(space: Space, found: Found, names: Sequence[str]) -> bytes:
    """Row, or file, and its cluster; for a mixture how probable each cluster is."""
    place = space.dataset.place
    rows = pl.Series("row", np.arange(1, space.dataset.rows + 1))
    first = pl.Series("file", list(place.files)) if isinstance(place, Files) else rows
    columns = [first, pl.Series("cluster", found.labels + 1)]
    if found.proba is not None:
        columns += [pl.Series(f"p_{name}", found.proba[:, i]) for i, name in enumerate(names)]
    return pl.DataFrame(columns).write_csv().encode()


# --- the answer ------------------------------------------------------------------------------------------------------


def _row(fit: Fit) -> dict[str, Any]:
    found = {name: getattr(fit, name) for name in ("silhouette", "bic", "inertia", "collapsed")}
    return {"k": fit.job.k, "model": fit.job.model, **found}


def _result(options: Clustering, space: Space, fits: Sequence[Fit], found: Found, directory: RunDirectory) -> Result:
    summary = _summary(space, found, directory)
    rows: list[Row] = [_row(fit) for fit in fits if fit.job.k > 1]
    columns = [Column("k", "int"), Column("model")]
    columns += [Column(name, "float") for name in ("silhouette", "bic", "inertia")] + [Column("collapsed", "int")]
    facts = [Column("model"), Column("k", "int"), Column("criterion", title="by"), Column("silhouette", "float")]
    facts += [
        Column("stability", "float", "stability (ARI)"),
        Column("ari", "float", "ARI"),
        Column("nmi", "float", "NMI"),
    ]
    result = Result(columns, rows, summary, "k", [*facts, Column("rows", "int"), Column("run")])
    following = shlex.join(["dlkit", "predict", str(directory.path), options.data])
    result.notes = [*_doubts(fits, found), f"next: {following}"]
    result.drawing = lambda width: _drawn(fits, found, summary, width)
    return result


def _summary(space: Space, found: Found, directory: RunDirectory) -> dict[str, Any]:
    fit, steady = found.fit, found.stability
    clusters = [
        {"cluster": i + 1, "rows": int(size), "share": float(size / len(found.labels)),
         "stability": float(steady.each[i]) if steady else None, "centre": found.centres[i]}
        for i, size in enumerate(found.sizes)
    ]  # fmt: skip
    summary = {
        "model": fit.job.model,
        "k": fit.job.k,
        "criterion": found.criterion,
        **{name: getattr(fit, name) for name in ("silhouette", "bic", "inertia", "collapsed")},
        "stability": steady.mean if steady else None,
        "stability_std": steady.std if steady else None,
        "clusters": clusters,
        "columns": [{"column": name, "tells": share} for name, share in _ordered(found)],
        "scaled": space.scaled,
        "rows": len(found.labels),
        "features": space.x.shape[1],
        "run": str(directory.path),
    }
    if space.truth is not None:
        there = space.truth.is_not_null().to_numpy()
        classes = space.truth.drop_nulls().rank("dense").to_numpy().astype(int)
        summary["ari"] = metrics.adjusted_rand(classes, found.labels[there])
        summary["nmi"] = metrics.normalised_mutual_info(classes, found.labels[there])
        summary["target"] = space.truth.name
    return summary


def _ordered(found: Found) -> list[tuple[str, float]]:
    return sorted(found.tells.items(), key=lambda pair: -pair[1])


def _doubts(fits: Sequence[Fit], found: Found) -> list[str]:
    """What speaks against believing the choice."""
    notes = []
    other = choose(fits, "silhouette" if found.criterion == "bic" else "bic")
    if other is not None and other.job != found.fit.job:
        by = "silhouette" if found.criterion == "bic" else "BIC"
        notes.append(f"by {by} it would be {other.job.model} with k = {other.job.k}")
    alone = [fit for fit in fits if fit.job.k == 1 and fit.is_sound]
    if found.fit.bic is not None and alone and min(fit.bic for fit in alone if fit.bic is not None) <= found.fit.bic:
        notes.append("one Gaussian alone has the lower BIC: there may be no clusters in this data")
    collapsed = sum(fit.collapsed > 0 for fit in fits)
    if collapsed:
        notes.append(
            f"{collapsed} of {len(fits)} fits have components with no variance in some direction, held up by a ridge "
            f"of {RIDGE:g}: their BIC says nothing, and they are chosen only where there is no other"
        )
    failed = [fit for fit in fits if fit.failed]
    if failed:
        notes.append(
            f"{len(failed)} fits failed, such as {failed[0].job.model} k={failed[0].job.k}: {failed[0].failed}"
        )
    if found.stability and found.stability.mean < SHAKY:
        notes.append(
            f"on bootstrap samples the clusters are other ones (ARI {found.stability.mean:.2f}): do not rely on them"
        )
    if len(found.labels) > EM_ROWS and found.fit.job.form:
        notes.append(f"EM was fitted on {EM_ROWS:,} rows drawn at random")
    if len(found.labels) > SAMPLE:
        notes.append(f"the silhouette is measured on {SAMPLE:,} rows drawn at random")
    return notes


SHAKY = 0.6
"""Mean ARI of bootstrap samples below which clusters are not the data's but the sample's."""


def _drawn(fits: Sequence[Fit], found: Found, summary: dict[str, Any], width: int) -> str:
    """The curves that chose, and a line for each cluster."""
    parts = []
    for criterion, better in (("silhouette", max), ("bic", min)):
        best: dict[int, float] = {}
        for fit in fits:
            value = getattr(fit, criterion)
            if value is not None and fit.job.k > 1 and (fit.is_sound or criterion == "silhouette"):
                best[fit.job.k] = better(best.get(fit.job.k, value), value)
        if len(best) > 1:
            ks = sorted(best)
            mark = float(found.fit.job.k) if criterion == found.criterion else None
            title = "BIC" if criterion == "bic" else criterion
            curve = draw.curve(ks, [best[k] for k in ks], width, 8, mark, "clusters", title)
            parts.append(curve)
    return "\n\n".join([*parts, *_table(found, summary, width)])


def _table(found: Found, summary: dict[str, Any], width: int) -> list[str]:
    """Sizes, stability, and the centres in the columns that tell most, as many as fit."""
    names = [name for name, _ in _ordered(found)][:MOST_SHOWN]
    head = ["cluster", "rows", "share", "stability", *(console.safe(name) for name in names)]
    lines = [head]
    for one in summary["clusters"]:
        steady = "–" if one["stability"] is None else f"{one['stability']:.2f}"
        cells = [str(one["cluster"]), f"{one['rows']:,}", f"{100 * one['share']:.1f} %", steady]
        lines.append(cells + [_shown(one["centre"][name]) for name in names])
    if names:
        lines.append(["", "", "", "tells", *(f"{found.tells[name]:.2f}" for name in names)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    fitting = len(head)
    while fitting > 4 and sum(widths[:fitting]) + 2 * fitting > width:
        fitting -= 1
    shown = ["  ".join(cell.rjust(widths[i]) for i, cell in enumerate(line[:fitting])) for line in lines]
    return ["\n".join(shown)]


def _shown(value: Any) -> str:
    return (
        "–" if value is None else units.significant(value, 4) if isinstance(value, float) else console.safe(str(value))
    )
