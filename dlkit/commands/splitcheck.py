"""Is this split honest? Adversarial validation, duplicates, groups, time, labels, leaks and drift; exit 1 if not.

Examples:
  dlkit splitcheck train.csv valid.csv --target y
  dlkit splitcheck data.csv --split fold --target y --group patient_id --time date
  dlkit splitcheck train.csv valid.csv --target price --ablate
  dlkit splitcheck photos/train photos/val
  dlkit splitcheck train.csv valid.csv --json | jq '.rows[] | select(.verdict == "fail")'

A row a check: pass, warn, fail or skip, the value and its threshold, what was looked at, and what
to do. A classifier learns to tell the sides apart (out of fold; ids and dates are judged apart):
it fails where the interval of its AUC, corrected for the folds, lies above --threshold, or as far
below 0.5, where rows are shared. Below 50 rows a side there is no verdict: skip. With --group,
whole groups are dealt to folds and permuted: without it grouped rows look separable. An AUC near
0.5 does not prove that P(y|x) is the same. Next: dlkit split makes an honest one.
"""

from typing import Annotated, Any, Literal

import typer

from dlkit.commands import _options as opt
from dlkit.commands import _runs
from dlkit.core import complete
from dlkit.core.reading import Reading
from dlkit.core.result import Result


def _how(what: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=what, rich_help_panel="What is checked", **more)


def _column(what: str) -> Any:
    return _how(what, metavar="COLUMN", autocompletion=complete.columns)


def _besides(what: str, metavar: str = "FILE", **more: Any) -> Any:
    return typer.Option(help=what, metavar=metavar, rich_help_panel="Besides", **more)


def _side(what: str, metavar: str) -> Any:
    return typer.Argument(metavar=metavar, help=what, show_default=False)


@opt.reading()
def command(
    reading: Reading,
    train: Annotated[str, _side("The training side, or one source of both (--split).", "TRAIN")],
    valid: Annotated[str | None, _side("The validation side.", "[VALID]")] = None,
    split: Annotated[str | None, _column("In one file, says the side: train, valid (or 0, 1), test.")] = None,
    group: Annotated[list[str] | None, _column("None of its values may be on both sides. Repeatable.")] = None,
    time: Annotated[str | None, _column("Validation must be later than training.")] = None,
    model: Annotated[
        Literal["forest", "boosting", "linear"] | None,
        _how("Tells the sides apart.", show_default="forest; boosting from 5000 rows on"),
    ] = None,
    threshold: Annotated[
        float, _how("AUC above which they can be told apart.", parser=opt.share, metavar="AUC")
    ] = 0.55,
    ablate: Annotated[bool, _how("Drop the telling columns, refit the task.", "--ablate")] = False,
    embed: Annotated[str | None, _how("Compare rows as the network of this run sees them.", metavar="RUN")] = None,
    weights: Annotated[str | None, _besides("Write importance weights of the rows of train.")] = None,
    plot: Annotated[str | None, _besides("Draw it: .png, .svg or .pdf.", parser=opt.picture)] = None,
    engine: Annotated[str, _besides("local, local:N (processes) or dask://HOST:PORT.", "WHERE")] = "local",
    seed: Annotated[int, _how("Of folds, samples and models.", min=0, max=2**31 - 1)] = 0,
) -> Result:
    from dlkit.ml import splitcheck as checks
    from dlkit.ml.checks.adversarial import Settings

    if threshold < 0.5:
        raise typer.BadParameter(f"must be 0.5 or more. Got {threshold:g} instead.", param_hint="--threshold")
    embedder = None
    if embed is not None:
        embedder = _runs.open_embedding(embed).numbers
    settings = Settings(threshold, model, seed)
    asked = checks.Request(train, valid, split, tuple(group or ()), time, settings, ablate, weights, plot, engine)
    return checks.answer(asked, reading, embedder)
