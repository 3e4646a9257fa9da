"""The race against a clock of our own: what is tried, in which order, and that the budget is never overrun."""

import math
from collections.abc import Callable

import pytest

from dlkit.ml.board import _known
from dlkit.ml.families import BY_NAME, Context, choose
from dlkit.ml.pool import outran
from dlkit.ml.race import Race, Terms, first_rows, play
from dlkit.ml.trial import Outcome, Trial


class Stage:
    """Runs trials in no time at all and moves the clock by what they would have taken."""

    def __init__(self, seconds: Callable[[Trial], float], score: Callable[[Trial], float], cores: int = 2) -> None:
        self.rows = 800
        self.now, self.cores, self.seconds, self.score = 0.0, cores, seconds, score
        self.running: list[tuple[float, Trial, Outcome]] = []
        self.started: list[Trial] = []

    def clock(self) -> float:
        return self.now

    def free(self) -> int:
        return self.cores - len(self.running)

    def busy(self) -> bool:
        return bool(self.running)

    def start(self, trial: Trial, seconds: float) -> None:
        self.started.append(trial)
        takes = self.seconds(trial)
        rows = trial.rows or self.rows
        outcome = Outcome(self.score(trial), fit_seconds=takes, train_rows=rows, size=1000)
        if takes > seconds:
            takes, outcome = seconds, outran(seconds)
        self.running.append((self.now + takes, trial, outcome))

    def wait(self, until: float) -> list[tuple[Trial, Outcome]]:
        first = min(self.running, key=lambda one: one[0])
        if first[0] > until:
            self.now = until
            return []
        self.now = max(self.now, first[0])
        self.running.remove(first)
        return [first[1:]]


CONTEXT = Context("classification", 1000, 5, 2)


def race(stage: Stage, models: list[str], budget: float, rows: int = 800, **more) -> Race:
    stage.rows = rows
    terms = Terms(**{"context": CONTEXT, "folds": 5, "rows": rows, "width": 5, "sign": 1, "ratio": 0.25,
                     "end": budget, "cores": stage.cores} | more)  # fmt: skip
    return Race(choose(models, "classification"), terms, stage.clock)


def run(stage: Stage, one: Race) -> Race:
    for _ in play(one, stage):
        pass
    one.close()
    return one


QUALITY = {"dummy": 0.5, "bayes": 0.7, "tree": 0.75, "logistic": 0.8, "knn": 0.78, "boosting": 0.9, "forest": 0.88}


def quality(trial: Trial) -> float:
    return QUALITY.get(trial.family, 0.6) + 0.001 * trial.fold


class TestOrder:
    def test_all_defaults_come_before_any_search(self):
        stage = Stage(lambda trial: 0.1, quality)
        run(stage, race(stage, ["tree", "logistic", "boosting"], 1000))
        default = {name: BY_NAME[name].settings(CONTEXT)[0] for name in QUALITY}
        searching = [i for i, trial in enumerate(stage.started) if trial.setting != default[trial.family]]
        defaults = [i for i, trial in enumerate(stage.started) if trial.setting == default[trial.family]]
        assert len(defaults) == 4 * 5 and max(defaults) < min(searching)

    def test_one_fold_is_seen_before_the_others_are_begun(self):
        stage = Stage(lambda trial: 0.1, quality, cores=8)
        run(stage, race(stage, ["tree", "boosting"], 1000, tries=1))
        assert [trial.fold for trial in stage.started[:3]] == [0, 0, 0]

    def test_tries_limits_the_search(self):
        stage = Stage(lambda trial: 0.1, quality)
        run(stage, race(stage, ["tree"], 1000, tries=3))
        assert len({str(trial.setting) for trial in stage.started if trial.family == "tree"}) == 3

    def test_better_families_are_searched_more(self):
        stage = Stage(lambda trial: 1.0, quality)
        run(stage, race(stage, ["knn", "tree", "boosting"], 60))
        boosting, tree = ({str(t.setting) for t in stage.started if t.family == n} for n in ("boosting", "tree"))
        assert len(boosting) > len(tree) >= 1

    def test_a_setting_that_the_first_fold_shows_to_be_worse_is_dropped(self):
        first = BY_NAME["boosting"].settings(CONTEXT)[0]
        stage = Stage(lambda trial: 0.1, lambda t: 0.9 + 0.001 * t.fold if t.setting == first else 0.5)
        run(stage, race(stage, ["boosting"], 1000))
        others = [trial for trial in stage.started if trial.family == "boosting" and trial.setting != first]
        assert others and all(trial.fold == 0 for trial in others)

    def test_one_that_is_better_is_run_on_every_fold_and_wins(self):
        first, second = BY_NAME["boosting"].settings(CONTEXT)[:2]
        stage = Stage(lambda trial: 0.1, lambda t: {str(first): 0.9, str(second): 0.95}.get(str(t.setting), 0.5))
        one = run(stage, race(stage, ["boosting"], 1000))
        assert one.ranking()[0].setting == second and one.ranking()[0].stage == "search"


