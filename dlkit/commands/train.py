"""Train a network on a table, on images or on arrays, and keep the best weights in a run directory.

Examples:
  dlkit train digits
  dlkit train titanic.csv --target survived
  dlkit train mnist.npz conv:32,k3 relu maxpool:k2 flatten linear:10 --epochs 5
  dlkit train digits --lr $(dlkit lrfind digits -q)
  dlkit train digits --format jsonl | jq .accuracy

Columns are standardised and one-hot encoded as the training side says; the validation
side is held out, stratified by class. Ctrl-C stops after the current step and keeps what
was learnt. Next: dlkit convshape shows the cost of a network before it is trained.
"""

from typing import Annotated, Literal

import typer

from dlkit.commands import _options as opt
from dlkit.core.job import JobOptions
from dlkit.core.result import Result


@opt.job
def command(
    job: JobOptions,
    *,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training rows.", rich_help_panel="Training")] = 20,
    lr: Annotated[
        float,
        typer.Option(
            help="Peak learning rate (dlkit lrfind finds one).",
            parser=opt.positive, metavar="NUMBER", rich_help_panel="Training",
        ),
    ] = 0.003,
    schedule: Annotated[
        Literal["one-cycle", "cosine", "constant"],
        typer.Option(help="How the rate moves over the run.", rich_help_panel="Training"),
    ] = "one-cycle",
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="The run directory to make.", show_default="runs/DATA-NETWORK-N"),
    ] = None,
) -> Result:  # fmt: skip
    from dlkit.nn import answers
    from dlkit.nn.fit import Recipe

    return answers.train(job, Recipe(epochs, lr, job.optimizer, schedule, job.weight_decay), out)
