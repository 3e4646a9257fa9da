"""Which trial comes next: every family's default first, cheap ones before dear ones, then what may still win.

The race is told what each trial showed and what the clock says; it runs nothing itself. Three things happen, one after
another as time allows: defaults (on samples where the data is large), larger samples for the better half (successive
halving, Jamieson & Talwalkar 2016), and other settings, dropped as soon as a fold shows that they are worse.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dlkit.ml.families import Context, Family, in_order
from dlkit.ml.pool import OUTRAN
from dlkit.ml.scoring import Sample
from dlkit.ml.trial import Outcome, Trial

# A first turn on more rows than this, or more cells, is a turn on a sample.
SAMPLE_ROWS, SAMPLE_CELLS, FEWEST_ROWS = 20_000, 2_000_000, 1_000
GROWTH = 4
"""Each further sample is so many times the last."""
FIRST_SHARE = 0.3
"""Of the time left, what the first fold of a family may take before it is killed."""
EARLY_SHARE = 0.4
SMALLEST_SECONDS = 1.0
PACE_SECONDS = 0.05
"""What is expected to take less than this tells nothing of the machine's pace."""
SEARCH_FACTOR = 4.0
"""The first fold of another setting may take so many times what its family's best one took."""
SLACK = 1.25
"""A fit may take so much longer than what is expected of it."""
SAVE_SECONDS, SAVE_BYTES_A_SECOND = 1.5, 60e6
"""Writing a model, hashing it and reading it once: a constant, and by its size."""


