"""`dlkit baseline`: read, race, fit the best on all rows, save it; and never take longer than was said."""

import platform
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import sklearn

from dlkit import __version__
from dlkit.core import console
from dlkit.core.contest import Contest
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.machine import free_bytes
from dlkit.core.result import Column, Result, Row
from dlkit.core.run import RunDirectory
from dlkit.data import Dataset
from dlkit.data.announce import announce
from dlkit.ml import board as words
from dlkit.ml import persist
from dlkit.ml.board import Board
from dlkit.ml.data import Prepared, near_leaks, prepare
from dlkit.ml.embedding import Embedding
from dlkit.ml.engine import DASK, open_engine
from dlkit.ml.families import BY_NAME, choose
from dlkit.ml.pool import Cluster, Finisher, Processes
from dlkit.ml.race import Entry, Race, Terms, play
from dlkit.ml.trial import Outcome, Stored, Trial, fits_in_memory

SHORTEST_SECONDS, LAST_SECONDS = 0.5, 10.0
"""What a final fit may take where the budget is spent already: any model, and the dummy."""


def answer(contest: Contest, dataset: Dataset, started: float, embedding: Embedding | None = None) -> Result:
    """Everything that can fail before the first fit fails here; the rows of the result do the work."""
    families = choose(contest.models, dataset.task)
    if contest.save is not None:
        families = _with_saved(contest.save, dataset.task, families)
    prepared = prepare(contest, dataset, embedding, started + contest.budget)
    reader = None if embedding is None else str(embedding.run.path)
    leaks = announce(dataset, prepared.notes[len(dataset.notes) :], reader=reader)
    if embedding is not None:
        flatters, sentence = embedding.has_seen(contest, dataset, prepared.scored)
        if sentence is not None:
            (console.warn if flatters else console.note)(sentence)
    unit = "accuracy above the most frequent class" if dataset.classes else "R²"
    for name, share in near_leaks(prepared, leaks).items():
        console.warn(f"column {name!r} alone predicts {dataset.target!r} ({unit} {share:.3f}): is it known beforehand?")
        leaks.append(name)
    if (said := words.imbalance(prepared)) is not None:
        console.note(said)
    console.note(words.about(prepared))
    directory = RunDirectory.create(contest.out, f"{dataset.name}-baseline")
    terms = Terms(
        *(prepared.data.context, prepared.folds, prepared.train_rows, prepared.width),
        *(prepared.metric.sign, prepared.ratio, started + contest.budget),
        tries=contest.tries,
        save=contest.save,
    )
    work = _Work(contest, prepared, families, terms, directory, started, leaks)
    kind: Any = prepared.metric.kind
    facts = [Column("best"), Column("score", kind, prepared.metric.name), Column("score_se", kind, "±")]
    facts += [Column("seconds", "seconds", "time"), Column("run")]
    result = Result(words.columns(prepared), [], {}, "score", facts, streams=True)
    result.rows = work.rows(result)
    return result


def _with_saved(name: str, task: str, families: list[Any]) -> list[Any]:
    """--save names one family, which then takes part, asked for or not."""
    asked = [family for family in choose([name], task, "--save") if family.name != "dummy" or name.lower() == "dummy"]
    if len(asked) != 1:
        raise DlkitError(f"--save {name} is several models", "name one: " + ", ".join(f.name for f in asked))
    names = {family.name for family in (*families, *asked)}
    return [family for family in BY_NAME.values() if family.name in names]


