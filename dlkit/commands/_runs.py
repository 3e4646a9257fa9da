"""What `eval` and `predict` share: runs of any kind opened as predictors, alone or as an ensemble."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlkit.commands import _processes as proc
from dlkit.commands._module import refuse_idle
from dlkit.core import complete, console, peers
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.keeping import Processes
from dlkit.core.reading import Reading
from dlkit.core.run import Run, open_run

if TYPE_CHECKING:
    from dlkit.data import Dataset
    from dlkit.data.compare import Rival
    from dlkit.data.ensemble import Ensemble, Member
    from dlkit.data.predictor import Predictor
    from dlkit.data.table import Table
    from dlkit.ml.embedding import Embedding

_ENSEMBLE = "Several runs, several views"
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN... DATA",
        help="Run directories of train, baseline or cluster, then the data: a file, a folder, - or a set's name.",
        autocompletion=complete.runs,
        show_default=False,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="W1,W2,…|FILE", rich_help_panel=_ENSEMBLE, show_default="all the same",
        help="Weights of the runs, or labelled rows to fit them on, as for --stack.",
    ),
]  # fmt: skip
Stack = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", rich_help_panel=_ENSEMBLE,
        help="Labelled rows: a logistic (ridge) regression on the runs' predictions is fitted on them. Baselines may "
        "have been trained on them: they are fitted again on folds.",
    ),
]  # fmt: skip
Tta = Annotated[
    str | None,
    typer.Option(
        metavar="VIEWS", rich_help_panel=_ENSEMBLE,
        help="Average over views of each image: flip, vflip, crop, or several (flip,crop). Only those that keep what "
        "the image is.",
    ),
]  # fmt: skip

READING = ("na", "delimiter", "header", "encoding")
"""What may be said about reading a source whose columns the run knows already."""
NOT_READING = tuple(name for name in Reading.__dataclass_fields__ if name not in READING)


def split_words(words: Sequence[str] | None, command: str) -> tuple[list[str], str]:
    """(runs, data)."""
    if not words or len(words) < 2:
        example = f"for example: dlkit {command} runs/iris-mlp-1 iris"
        raise DlkitError("a run directory and the data are needed" if not words else "the data is missing", example)
    return list(words[:-1]), words[-1]


def open_runs(paths: Sequence[str], data: str, nproc: int, modules: Sequence[str] | None = None) -> list[Run]:
    """The runs, in one process or in each of several. What a network has no part in is one process's work."""
    proc.start(Processes(nproc), data)
    runs = [open_run(path) for path in paths]
    if all(run.command != "train" for run in runs):
        proc.single(nproc, f"a run of {runs[0].command}")
    refuse_idle(modules, runs)
    return runs


def open_ensemble(
    runs: Sequence[Run],
    reading: Reading,
    device: str,
    tta: str | None,
    weights: str | None,
    stack: str | None,
    modules: Sequence[str] | None = None,
) -> "Ensemble":
    """The runs as one predictor: averaged, weighted or stacked. Of several processes the first alone gets it: the
    others run its networks with it."""
    from dlkit.data import ensemble

    if len(runs) == 1 and (weights or stack):
        raise DlkitError(f"--{'weights' if weights else 'stack'} is for several runs; this is one")
    if weights and stack:
        raise DlkitError("--weights and --stack exclude each other")
    whole = ensemble.ensemble(_members(runs, device, tta, modules or ()))
    if stack and whole.labels:
        raise DlkitError("--stack is for classes and values; runs of several labels are averaged, or take --weights")
    if stack:
        from dlkit.ml.stack import fit

        return replace(whole, combine=fit(*ensemble.known(whole, stack, reading, "--stack", _again), whole.task))
    if not weights:
        return whole
    numbers = ensemble.parse_weights(weights, len(runs))
    if numbers is None:
        numbers = ensemble.fit_weights(*ensemble.known(whole, weights, reading, "--weights", _again))
        console.note("weights: " + ", ".join(f"{run.path} {w:.3f}" for run, w in zip(runs, numbers, strict=True)))
    return replace(whole, combine=ensemble.weighted(numbers))


