"""Several predictors as one: averaged, weighted or stacked (S178-S180)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.reading import MULTI_LABEL, Reading
from dlkit.core.run import Run
from dlkit.data import metrics
from dlkit.data.known import known_rows, sized, truth
from dlkit.data.load import read_table
from dlkit.data.predictor import Predictor
from dlkit.data.schema import Schema
from dlkit.data.table import Table

Combine = Callable[[np.ndarray], np.ndarray]
"""M×N×K probabilities or M×N values of M members -> N×K or N."""
Again = Callable[["Member", Table, str], np.ndarray]
"""(member, table, option) -> its predictions for the source's rows, each by a model that has not seen it."""


@dataclass(frozen=True)
class Member:
    """A run and its predictor.

    network  the run of the network that a baseline reads its rows through, where there is one
    """

    run: Run
    predictor: Predictor
    network: Run | None = None

    @property
    def name(self) -> str:
        return str(self.run.path)

    def reads(self, reading: Reading) -> Reading:
        """`reading`, with the words for missing that it knows."""
        return replace(reading, na=(*reading.na, *self.run.na))

    def has_seen(self, table: Table) -> bool:
        """Whether it, or the network that it reads rows through, was fitted on this very source."""
        return self.seen_by(table) is not None

    def seen_by(self, table: Table) -> str | None:
        """Its name, or that of its network, whichever was fitted on this very source."""
        if table.fingerprint == self.run.config.get("fingerprint"):
            return self.name
        return f"the network of {self.name}" if self.knows_by_heart(table) else None

    def knows_by_heart(self, table: Table) -> bool:
        """Whether a network was: unlike a baseline, it would have to be trained again to forget it."""
        network = self.run if self.run.command == "train" else self.network
        return network is not None and table.fingerprint == network.config.get("fingerprint")


@dataclass(frozen=True)
class Ensemble:
    """One predictor or several of the same target, and how their predictions become one."""

    members: tuple[Member, ...]
    combine: Combine | None = None

    @property
    def schema(self) -> Schema:
        """That of the first member: its classes are the columns of what is predicted."""
        return self.members[0].predictor.schema

    @property
    def task(self) -> str:
        return self.members[0].predictor.task

    @property
    def is_clustering(self) -> bool:
        """Whether the classes are clusters: no target was there to be learned."""
        return self.schema.target is None and not self.schema.values

    @property
    def labels(self) -> list[tuple[str, tuple[str, str]]]:
        """Of several targets the name and the words of each: of rows without it, and of rows with it."""
        return list(zip(self.schema.classes, self.schema.values, strict=True)) if self.schema.values else []

    def each(self, table: Table, reading: Reading) -> np.ndarray:
        """M×N×K or M×N: what each member predicts, classes in the order of the first one's."""
        return np.stack([self.aligned(member, self.one(member, table, reading)) for member in self.members])

    def one(self, member: Member, table: Table, reading: Reading) -> np.ndarray:
        """What a member predicts, classes in its own order."""
        return member.predictor.predict(known_rows(table, member.predictor.schema, member.reads(reading)))

    def aligned(self, member: Member, found: np.ndarray) -> np.ndarray:
        """A member's predictions with the classes in the order of the first one's."""
        if found.ndim == 1:
            return found
        return found[:, [member.predictor.schema.classes.index(name) for name in self.schema.classes]]

    def together(self, each: np.ndarray) -> np.ndarray:
        """N×K or N: the members' predictions made one."""
        return np.asarray(each.mean(0) if self.combine is None else self.combine(each))

    def predict(self, table: Table, reading: Reading) -> np.ndarray:
        """N×K probabilities or N values."""
        return self.together(self.each(table, reading))


def ensemble(members: Sequence[Member]) -> Ensemble:
    """The members, averaged; a DlkitError where they do not predict the same."""
    first = members[0].predictor.schema
    for member in members[1:]:
        schema = member.predictor.schema
        if (schema.task, schema.target) != (first.task, first.target):
            ours, theirs = (_described(s) for s in (first, schema))
            raise DlkitError(f"{members[0].name} is a {ours}, {member.name} a {theirs}: they cannot be combined")
        odd = set(schema.classes) ^ set(first.classes)
        if odd:
            what = "labels" if first.values else "classes"
            raise DlkitError(f"{members[0].name} and {member.name} have not the same {what}: {min(odd)!r}")
        words = dict(zip(schema.classes, schema.values, strict=False))
        for name, pair in zip(first.classes, first.values, strict=False):
            if words[name] != pair:
                says = f"{name!r} means {pair[1]!r} to {members[0].name}, {words[name][1]!r} to {member.name}"
                raise DlkitError(f"{says}: they cannot be combined")
    return Ensemble(tuple(members))


def _described(schema: Schema) -> str:
    if schema.values:
        return f"{schema.task} of {len(schema.values)}"
    return f"{schema.task} of {schema.target!r}" if schema.target else "clustering"