class _Work:
    """One board from its first trial to its run directory."""

    def __init__(
        self,
        contest: Contest,
        prepared: Prepared,
        families: list[Any],
        terms: Terms,
        directory: RunDirectory,
        started: float,
        leaks: list[str],
    ) -> None:
        self.contest, self.prepared, self.families, self.terms = contest, prepared, families, terms
        self.directory, self.started, self.leaks = directory, started, leaks

    def rows(self, result: Result) -> Iterator[Row]:
        """The board's rows; then the summary is filled in. Cut short, it leaves no directory behind."""
        try:
            with ExitStack() as stack:
                yield from self._rows(result, stack)
        except BaseException:
            self.directory.discard()
            raise

    def _rows(self, result: Result, stack: ExitStack) -> Iterator[Row]:
        if self.prepared.embedding is not None:
            self.prepared.embedding.copy_into(self.directory)
        # A worker that was killed may still be writing: what it leaves must not cost the answer.
        scratch = tempfile.TemporaryDirectory(prefix="dlkit-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(scratch))
        stored = self.prepared.data.save(folder)
        runner, cores = self._runner(stored, stack)
        finisher = stack.enter_context(Finisher(stored, folder / persist.MODEL))
        stack.callback(runner.stop)
        race = self._race(cores)
        board = Board(race, self.prepared)
        total = len(self.families) * self.prepared.folds
        with console.progress(total, "fitting", "fit") as bar:
            for row in self._play(race, runner, board, bar):
                self.directory.log(
                    {k: v for k, v in row.items() if k != "settings"} | {"settings": str(row["settings"])}
                )
                yield row
        runner.stop()
        entry, outcome = self._save(race, stored, folder, finisher)
        result.summary.update(self._summary(race, board, entry, outcome))
        result.notes += self._notes(race, board)

    def _runner(self, stored: Stored, stack: ExitStack) -> tuple[Any, int]:
        """Where trials run, and how many at a time."""
        engine = stack.enter_context(open_engine(self.contest.engine))
        if self.contest.engine.startswith(DASK):
            return Cluster(self.prepared.data, engine), engine.processes
        memory = free_bytes()
        return Processes(stored, engine.processes, memory), engine.processes

    def _race(self, cores: int) -> Race:
        prepared = self.prepared
        free = None if self.contest.engine.startswith(DASK) else free_bytes()

        def refuse(trial: Trial) -> str | None:
            return fits_in_memory(trial, prepared.train_rows, prepared.width, prepared.data.context, free)

        return Race(self.families, replace(self.terms, cores=cores), time.monotonic, refuse)

    def _play(self, race: Race, runner: Any, board: Board, bar: Any) -> Iterator[Row]:
        for done in play(race, runner):
            bar.advance(done)
            yield from board.rows()
            bar.describe(self._state(race))
        if not race.ranking():
            raise self._nothing(race)
        yield from board.rows()
        yield from board.last_rows()

    def _state(self, race: Race) -> str:
        """What the progress bar says."""
        ranking = race.ranking()
        best = f"{ranking[0].family.name} {race.sample(ranking[0]).mean:.4g}, " if ranking else ""
        return f"{best}{max(race.left(), 0):.0f} s left"

    def _nothing(self, race: Race) -> DlkitError:
        race.close()
        reasons = [e.problem for e in race.entries if e.problem and e.outcomes == {}]
        late = time.monotonic() >= self.terms.end - 1
        hint, code = ("give it more: --budget 60s", ExitCode.USAGE) if late else (None, ExitCode.INTERNAL)
        message = f"no model could be scored within {self.contest.budget:g} s"
        return DlkitError(f"{message}: {reasons[0]}" if reasons else message, hint, code)

    # --- the final fit -----------------------------------------------------------------------------------------------

    def _save(self, race: Race, stored: Stored, folder: Path, finisher: Finisher | None) -> tuple[Entry, Outcome]:
        """The best model (or the one asked for) fitted on all rows and written; the next one that there is time for
        where that cannot be done."""
        tried: list[str] = []
        for entry in race.chosen():
            left = self.terms.end - time.monotonic()
            if tried and race.final_seconds(entry) > left and entry.family.name != "dummy":
                continue
            # The dummy is the last resort: it takes no time, and without it the board would be lost too.
            seconds = max(left, LAST_SECONDS if entry.family.name == "dummy" else SHORTEST_SECONDS)
            with finisher if finisher is not None else Finisher(stored, folder / persist.MODEL) as process:
                outcome = process.finish(entry.trial(self.prepared.folds), seconds)
            finisher = None
            if outcome.problem is None:
                self._write(entry, folder / persist.MODEL)
                if tried:
                    console.warn(f"{tried[0]}; {entry.family.name} is saved instead")
                return entry, outcome
            tried.append(f"{entry.family.name} could not be fitted on all rows in time: {outcome.problem}")
        raise DlkitError(tried[0], "give it more time: --budget")

    def _write(self, entry: Entry, path: Path) -> None:
        persist.save(self.directory, path.read_bytes(), self.prepared.coding)
        self.directory.write_json("schema.json", self.prepared.schema.to_json())
        self.directory.write_json("config.json", self._config(entry))
        self.directory.finish()

    def _config(self, entry: Entry) -> dict[str, Any]:
        """Everything needed to repeat the run, and to know that the data is the same."""
        return {
            "command": "baseline",
            "model": entry.family.name,
            "settings": dict(entry.setting),
            "train_rows": entry.rows or None,
            "metric": self.prepared.metric.name,
            "options": asdict(self.contest),
            "fingerprint": self.prepared.dataset.fingerprint,
            "versions": {
                "dlkit": __version__,
                "scikit-learn": sklearn.__version__,
                "python": platform.python_version(),
            },
        }

    # --- what is said at the end -------------------------------------------------------------------------------------

    def _summary(self, race: Race, board: Board, entry: Entry, outcome: Outcome) -> dict[str, Any]:
        standing = board.standing()
        best = standing[0]
        return {
            "run": str(self.directory.path),
            "task": self.prepared.dataset.task,
            "metric": self.prepared.metric.name,
            "best": best["model"],
            "score": best["score"],
            "score_se": best["score_se"],
            "rows": self.prepared.dataset.rows,
            "features": self.prepared.coding.features,
            "folds": self.prepared.folds,
            "saved": entry.family.name,
            "settings": dict(entry.setting),
            "like_best": [one["model"] for one in standing[1:] if one["like_best"]],
            "board": standing,
            "tried": sum(bool(e.outcomes) for e in race.entries),
            "leaks": self.leaks,
            "final_fit_seconds": outcome.fit_seconds,
            "seconds": time.monotonic() - self.started,
        }

    def _notes(self, race: Race, board: Board) -> list[str]:
        notes = words.verdict(board.standing(), self.prepared.metric.name, self.prepared.metric.kind)
        searched = sum(e.stage == "search" for e in race.entries)
        if searched and race.ranking()[0].stage == "search":
            notes.append(f"the best of {searched + len(self.families)} settings flatters itself a little: "
                         "a held-out file (--valid) would not")  # fmt: skip
        run = shlex.quote(str(self.directory.path))
        return [*notes, f"next: dlkit eval {run} DATA; dlkit predict {run} DATA"]
