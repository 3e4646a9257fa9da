"""Train a network on a table, on images, on texts or on arrays, and keep the best weights in a run directory.

Examples:
  dlkit train digits
  dlkit train titanic.csv --target survived
  dlkit train films.csv --target drama --target comedy
  dlkit train mnist.npz conv:32,k3 relu maxpool:k2 flatten linear:10 --epochs 5
  dlkit train reviews.csv --target label --text review --vocab bpe:4000
  dlkit train book.txt bert:layers=4,width=256 --context 128
  dlkit train digits --lr $(dlkit lrfind digits -q)
  dlkit train digits --format jsonl | jq .accuracy
  dlkit train digits --resume runs/digits-cnn-1 --epochs 40
  dlkit train digits --plot curves.png --tensorboard
  dlkit train digits net.py:Net:width=64
  dlkit train mine.csv --init-from runs/yours-mlp-1 --lora r=8,alpha=16

Columns are standardised and one-hot encoded as the training side says; the validation
side is held out, stratified by class. With --text a column of text alone is read, as tokens;
a .txt trains a language model, a masked one if the network sees what follows a token. Several
--target, of two values each, are learned at once (multi-label), their rows held out at random.
Ctrl-C stops after the current step and saves where it is; --resume goes on from there.
FILE.py:CLASS or PACKAGE.MODULE:CLASS, with arguments after a second colon, is a module of
your own, from rows (B×features, B×C×H×W, B×T tokens) to B×classes scores or B×1 values: it is
imported, which runs its code. Only a command line may name one, never a run.
Next: dlkit convshape shows the cost of a network before it is trained.
"""

from typing import Annotated

import typer

from dlkit.commands import _keeping as keep
from dlkit.commands import _options as opt
from dlkit.commands import _processes as proc
from dlkit.commands import _recipe as rec
from dlkit.commands import _runs
from dlkit.core.job import JobOptions
from dlkit.core.keeping import Keeping, Processes
from dlkit.core.recipe import Recipe
from dlkit.core.result import Result


@opt.job
@rec.recipe()
@keep.keeping
@proc.processes()
def command(
    job: JobOptions,
    recipe: Recipe,
    keeping: Keeping,
    *,
    processes: Processes,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="The run directory to make.", show_default="runs/DATA-NETWORK-N"),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Close with a run of baseline or train on the same rows.",
                     show_default="none"),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Network, costs, memory, steps and time of the run, and no run."),
    ] = False,
) -> Result:  # fmt: skip
    if not dry_run:
        keep.check_out(out, keeping)
    from dlkit.nn import answers

    rival = _runs.rival(against, job.device, job.network) if against else None
    if dry_run:
        keeping.refuse_pictures()
        return answers.dry_run(job, recipe)
    return answers.train(job, recipe, keeping, processes, out, rival)
