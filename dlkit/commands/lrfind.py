"""Find a learning rate: raise it a little every step, watch the loss, and suggest one with its spread over seeds.

Examples:
  dlkit lrfind digits
  dlkit train digits --lr $(dlkit lrfind digits -q)
  dlkit lrfind titanic.csv --target survived --json | jq .summary.suggestions

The suggestion is the median over seeds of the median of three rules: valley (half-way down
the longest fall), steep (steepest fall) and minimum (lowest loss, divided by 10). Where the
loss shows no clear fall there is no suggestion, and the exit code is 1. No file is written.
Next: dlkit train with the same words and --lr.
"""

from typing import Annotated

import typer

from dlkit.commands import _options as opt
from dlkit.commands import _recipe as rec
from dlkit.core.job import JobOptions
from dlkit.core.recipe import Recipe
from dlkit.core.result import Result

_SWEEP = "Sweep"


@opt.job
@rec.recipe("epochs", "lr", "min_lr", "patience", "ema", "swa")
def command(
    job: JobOptions,
    recipe: Recipe,
    *,
    start: Annotated[
        float, typer.Option(help="First rate.", parser=opt.positive, metavar="NUMBER", rich_help_panel=_SWEEP)
    ] = 1e-6,
    end: Annotated[
        float, typer.Option(help="Last rate.", parser=opt.positive, metavar="NUMBER", rich_help_panel=_SWEEP)
    ] = 10.0,
    steps: Annotated[int, typer.Option(min=30, help="Steps a sweep.", rich_help_panel=_SWEEP)] = 150,
    seeds: Annotated[
        int,
        typer.Option(min=1, help="Sweeps, each with fresh weights and row order.", rich_help_panel=_SWEEP),
    ] = 3,
) -> Result:
    if end <= start:
        raise typer.BadParameter(f"must be above --start ({start:g}). Got {end:g} instead.", param_hint="--end")
    from dlkit.nn import answers

    return answers.lrfind(job, recipe, start, end, steps, seeds)