def first_rows(rows: int, width: int) -> int:
    """Rows of the first turn out of `rows`: all (0) unless they, or their cells, are many."""
    most = min(SAMPLE_ROWS, max(SAMPLE_CELLS // max(width, 1), FEWEST_ROWS))
    return 0 if rows <= most else most


@dataclass(eq=False)
class Entry:
    """A family with one setting on so many rows (0: all), and what its folds have shown so far.

    stage    default, sample (the default on more rows) or search (another setting)
    problem  why it will have no score
    put_off  too slow for its first turn: it gets another when the rest has had theirs
    """

    family: Family
    setting: Mapping[str, Any]
    rows: int
    stage: str
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    started: set[int] = field(default_factory=set)
    problem: str | None = None
    put_off: bool = False

    def trial(self, fold: int) -> Trial:
        return Trial(self.family.name, self.setting, fold, self.rows)

    def mean(self, name: str) -> float:
        """Of what the folds have shown so far; in their order, so that rounding does not depend on who was first."""
        values = [getattr(self.outcomes[fold], name) for fold in sorted(self.outcomes)]
        return sum(values) / len(values) if values else math.nan

    @property
    def seconds(self) -> float:
        """Of one fold, so far."""
        return self.mean("fit_seconds") + self.mean("predict_seconds")


@dataclass(frozen=True)
class Job:
    """A trial to start now, and the seconds after which it is killed."""

    trial: Trial
    seconds: float


@dataclass(frozen=True)
class Terms:
    """What a race is run on and for.

    folds, rows   how many score, and how many rows each trains on; width: columns of the expanded matrix
    sign, ratio   whether more of the metric is better (1 or -1); test rows over training rows
    end           when everything, the final fit too, must be done, on the race's clock
    cores, tries  trials at a time; settings tried in a family at most
    save          the family that will be kept, where that is not the best one
    """

    context: Context
    folds: int
    rows: int
    width: int
    sign: int
    ratio: float
    end: float
    cores: int = 1
    tries: int | None = None
    save: str | None = None


class Runner(Protocol):
    """Where trials run: `pool.Processes`, `pool.Cluster`."""

    def free(self) -> int:
        """How many trials may be started now."""

    def busy(self) -> bool: ...

    def start(self, trial: Trial, seconds: float) -> None:
        """Begin a trial, which ends after so many seconds, done or not."""

    def wait(self, until: float) -> list[tuple[Trial, Outcome]]:
        """What is done, at least one of those that run, unless the clock says `until` first."""


def play(race: "Race", runner: Runner) -> Iterator[int]:
    """Run the race to its end: until nothing is left to try, or only the time for the final fit. Yields the number of
    trials that were done at each look."""
    while True:
        while runner.free() > 0 and (job := race.next()) is not None:
            runner.start(job.trial, job.seconds)
        if not runner.busy():
            return
        done = runner.wait(race.clock() + max(race.left(), 0))
        for trial, outcome in done:
            race.record(trial, outcome)
        if race.left() <= 0:
            return
        yield len(done)


class Race:
    """One board in the making.

    clock   seconds, as `time.monotonic`
    refuse  why a trial must not even start (memory), if so
    """

    def __init__(
        self,
        families: Sequence[Family],
        terms: Terms,
        clock: Callable[[], float],
        refuse: Callable[[Trial], str | None] = lambda trial: None,
    ) -> None:
        self.terms, self.clock, self.refuse = terms, clock, refuse
        self.first = first_rows(terms.rows, terms.width)
        families = in_order(families, self.first or terms.rows, terms.width, terms.context)
        self.settings = {f.name: f.settings(terms.context)[: terms.tries] for f in families}
        self.entries = [Entry(f, self.settings[f.name][0], self.first, "default") for f in families]
        self._tried = dict.fromkeys(self.settings, 1)
        self._waiting = list(self.entries)
        self._running: dict[Trial, Entry] = {}
        self._news: list[Entry] = []
        self._best: dict[str, Entry] = {}
        self._promoted: set[tuple[str, int]] = set()

    # --- what is known -----------------------------------------------------------------------------------------------

    def sample(self, entry: Entry) -> Sample:
        outcomes = [entry.outcomes[fold] for fold in sorted(entry.outcomes)]
        return Sample(tuple(o.score for o in outcomes), self.terms.ratio, outcomes[0].draws)

    def is_complete(self, entry: Entry) -> bool:
        return entry.problem is None and len(entry.outcomes) == self.terms.folds

    def score(self, entry: Entry) -> float:
        """More is better, whatever the metric. Of the folds so far."""
        return self.terms.sign * entry.mean("score")

    def best_of(self, name: str) -> Entry | None:
        """The best complete entry of a family; of equal ones that on more rows, then the first."""
        return self._best.get(name)

    def ranking(self) -> list[Entry]:
        """The best entry of each family, best first."""
        best = [self._best[name] for name in self.settings if name in self._best]
        return sorted(best, key=self.score, reverse=True)

    def chosen(self) -> list[Entry]:
        """What is to be saved, and then what instead, where that cannot be fitted in time."""
        return sorted(self.ranking(), key=lambda e: e.family.name != self.terms.save)

    def final_seconds(self, entry: Entry) -> float:
        """What the fit on all rows, writing it and reading it back will take."""
        fitted = entry.mean("train_rows") or 1
        rows = entry.rows or fitted * self.terms.folds / max(self.terms.folds - 1, 1)
        size = max(o.size for o in entry.outcomes.values()) * rows / fitted
        fit = entry.mean("fit_seconds") * (rows / fitted) ** entry.family.growth
        return SLACK * fit + SAVE_SECONDS + size / SAVE_BYTES_A_SECOND

    def left(self) -> float:
        """Seconds until the final fit must begin."""
        chosen = self.chosen()[:1]
        return self.terms.end - self.clock() - (self.final_seconds(chosen[0]) if chosen else SAVE_SECONDS)

    # --- what comes next ---------------------------------------------------------------------------------------------

    def next(self) -> Job | None:
        """The next trial; None where nothing may start now."""
        while (job := self._next()) is not None:
            reason = self.refuse(job.trial)
            if reason is None:
                return job
            self._give_up(self._running.pop(job.trial), reason)
        return None

    def _next(self) -> Job | None:
        left = self.left()
        if left <= 0:
            return None
        for entry in self._waiting:
            self._put_off_dear(entry)
            job = self._of(entry, left)
            if job is not None:
                return job
        if any(e.stage == "default" and not e.put_off for e in self._waiting):
            return None  # what runs may still change who gets the next turn
        entry = self._put_off(left) or self._promotion(left) or self._variation(left)
        return None if entry is None else self._of(entry, left)

    def _of(self, entry: Entry, left: float) -> Job | None:
        """The first fold of an entry alone; the others once that has shown what they take."""
        todo = [fold for fold in range(self.terms.folds) if fold not in entry.started]
        if entry.put_off or not todo or (entry.started and not entry.outcomes):
            return None
        trial = entry.trial(todo[0])
        entry.started.add(todo[0])
        self._running[trial] = entry
        return Job(trial, min(max(self._limit(entry, left), SMALLEST_SECONDS), left))

    def _put_off_dear(self, entry: Entry) -> None:
        """A first turn that would take all the others' time is not begun, if what has run so far tells that."""
        if entry.stage != "default" or entry.started or entry.put_off or entry.rows != self.first:
            return
        pace = self._pace()
        if pace is None:
            return
        seconds = pace * entry.family.seconds(entry.rows or self.terms.rows, self.terms.width, self.terms.context)
        entry.put_off = seconds * math.ceil(self.terms.folds / self.terms.cores) > 3 * self._turn()

    def _pace(self) -> float | None:
        """Seconds that fits take for each that they were expected to: of this machine, now (the median)."""
        known = []
        for entry in self.entries:
            if entry.outcomes and entry.stage == "default":
                rows = round(entry.mean("train_rows"))
                expected = entry.family.seconds(rows, self.terms.width, self.terms.context)
                if expected > PACE_SECONDS:
                    known.append(entry.seconds / expected)
        return statistics.median(known) if known else None

    def _limit(self, entry: Entry, left: float) -> float:
        """Seconds that the next fold of an entry may take."""
        if entry.stage == "default" and not entry.outcomes:
            return left * FIRST_SHARE
        known = self.best_of(entry.family.name)
        if entry.stage == "search" and known is not None and not entry.outcomes:
            return SEARCH_FACTOR * known.seconds
        return left

    def _put_off(self, left: float) -> Entry | None:
        """A default that was too slow for its turn: now, if its folds fit; else on as few rows as do."""
        late = [entry for entry in self._waiting if entry.put_off]
        left *= self._early_share()
        for entry in sorted(late, key=lambda e: -self.score(e) if e.outcomes else math.inf):
            entry.put_off = False
            if not entry.started:
                return self._fitting(entry, left / len(late))
            if entry.outcomes and SLACK * self._cost(entry, entry.rows) <= left / len(late):
                return entry
            problem = f"a fold takes {entry.seconds:.1f} s: {self.terms.folds} do not fit into the budget"
            smaller = self._smaller(entry, left / len(late), problem)
            if smaller is not None:
                return smaller
        return None

    def _fitting(self, entry: Entry, left: float) -> Entry:
        """One that was never begun: as it is if it may fit, else on as few rows as are expected to."""
        rows = entry.rows or self.terms.rows
        expected = (self._pace() or 1.0) * entry.family.seconds(rows, self.terms.width, self.terms.context)
        took = expected * math.ceil(self.terms.folds / self.terms.cores)
        if took <= left:
            return entry
        fewer = int(rows * (0.5 * left / took) ** (1 / entry.family.growth))
        return self._replace(entry, fewer) if fewer >= FEWEST_ROWS // 5 else entry

    def _smaller(self, entry: Entry, left: float, problem: str) -> Entry | None:
        """The same on a sample that there is time for, in its place; None where that would say nothing."""
        rows = entry.rows or self.terms.rows
        took = self._cost(entry, entry.rows, whole=True) if entry.outcomes else 4 * left
        fewer = int(rows * min((0.5 * left / max(took, 1e-9)) ** (1 / entry.family.growth), 0.25))
        if fewer < FEWEST_ROWS // 5:
            self._give_up(entry, problem)
            return None
        return self._replace(entry, fewer)

    def _replace(self, entry: Entry, rows: int) -> Entry:
        found = Entry(entry.family, entry.setting, rows, "default")
        self.entries[self.entries.index(entry)] = found
        self._waiting[self._waiting.index(entry)] = found
        return found

    def _promotion(self, left: float) -> Entry | None:
        """The better half of what has been seen on a sample gets more rows, the best first."""
        for level in sorted({entry.rows for entry in self.entries if entry.rows}, reverse=True):
            done = [e for e in self.entries if e.rows == level and e.stage != "search" and self.is_complete(e)]
            seen = sorted((e for e in done if e.family.name != "dummy"), key=self.score, reverse=True)
            for entry in seen[: (len(seen) + 1) // 2]:
                if (entry.family.name, level) not in self._promoted:
                    self._promoted.add((entry.family.name, level))
                    larger = self._larger(entry, left)
                    if larger is not None:
                        return larger
        return None

    def _larger(self, entry: Entry, left: float) -> Entry | None:
        """All rows at once where half the time left is enough for that, else GROWTH times as many."""
        for rows, share in ((0, 0.5), (entry.rows * GROWTH, 0.8)):
            if 0 < self.terms.rows <= rows:
                continue
            if SLACK * self._cost(entry, rows, whole=True) + self._final_cost(entry, rows) <= share * left:
                return self._enter(Entry(entry.family, entry.setting, rows, "sample"))
        return None

    def _variation(self, left: float) -> Entry | None:
        """Another setting of a family, the better ones more often."""
        order = list(enumerate(self.ranking(), 1))
        for _, entry in sorted(order, key=lambda pair: pair[0] * self._tried[pair[1].family.name]):
            name = entry.family.name
            fits = SLACK * entry.seconds + self._final_cost(entry, entry.rows) <= left
            if fits and self._tried[name] < len(self.settings[name]):
                setting = self.settings[name][self._tried[name]]
                self._tried[name] += 1
                return self._enter(Entry(entry.family, setting, entry.rows, "search"))
        return None

    def _enter(self, entry: Entry) -> Entry:
        self.entries.append(entry)
        self._waiting.append(entry)
        return entry

    def _cost(self, entry: Entry, rows: int, whole: bool = False) -> float:
        """Seconds until all folds (those left, unless `whole`) are done on so many rows."""
        factor = (rows or self.terms.rows) / (entry.mean("train_rows") or 1)
        fit = entry.mean("fit_seconds") * factor**entry.family.growth
        predict = entry.mean("predict_seconds") * (factor if entry.family.slow else 1)
        count = self.terms.folds if whole else self.terms.folds - len(entry.outcomes)
        return (fit + predict) * math.ceil(count / self.terms.cores)

    def _final_cost(self, entry: Entry, rows: int) -> float:
        factor = (rows or self.terms.rows) / (entry.mean("train_rows") or 1)
        return self.final_seconds(entry) * factor**entry.family.growth

    # --- what a trial showed -----------------------------------------------------------------------------------------

    def record(self, trial: Trial, outcome: Outcome) -> None:
        """Take note of what a trial showed."""
        entry = self._running.pop(trial)
        if entry.problem is not None:
            return
        if outcome.problem is not None:
            self._failed(entry, outcome.problem)
            return
        entry.outcomes[trial.fold] = outcome
        if len(entry.outcomes) == self.terms.folds:
            self._completed(entry)
        elif entry.stage == "default":
            if len(entry.outcomes) == 1:
                entry.put_off = self._cost(entry, entry.rows) > self._turn()
        elif self._is_hopeless(entry):
            self._give_up(entry, "dropped")

    def _completed(self, entry: Entry) -> None:
        self._waiting.remove(entry)
        self._news.append(entry)
        best = self._best.get(entry.family.name)
        if best is None or self._key(entry) > self._key(best):
            self._best[entry.family.name] = entry

    def _key(self, entry: Entry) -> tuple[float, float]:
        return self.score(entry), entry.rows or math.inf

    def _turn(self) -> float:
        """Seconds that the rest of a default may take while others wait for their first turn."""
        others = sum(not e.started for e in self._waiting)
        return max(self._early_share() * self.left() / max(others, 1), SMALLEST_SECONDS)

    def _early_share(self) -> float:
        """Of the time left, what first turns may take: where they are on samples, the best of them need the rest."""
        return EARLY_SHARE if self.first else 1.0

    def _failed(self, entry: Entry, problem: str) -> None:
        if entry.stage == "default" and problem.startswith(OUTRAN):
            rows = entry.rows or self.terms.rows
            problem = f"{problem} on {rows:,} rows: more than its share of the budget"
            smaller = self._smaller(entry, self.left(), problem) if self.left() > 0 else None
            if smaller is not None:
                smaller.put_off = True
                return
        if entry.problem is None:
            self._give_up(entry, problem)

    def _give_up(self, entry: Entry, problem: str) -> None:
        entry.problem = problem
        self._waiting.remove(entry)
        if entry.stage == "default":
            self._news.append(entry)

    def _is_hopeless(self, entry: Entry) -> bool:
        """Too slow to be kept, or worse than its family's best on the folds that both have: by one standard error at
        first, then at all."""
        cost = SLACK * self._cost(entry, entry.rows) + self.final_seconds(entry)
        if self.clock() + cost > self.terms.end:
            return True
        best = self.best_of(entry.family.name)
        if entry.stage != "search" or best is None:
            return False
        both = list(entry.outcomes)
        gap = self.terms.sign * sum(entry.outcomes[f].score - best.outcomes[f].score for f in both) / len(both)
        error = self.sample(best).error
        return gap < (-error if len(both) == 1 and math.isfinite(error) else 0.0)

    def news(self) -> Iterator[Entry]:
        """Entries that have become complete, and defaults that never will, in the order in which that was known."""
        while self._news:
            yield self._news.pop(0)

    def close(self) -> None:
        """The budget has ended: what is not complete will not be."""
        for entry in list(self._waiting):
            done = len(entry.outcomes)
            self._give_up(entry, f"{done} of {self.terms.folds} folds were done when the budget ended")
