"""What classic models already score: cross-validated SVM, boosting, neighbours, forest, linear, Bayes; saves the best.

Examples:
  dlkit baseline iris
  dlkit baseline titanic.csv --target survived --drop alive
  dlkit baseline housing.csv --target price --budget 5m --models boosting,forest
  dlkit baseline visits.csv --target cured --group patient --metric auc
  dlkit baseline sales.csv --target sold --time day --format jsonl

A row for each family as it comes, defaults first; then, while the budget lasts, other
settings of those that do well. Columns are imputed, scaled and encoded inside each fold.
A fit that outruns its time is killed. Next: dlkit eval, dlkit predict on the run directory.
"""

import time
from typing import Annotated, Any

import typer

from dlkit.commands import _options as opt
from dlkit.core import units
from dlkit.core.reading import Reading
from dlkit.core.result import Result
from dlkit.core.splitting import Splitting

_BOARD = "Board"


def _budget(text: str) -> float:
    try:
        return units.duration(text)
    except ValueError as problem:
        raise typer.BadParameter(str(problem)) from None


@opt.reading()
@opt.splitting("group", "time", "gap", "stratify", "split")
def command(
    reading: Reading,
    splitting: Splitting,
    data: opt.Data,
    *,
    models: Annotated[
        list[str] | None,
        typer.Option(help="Families, by comma: svm, forest, …; also kmeans, em. Repeatable.", rich_help_panel=_BOARD,
                     show_default="all that suit the task"),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="accuracy, balanced_accuracy, f1, auc, log_loss, brier; rmse, mae, r2.",
                     rich_help_panel=_BOARD, show_default="accuracy or rmse"),
    ] = None,
    budget: Annotated[
        Any, typer.Option(help="Time for everything: 60s, 5m.", parser=_budget, metavar="TIME", rich_help_panel=_BOARD)
    ] = "60s",
    tries: Annotated[
        int | None,
        typer.Option(min=1, help="Settings tried in a family at most; 1: defaults alone.", rich_help_panel=_BOARD,
                     show_default="as the budget allows"),
    ] = None,
    balance: Annotated[
        bool, typer.Option("--balance", help="Weigh classes alike, however rare.", rich_help_panel=_BOARD)
    ] = False,
    save: Annotated[
        str | None, typer.Option(help="The family to save.", rich_help_panel=_BOARD, show_default="the best")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds that score.", rich_help_panel="Split")] = 5,
    valid: Annotated[
        str | None, typer.Option(metavar="FILE", help="Score on this file, not on folds.", rich_help_panel="Split")
    ] = None,
    seed: opt.Seed = 0,
    engine: Annotated[
        str, typer.Option(help="local, local:N processes, or dask://HOST:PORT.", rich_help_panel="Machine")
    ] = "local",
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="The run directory to make.", show_default="runs/DATA-baseline-N"),
    ] = None,
) -> Result:  # fmt: skip
    started = time.monotonic()
    from dlkit.core.contest import Contest

    names = tuple(name.strip() for words in models or () for name in words.split(",") if name.strip())
    asked = Contest(data, valid, names, folds, metric, budget, tries, seed, balance, engine, save, out, reading,
                    splitting)  # fmt: skip
    from dlkit.ml import server

    server.warm_up()
    from dlkit.ml.baseline import answer

    return answer(asked, started)