def open_embedding(path: str) -> "Embedding":
    """The network that --embed names, opened to read rows through it."""
    run = open_run(path)
    if run.command != "train":
        raise DlkitError(f"--embed {path}: a run of {run.command}, and no network", "name a run of dlkit train")
    if run.of_text:
        raise DlkitError(f"--embed {path}: a language model, which reads no rows")
    if "module" in run.config:
        raise DlkitError(f"--embed {path}: its network is a module of your own; one in the network language is needed")
    return _embedding(run, "auto")


def _embedding(run: Run, device: str) -> "Embedding":
    """A network, whose weights and torch are loaded when the first rows go through it: what is cheap to check is
    checked before."""
    from dlkit.data import Schema
    from dlkit.ml.embedding import Embedding

    @cache
    def network() -> Any:
        from dlkit.nn.predictor import open_network

        return open_network(run, device)

    return Embedding(run, Schema.from_json(run.schema), lambda rows, done: network().embed(rows, done))


def _embedding_within(run: Run, device: str = "auto") -> "Embedding | None":
    """The network that a baseline reads its rows through, opened; None where it reads them as they are."""
    from dlkit.ml.embedding import network_within

    found = network_within(run)
    return None if found is None else _embedding(found, device)


def _again(member: "Member", table: "Table", option: str) -> Any:
    """A baseline is fitted again on folds of the rows that it knows; a network would have to be trained again."""
    source = table.place.source
    if member.knows_by_heart(table):
        which = f"the network of {member.name}" if member.network else member.name
        message = f"{option} {source}: {which} was trained on it, and knows its rows by heart"
        raise DlkitError(message, "give it labelled rows that no run has seen", ExitCode.BAD_DATA)
    from dlkit.ml.engine import open_engine
    from dlkit.ml.oof import out_of_fold
    from dlkit.ml.persist import Baseline

    assert isinstance(member.predictor, Baseline)  # clusters predict no target
    console.note(f"{member.name} was trained on {source}: it is fitted again on folds of it")
    with open_engine() as engine:
        return out_of_fold(member.run, source, engine, member.predictor.embedding)


def _members(runs: Sequence[Run], device: str, tta: str | None, modules: Sequence[str]) -> list["Member"]:
    if not (peers.several() and any(run.command == "train" for run in runs)):
        return [_member(run, device, tta, modules) for run in runs]
    from dlkit.nn import lend

    ranks = lend.join()
    return lend.lent([_member(run, device, tta, modules) for run in runs], ranks)


def _member(run: Run, device: str, tta: str | None, modules: Sequence[str]) -> "Member":
    from dlkit.data.ensemble import Member

    if run.command == "train":
        from dlkit.nn.predictor import open_network
        from dlkit.nn.views import parse

        return Member(run, open_network(run, device, parse(tta) if tta else (), modules))
    from dlkit.ml.persist import load

    if tta:
        raise DlkitError(f"--tta is for networks; {run.path} is a run of {run.command}")
    embedding = _embedding_within(run, device)
    return Member(run, load(run, embedding), embedding.run if embedding else None)


def rival(path: str, device: str, modules: Sequence[str] = ()) -> "Rival":
    """A run to compare with. A baseline is fitted anew on the training rows at hand; a network is taken as it is.
    `modules`: the words in which a module of the user's own may be named."""
    from dlkit.data.compare import Rival

    run = open_run(path)
    if run.command == "train":
        from dlkit.nn.predictor import open_network

        network = open_network(run, device, modules=modules)
        return Rival(path, run.config, run.schema, lambda rows: network)
    if run.command != "baseline":
        raise DlkitError(f"--against {path}: a run of {run.command}, which predicts no target")
    embedding = _embedding_within(run, device)
    # The baseline forgets what it was fitted on; a network that it reads rows through does not.
    config = embedding.run.config if embedding else run.config
    return Rival(path, config, run.schema, lambda rows: _refit(run, rows, embedding))


def _refit(run: Run, rows: "Dataset", embedding: "Embedding | None") -> "Predictor":
    from dlkit.ml.refit import refit

    return refit(run, rows, embedding)