def weighted(weights: np.ndarray) -> Combine:
    """A weighted mean, the weights made to sum to 1."""
    shares = weights / weights.sum()
    return lambda each: np.tensordot(shares, each, 1)


def parse_weights(text: str, members: int) -> np.ndarray | None:
    """The numbers in `0.7,0.3`, one for each member; None where the text is not numbers but names a file."""
    try:
        weights = np.array([float(part) for part in text.split(",")])
    except ValueError:
        return None
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise DlkitError(f"--weights {text}: weights are numbers of at least 0, and not all 0")
    if len(weights) != members:
        raise DlkitError(f"--weights {text}: {len(weights)} weights for {members} runs")
    return weights


def fit_weights(each: np.ndarray, truth: np.ndarray, steps: int = 2000) -> np.ndarray:
    """M weights that sum to 1 and make the mean of the members best on these rows.

    M×N×K probabilities: log loss, by expectation-maximisation of the mixture's weights, which cannot overshoot. Of
    several labels (`truth` N×K bool) each cell is such a row of its own.
    M×N values: squared error, by projected gradient steps. Both problems are convex: there is one best value.
    """
    if each.ndim == 2:
        return _least_squares(each, truth, steps)
    if truth.ndim == 2:
        likelihood = np.where(truth, each, 1 - each).reshape(len(each), -1)
    else:
        likelihood = each[:, np.arange(len(truth)), truth]
    likelihood = np.maximum(likelihood, np.finfo(np.float64).eps)
    weights = np.full(len(each), 1 / len(each))
    for _ in range(steps):
        shares = weights[:, None] * likelihood
        new = (shares / shares.sum(0)).mean(1)
        if np.abs(new - weights).max() < 1e-10:
            break
        weights = new
    return np.asarray(weights)


def _least_squares(each: np.ndarray, truth: np.ndarray, steps: int) -> np.ndarray:
    errors = each - truth  # Σw = 1: the mean's error is the mean of the errors
    gram = errors @ errors.T / len(truth)
    rate = 1 / max(float(np.linalg.eigvalsh(gram)[-1]), 1e-300)
    weights = momentum = np.full(len(each), 1 / len(each))
    for step in range(steps):
        new = _onto_simplex(momentum - rate * (gram @ momentum))
        momentum = new + step / (step + 3) * (new - weights)
        weights = new
    return weights


def _onto_simplex(point: np.ndarray) -> np.ndarray:
    """The nearest weights of at least 0 that sum to 1 (Duchi et al. 2008)."""
    ordered = np.sort(point)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(point) + 1)
    return np.asarray(np.maximum(point - excess[np.flatnonzero(ordered > excess)[-1]], 0))


def score(task: str, truth: np.ndarray, predicted: np.ndarray) -> float:
    """The headline metric of one set of predictions: accuracy, of several labels the log loss, or RMSE."""
    if task == "classification":
        return metrics.accuracy(truth, predicted.argmax(1))
    if task == MULTI_LABEL:
        return float(metrics.label_log_losses(truth, predicted).mean())
    return metrics.rmse(truth, predicted)


@dataclass(frozen=True, eq=False)
class Labelled:
    """A table whose rows all have a truth, and that: K indices into the schema's classes, K values, K×labels bool."""

    table: Table
    truth: np.ndarray
    left_out: int

    def take(self, rows: np.ndarray) -> "Labelled":
        mask = np.isin(np.arange(len(self.truth)), rows)
        return Labelled(self.table.keep(mask), self.truth[mask], self.left_out)


def labelled(source: str, whole: Ensemble, reading: Reading) -> Labelled:
    """The rows of a source that say what is true of them, in the words that the first member knows."""
    table = read_table(source, sized(source, whole.schema, reading), labelled=False)
    found = truth(table, whole.schema, whole.members[0].reads(reading))
    return Labelled(table.keep(found.kept), found.labels, int((~found.kept).sum()))


def known(whole: Ensemble, source: str, reading: Reading, option: str, again: Again) -> tuple[np.ndarray, np.ndarray]:
    """(M×N×K or M×N predictions for rows that their member has not seen, what is true of these rows).

    again  how a member that was fitted on the source predicts each of its rows without it: out of fold, or not at all
    """
    rows = labelled(source, whole, reading)
    each = [
        again(member, rows.table, option) if member.has_seen(rows.table) else whole.one(member, rows.table, reading)
        for member in whole.members
    ]
    stacked = np.stack([whole.aligned(member, found) for member, found in zip(whole.members, each, strict=True)])
    there = np.isfinite(stacked).reshape(len(each), len(rows.truth), -1).all((0, 2))
    if there.sum() < 2:
        raise bad_data(f"{option} {source}: no row that is predicted out of fold by every run")
    return stacked[:, there], rows.truth[there]
