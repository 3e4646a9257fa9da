"""What `dlkit baseline` answers: the board as rows that come as they are known, and what it says when it ends."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dlkit.core import units
from dlkit.core.result import Column, Row
from dlkit.ml.data import Prepared
from dlkit.ml.families import starting_k
from dlkit.ml.race import Entry, Race

ALIKE = 0.05
"""Two models are told apart where the p-value of their difference is below this."""
IMBALANCED = 0.8
"""Share of one class from which on accuracy says little."""


def columns(prepared: Prepared) -> list[Column]:
    """What a terminal and TSV show; JSON rows have more."""
    kind = prepared.metric.kind
    known = [
        Column("model", width=11),
        Column("score", kind, prepared.metric.name),  # type: ignore[arg-type]
        Column("score_se", kind, "±", width=9),  # type: ignore[arg-type]
        Column("p_dummy", "p", "p dummy", width=7),
        Column("fit_seconds", "seconds", "fit", width=7),
        Column("predict_seconds", "seconds", "predict", width=7, spare=True),
        Column("memory_bytes", "bytes", "memory", width=9, spare=True),
    ]
    if prepared.data.context.is_classification:
        known += [Column("ece", "share", width=7, spare=True), Column("brier", "float", terminal=False)]
    hidden = [Column("train_rows", "int", terminal=False), Column("stage", terminal=False)]
    return [*known, *hidden, Column("remark", width=14)]


@dataclass
class Board:
    """Rows in a steady order: defaults as the families are listed, whichever ends first, then what improves on them."""

    race: Race
    prepared: Prepared
    shown: dict[str, Entry] = field(default_factory=dict)
    _held: list[Entry] = field(default_factory=list)
    _order: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._order = list(self.race.settings)

    def rows(self) -> Iterator[Row]:
        """What has become known since the last look; nothing before something has a score."""
        if not self.race.ranking():
            return
        self._held += self.race.news()
        defaults = {e.family.name: e for e in self._held if e.stage == "default"}
        late = {e.family.name for e in self.race.entries if e.put_off}
        for name in list(self._order):
            if name in late:
                continue  # its turn is later: the others do not wait for it
            if name not in defaults:
                break
            self._order.remove(name)
            self._held.remove(defaults[name])
            yield self._show(defaults[name])
        for entry in [e for e in self._held if e.stage == "sample" and e.family.name not in self._order]:
            self._held.remove(entry)
            yield self._show(entry)

    def last_rows(self) -> Iterator[Row]:
        """What the search has found: of each family its best, where that is better than what was shown."""
        self.race.close()
        self._order.sort(key=lambda name: name not in {e.family.name for e in self._held})
        for name in self._order:
            yield from (self._show(e) for e in self.race.news() if e.family.name == name and e.stage == "default")
        for entry in self._held:
            if entry.stage != "search":
                yield self._show(entry)
        for entry in self.race.ranking():
            if self.shown.get(entry.family.name) is not entry:
                yield self._show(entry)

    def _show(self, entry: Entry) -> Row:
        if self.race.is_complete(entry):
            self.shown[entry.family.name] = entry
        return self.row(entry)

    def row(self, entry: Entry) -> Row:
        """One entry as JSON has it."""
        done = self.race.is_complete(entry)
        sample = self.race.sample(entry) if done else None
        peak = [o.bytes for o in entry.outcomes.values() if o.bytes is not None]
        return {
            "model": entry.family.name,
            "score": sample.mean if sample else None,
            "score_se": _finite(sample.error) if sample else None,
            "p_dummy": self.p_value(entry, self.race.best_of("dummy")) if sample else None,
            "fit_seconds": _finite(entry.mean("fit_seconds")),
            "predict_seconds": _finite(entry.mean("predict_seconds")),
            "memory_bytes": max(peak, default=None),
            "ece": _known(entry, "ece"),
            "brier": _known(entry, "brier"),
            "train_rows": round(entry.mean("train_rows")) if entry.outcomes else None,
            "stage": entry.stage,
            "settings": dict(entry.setting),
            "problem": entry.problem,
            "remark": entry.problem or self.remark(entry),
        }

    def remark(self, entry: Entry) -> str:
        """What a person should know of how the score came about."""
        said = []
        if entry.rows:
            said.append(f"on {entry.rows:,} of {self.race.terms.rows:,} rows")
        said.append(entry.family.remark(self.race.terms.context))
        setting = dict(entry.setting)
        if entry.family.name == "knn" and entry.stage != "search":
            setting["n_neighbors"] = starting_k(self.race.terms.context.rows)
        if entry.stage == "search" or entry.family.name == "knn":
            said.append(", ".join(f"{name} {_short(value)}" for name, value in setting.items()))
        return "; ".join(part for part in said if part)

    def p_value(self, entry: Entry, other: Entry | None) -> float | None:
        """Of no difference to another entry; None where there is none, or it is the same."""
        if other is None or other is entry:
            return None
        return _finite(self.race.sample(entry).p_value(self.race.sample(other)))

    def standing(self) -> list[dict[str, Any]]:
        """The families, best first, each against the dummy and the best."""
        ranking = self.race.ranking()
        return [self._against(entry, ranking[0], self.race.best_of("dummy")) for entry in ranking]

    def _against(self, entry: Entry, best: Entry, dummy: Entry | None) -> dict[str, Any]:
        sample, p = self.race.sample(entry), self.p_value(entry, best)
        # A model that swings so wildly that nothing can be told from it is not as good as the best for that.
        gains = [self._beats(one, dummy) for one in (entry, best)]
        return {
            "model": entry.family.name,
            "score": sample.mean,
            "score_se": _finite(sample.error),
            "p_dummy": self.p_value(entry, dummy),
            "p_best": p,
            "like_best": entry is best or ((p is None or p >= ALIKE) and gains[0] >= gains[1]),
        }

    def _beats(self, entry: Entry, dummy: Entry | None) -> bool:
        p = self.p_value(entry, dummy)
        return dummy is not None and p is not None and p < ALIKE and self.race.score(entry) > self.race.score(dummy)


def _known(entry: Entry, name: str) -> float | None:
    there = entry.outcomes and all(getattr(o, name) is not None for o in entry.outcomes.values())
    return entry.mean(name) if there else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- words -----------------------------------------------------------------------------------------------------------


def about(prepared: Prepared) -> str:
    """One line on what is about to be compared on what."""
    dataset, count = prepared.dataset, prepared.folds
    kind = f"{len(dataset.classes)} classes" if dataset.classes else f"regression of {dataset.target}"
    features = prepared.coding.features
    unit = "activation" if prepared.embedding else "pixel" if prepared.coding.image else "column"
    what = f"{features:,} {unit}{'s' if features > 1 else ''}"
    if prepared.embedding:
        what += f" of {prepared.embedding.run.path}"
    how = f"{count} folds" if count > 1 else f"one split: {prepared.train_rows:,} rows to fit on"
    return f"{dataset.name}: {dataset.rows:,} rows, {what}, {kind}; {how}; {prepared.metric.name}"


def imbalance(prepared: Prepared) -> str | None:
    """The classes' shares, where one is so frequent that accuracy says little."""
    dataset = prepared.dataset
    if not dataset.classes:
        return None
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    share = counts.max() / counts.sum()
    if share < IMBALANCED:
        return None
    often, seldom = dataset.classes[int(counts.argmax())], dataset.classes[int(counts.argmin())]
    advice = (
        "" if prepared.data.context.balance else ": --balance weighs classes alike, --metric balanced_accuracy or auc"
    )
    return (
        f"{100 * share:.1f} % of the rows are {often!r} and {100 * counts.min() / counts.sum():.2g} % {seldom!r}; "
        f"calling all of them {often!r} is right that often{advice}"
    )


def verdict(standing: list[dict[str, Any]], metric: str, kind: str) -> list[str]:
    """Who is best, and who cannot be told apart from it."""
    best = standing[0]
    alike = [one["model"] for one in standing[1:] if one["like_best"]]
    said = [f"{best['model']} is best: {metric} {figure(best, kind)}"]
    if alike:
        said.append(f"not distinguishable from the best (p ≥ {ALIKE:g}): {', '.join(alike)}")
    if best["model"] == "dummy" or "dummy" in alike:
        said.append("no model is distinguishable from the dummy, which looks at no column")
    return said


def figure(one: dict[str, Any], kind: str) -> str:
    """'47,679 ± 285'."""
    if kind == "share":
        error = "" if one["score_se"] is None else f" ± {100 * one['score_se']:.2f}"
        return f"{100 * one['score']:.2f}{error} %"
    error = "" if one["score_se"] is None else f" ± {units.significant(one['score_se'], 3)}"
    return f"{units.significant(one['score'], 5)}{error}"
