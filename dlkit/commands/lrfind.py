"""Find a learning rate: raise it a little every step, watch the loss, and suggest one with its spread over seeds.

Examples:
  dlkit lrfind digits
  dlkit train digits --lr $(dlkit lrfind digits -q)
  dlkit lrfind titanic.csv --target survived --json | jq .summary.suggestions
  dlkit lrfind digits --optimizer sgd --schedule constant
  dlkit lrfind digits --verify 3
  dlkit lrfind digits --batch-size auto --plot rates.png

After each step the same held-out rows are looked at. The suggestion is the median over seeds of
what a rule says of their loss: minimum (the lowest, its rate divided by 10), valley (half-way
down the longest fall), steep (steepest fall), slide (before the final climb) or consensus (the
median of the first three), times what was measured to be best for it, more for the peak of
one-cycle than for a rate that stays. --verify trains a few epochs at rates around it under the
schedule and takes the best, its neighbours having a say, or goes half-way to it where the rate
is to stay. Where the loss shows no clear fall there is no suggestion, and the exit code is 1.
--plot alone writes a file.
FILE.py:CLASS is a module of your own: it is imported, which runs its code.
Next: dlkit train with the same words and --lr; dlkit train --lr auto does both.
"""

from typing import Annotated, Any, Literal

import typer

from dlkit.commands import _options as opt
from dlkit.commands import _processes as proc
from dlkit.commands import _recipe as rec
from dlkit.core.job import JobOptions
from dlkit.core.recipe import Recipe
from dlkit.core.result import Result
from dlkit.core.search import Search

_SWEEP = "Sweep"


def _rate(help: str) -> Any:
    return typer.Option(help=help, parser=opt.positive, metavar="NUMBER", rich_help_panel=_SWEEP)


@opt.job
@rec.recipe("epochs", "lr", "min_lr", "patience", "ema", "swa", "watch")
@proc.processes("nproc")
def command(
    job: JobOptions,
    recipe: Recipe,
    *,
    start: Annotated[float, _rate("First rate.")] = Search.start,
    end: Annotated[float, _rate("Last rate.")] = Search.end,
    steps: Annotated[int, typer.Option(min=30, help="Steps a sweep.", rich_help_panel=_SWEEP)] = Search.steps,
    spacing: Annotated[
        Literal["geometric", "linear"], typer.Option(help="Of the rates.", rich_help_panel=_SWEEP)
    ] = "geometric",
    seeds: Annotated[
        int, typer.Option(min=1, help="Sweeps, each with fresh weights and row order.", rich_help_panel=_SWEEP)
    ] = Search.seeds,
    rule: Annotated[
        Literal["minimum", "consensus", "valley", "steep", "slide"],
        typer.Option(help="What the suggestion is read by.", rich_help_panel=_SWEEP),
    ] = Search.rule,  # type: ignore[assignment]
    verify: Annotated[
        int | None,
        typer.Option(min=1, metavar="EPOCHS", help="Try rates around it in short runs.", rich_help_panel=_SWEEP,
                     show_default="none"),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(parser=opt.picture, metavar="FILE", help="Draw the sweeps: .png, .svg or .pdf.",
                     rich_help_panel="Seeing", show_default="none"),
    ] = None,
) -> Result:  # fmt: skip
    if end <= start:
        raise typer.BadParameter(f"must be above --start ({start:g}). Got {end:g} instead.", param_hint="--end")
    from dlkit.nn import answers

    return answers.lrfind(job, recipe, Search(start, end, steps, spacing, seeds, rule, verify), plot)