class TestBudget:
    @pytest.mark.parametrize("budget", [2.0, 5.0, 20.0, 60.0, 300.0])
    @pytest.mark.parametrize("slow", ["logistic", "knn", "boosting", "forest", "svm-rbf"])
    @pytest.mark.parametrize("takes", [3.0, 1e9])
    def test_time_for_the_final_fit_is_left_whatever_is_slow(self, budget, slow, takes):
        stage = Stage(lambda trial: takes if trial.family == slow else 0.05, quality)
        one = run(stage, race(stage, [], budget))
        assert one.ranking(), "something is on the board"
        best = one.chosen()[0]
        assert stage.now + one.final_seconds(best) <= budget + 1e-6
        assert best.family.name != slow or takes < 1e9

    def test_what_outruns_its_turn_is_killed_and_tried_on_fewer_rows(self):
        stage = Stage(lambda t: 0.01 if t.family != "boosting" else 0.01 * (t.rows or 8000), quality)
        one = run(stage, race(stage, ["tree", "boosting"], 60, rows=8000, tries=1))
        entry = one.best_of("boosting")
        assert entry is not None and 0 < entry.rows < 8000
        assert stage.now <= 60

    def test_what_never_ends_is_a_row_with_its_reason_and_costs_no_one_a_turn(self):
        stage = Stage(lambda t: math.inf if t.family == "boosting" else 0.05, quality)
        one = run(stage, race(stage, ["tree", "boosting", "forest"], 30, tries=1))
        failed = next(e for e in one.entries if e.family.name == "boosting")
        assert "killed after" in str(failed.problem)
        assert one.best_of("forest") and one.best_of("tree")

    def test_a_winner_that_cannot_be_fitted_in_time_is_not_pursued(self):
        """Its folds would fit into the budget; they and the final fit would not."""
        first = BY_NAME["tree"].settings(CONTEXT)[0]
        quick, good = {str(first): 0.1}, {str(first): 0.7}
        stage = Stage(lambda t: quick.get(str(t.setting), 3.0), lambda t: good.get(str(t.setting), 0.9), cores=1)
        one = run(stage, race(stage, ["tree"], 12))
        assert one.ranking()[0].setting == first
        assert stage.now + one.final_seconds(one.ranking()[0]) <= 12

    def test_a_save_of_ones_own_choice_gets_its_time(self):
        stage = Stage(lambda t: 2.0 if t.family == "forest" else 0.1, quality)
        one = run(stage, race(stage, ["forest", "boosting"], 40, save="forest"))
        assert one.chosen()[0].family.name == "forest"
        assert stage.now + one.final_seconds(one.chosen()[0]) <= 40


class TestLargeData:
    def test_first_turns_are_on_samples(self):
        assert first_rows(800, 5) == 0
        assert first_rows(16_512, 14) == 0
        assert first_rows(800_000, 20) == 20_000
        assert first_rows(8_000, 784) == 2_551
        assert first_rows(8_000, 100_000) == 1_000

    def test_the_better_half_gets_more_rows_up_to_all(self):
        stage = Stage(lambda t: 1e-5 * (t.rows or 800_000), quality)
        one = run(stage, race(stage, ["bayes", "tree", "logistic", "boosting"], 500, rows=800_000, tries=1))
        assert [e.family.name for e in one.entries if e.rows == 0] == ["boosting", "logistic"]
        assert one.ranking()[0].rows == 0

    def test_only_as_many_rows_as_there_is_time_for(self):
        stage = Stage(lambda t: 1e-4 * (t.rows or 800_000), quality)
        one = run(stage, race(stage, ["boosting"], 120, rows=800_000, tries=1))
        assert 20_000 <= one.ranking()[0].rows < 800_000
        assert stage.now <= 120


class TestFailures:
    def test_a_model_that_raises_is_a_row_with_its_reason(self):
        stage = Stage(lambda t: 0.1, quality)
        start = stage.start

        def failing(trial, seconds):
            start(trial, seconds)
            if trial.family == "tree":
                stage.running[-1] = (*stage.running[-1][:2], Outcome(problem="ValueError: no"))

        stage.start = failing
        one = run(stage, race(stage, ["tree", "knn"], 100, tries=1))
        assert {e.family.name: e.problem for e in one.entries} == {"dummy": None, "tree": "ValueError: no", "knn": None}

    def test_what_would_not_fit_into_memory_never_starts(self):
        stage = Stage(lambda t: 0.1, quality)
        terms = Terms(CONTEXT, 5, 800, 5, 1, 0.25, 100, tries=1)
        refuse = lambda t: "would need 12 GiB" if t.family == "knn" else None  # noqa: E731
        one = run(stage, Race(choose(["tree", "knn"], "classification"), terms, stage.clock, refuse))
        assert not [trial for trial in stage.started if trial.family == "knn"]
        assert next(e for e in one.entries if e.family.name == "knn").problem == "would need 12 GiB"
        assert one.best_of("tree")

    def test_every_default_is_told_of_once(self):
        stage = Stage(lambda t: math.inf if t.family == "knn" else 0.5, quality)
        one = race(stage, [], 15)
        told = []
        for _ in play(one, stage):
            told += [e.family.name for e in one.news() if e.stage == "default"]
        one.close()
        told += [e.family.name for e in one.news() if e.stage == "default"]
        assert sorted(told) == sorted(f.name for f in choose([], "classification"))


def test_a_mean_over_folds_does_not_depend_on_which_was_done_first():
    """0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floating point."""
    outcomes = {fold: Outcome(value, ece=value, brier=value) for fold, value in enumerate((0.1, 0.2, 0.3))}
    stage = Stage(lambda trial: 1.0, quality)
    one = race(stage, ["tree"], 10, folds=3)
    first, second = one.entries
    first.outcomes = dict(outcomes)
    second.outcomes = dict(reversed(outcomes.items()))
    for name in ("score", "ece", "brier", "fit_seconds"):
        assert first.mean(name) == second.mean(name)
    assert one.sample(first) == one.sample(second)
    assert [_known(entry, "ece") for entry in (first, second)] == [first.mean("ece")] * 2
