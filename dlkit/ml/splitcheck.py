"""Is this split honest? Every check over the same two sides, as one Result."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlkit.core import console
from dlkit.core.io import check_free
from dlkit.core.reading import Reading
from dlkit.core.result import Column, Result
from dlkit.data import figure
from dlkit.ml.checks import ablation as ablations
from dlkit.ml.checks import adversarial, drift, duplicates, images, leak, neighbours, picture, schema, together, weights
from dlkit.ml.checks.adversarial import Adversarial, Settings
from dlkit.ml.checks.drift import Drift
from dlkit.ml.checks.finding import CHECKS, Finding
from dlkit.ml.checks.sides import Sides, open_sides
from dlkit.ml.checks.units import whole_units
from dlkit.ml.embedding import Embed
from dlkit.ml.engine import Engine, open_engine

COLUMNS = (
    Column("check"),
    Column("verdict"),
    Column("value", "float"),
    Column("threshold", "float"),
    Column("detail"),
)
FACTS = (
    Column("auc", "float", "AUC"),
    Column("p_value", "float", "p"),
    Column("top_features", title="the columns that tell"),
)


@dataclass(frozen=True)
class Request:
    """What the command line asks, besides how to read.

    valid    None: `split` names the column of train that says the side, or the source says it
    weights, plot   files to write
    """

    train: str
    valid: str | None = None
    split: str | None = None
    groups: tuple[str, ...] = ()
    time: str | None = None
    settings: Settings = field(default_factory=Settings)
    ablate: bool = False
    weights: str | None = None
    plot: str | None = None
    engine: str = "local"


@dataclass(frozen=True, eq=False)
class Report:
    """The findings in order, and what they rest on."""

    sides: Sides
    seen: Sides
    findings: tuple[Finding, ...]
    found: Adversarial
    drifts: tuple[Drift, ...]
    ablation: ablations.Ablation | None = None

    @property
    def ok(self) -> bool:
        return all(finding.verdict != "fail" for finding in self.findings)


def answer(request: Request, reading: Reading, embed: Embed | None = None) -> Result:
    """Run the checks, write what was asked for, and say what was found: `ok` is whether none failed."""
    if request.weights is not None:
        check_free(Path(request.weights))
    if request.plot is not None:
        figure.check(request.plot)
    sides = open_sides(request.train, request.valid, reading, request.split, request.groups, request.time)
    if request.ablate:
        ablations.refuse(sides)
    for note in sides.notes:
        console.note(note)
    with open_engine(request.engine) as engine:
        report = examine(sides, request.settings, engine, embed, request.ablate)
    if request.weights is not None:
        weights.write_weights(Path(request.weights), sides, weights.importance_weights(report.seen, report.found))
    if request.plot is not None:
        picture.draw(Path(request.plot), report.seen, report.found, report.drifts)
    return _result(report)


def examine(
    sides: Sides, settings: Settings, engine: Engine, embed: Embed | None = None, ablate: bool = False
) -> Report:
    """Every check, once. `embed` makes numbers of rows for the checks that compare what rows look like."""
    units = whole_units([sides.frame[name] for name in sides.groups], sides.is_valid)
    later = together.is_later(sides)
    seen = images.embedded(sides, embed) if embed is not None or sides.arrays is not None else sides
    with console.progress(len(CHECKS) + ablate, "checking", "check") as bar:
        findings: dict[str, Finding] = {}

        def take(finding: Finding) -> None:
            findings[finding.check] = finding
            bar.advance()

        for finding in (schema.check_schema(sides), schema.check_labels(sides), *_copies(sides, seen, settings.seed)):
            take(finding)
        take(together.check_groups(sides))
        take(together.check_time(sides))
        take(leak.check_target_leak(sides, settings.seed))
        drifted, drifts = drift.check_drift(seen, units, later, settings.seed)
        take(drifted)
        take(drift.check_target_drift(sides, units, later))
        found = adversarial.check(seen, settings, engine, units, later)
        take(found.finding)
        steps = ablations.ablate(sides, settings, engine, units) if ablate else None
        ordered = [findings[check] for check in CHECKS]
        if steps is not None:
            ordered.append(ablations.finding(steps))
    return Report(sides, seen, tuple(ordered), found, tuple(drifts), steps)


def _copies(sides: Sides, seen: Sides, seed: int) -> list[Finding]:
    """Rows that are on both sides, nearly are, or are with another label."""
    near = neighbours.check_near_duplicates(seen, seed)
    if sides.arrays is not None and near.verdict != "fail":
        near = images.check_same_looks(sides, seed)
    return [duplicates.check_duplicates(sides), near, duplicates.check_conflicts(sides)]


def _result(report: Report) -> Result:
    sides = report.sides
    notes = ablations.lines(report.ablation) if report.ablation else []
    return Result(
        columns=COLUMNS,
        rows=[finding.row() for finding in report.findings],
        summary=_summary(report),
        headline="auc",
        facts=FACTS,
        title=f"{sides.train.source} ({sides.train.rows:,} rows) against {_valid_name(sides)} ({sides.valid.rows:,})",
        ok=report.ok,
        notes=[*notes, *_next(report.findings)],
    )


def _valid_name(sides: Sides) -> str:
    return sides.valid.source if sides.valid.source != sides.train.source else "its validation rows"


def _summary(report: Report) -> dict[str, Any]:
    separation = report.found.separation
    counts = {f"{verdict}_count": sum(f.verdict == verdict for f in report.findings) for verdict in ("fail", "warn")}
    summary: dict[str, Any] = {
        "auc": separation.auc if separation else None,
        "auc_low": separation.low if separation else None,
        "auc_high": separation.high if separation else None,
        "p_value": report.found.p_value,
        "top_features": [one.name for one in report.found.columns],
        "train_rows": report.sides.train.rows,
        "valid_rows": report.sides.valid.rows,
        "classifier": separation.model if separation else None,
        "classifier_rows": len(report.found.rows) if separation else 0,
        **counts,
        "columns": _columns(report.found, report.drifts),
    }
    if report.ablation is not None:
        summary["ablation"] = [vars(step) | {"metric": report.ablation.metric} for step in report.ablation.steps]
    return summary


def _columns(found: Adversarial, drifts: Sequence[Drift]) -> list[dict[str, Any]]:
    """What is known of each column: its drift, what shuffling its cluster costs, the AUC that it reaches alone."""
    importance = {name: one.importance for one in found.tellings for name in one.names}
    alone = {one.name: one for one in found.columns}
    drift_of = {one.column: one for one in drifts}
    names = dict.fromkeys([*drift_of, *importance, *alone])
    return [
        {
            "column": name,
            "effect": drift_of[name].effect if name in drift_of else None,
            "psi": drift_of[name].psi if name in drift_of else None,
            "wasserstein": drift_of[name].wasserstein if name in drift_of else None,
            "p_adjusted": drift_of[name].adjusted if name in drift_of else None,
            "importance": importance.get(name),
            "auc": alone[name].auc if name in alone else None,
            "sentence": alone[name].sentence if name in alone else None,
        }
        for name in names
    ]


def _next(findings: Sequence[Finding]) -> list[str]:
    """One line on where to go next."""
    failed = [finding.check for finding in findings if finding.verdict == "fail"]
    if not failed:
        return []
    torn = {*failed} - {"schema", "labels", "target_leak"}
    return [f"failed: {', '.join(failed)}{'; an honest split: dlkit split --help' if torn else ''}"]
