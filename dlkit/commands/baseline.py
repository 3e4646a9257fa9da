"""What classic models already score: cross-validated SVM, boosting, neighbours, forest, linear, Bayes; saves the best.

Examples:
  dlkit baseline iris
  dlkit baseline titanic.csv --target survived --drop alive
  dlkit baseline housing.csv --target price --budget 5m --models boosting,forest
  dlkit baseline visits.csv --target cured --group patient --metric auc
  dlkit baseline sales.csv --target sold --time day --format jsonl
  dlkit baseline photos/ --embed runs/photos-resnet18-1 --models logistic,knn

A row for each family as it comes, defaults first; then, while the budget lasts, other
settings of those that do well. Columns are imputed, scaled and encoded inside each fold.
A fit that outruns its time is killed. Next: dlkit eval, dlkit predict on the run directory.
"""

import time
from typing import Any

from dlkit.commands import _board as board
from dlkit.commands import _options as opt
from dlkit.commands import _runs
from dlkit.core.contest import Contest
from dlkit.core.reading import Reading
from dlkit.core.result import Result
from dlkit.core.splitting import Splitting


@opt.reading()
@opt.splitting("group", "time", "gap", "stratify", "split")
def command(
    reading: Reading,
    splitting: Splitting,
    data: opt.Data,
    *,
    models: board.Models = None,
    metric: board.Metric = None,
    budget: board.Budget = "60s",
    tries: board.Tries = None,
    balance: board.Balance = False,
    save: board.Save = None,
    embed: board.Embed = None,
    folds: board.Folds = None,
    valid: board.Valid = None,
    seed: opt.Seed = 0,
    engine: board.Engine = "local",
    out: board.Out = None,
) -> Result:
    started = time.monotonic()
    names = tuple(name.strip() for words in models or () for name in words.split(",") if name.strip())
    said: dict[str, Any] = {
        "balance": balance,
        "engine": engine,
        "save": save,
        "out": out,
        "seed": seed,
        "embed": embed,
    }
    contest = Contest(data, valid, names, folds, metric, budget, tries, reading=reading, splitting=splitting, **said)
    from dlkit.ml import begin

    return begin.board(contest, started, _runs.open_embedding)
