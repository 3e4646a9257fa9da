"""Write a trained network as a file that other programs run: ONNX, or torch's exported program.

Examples:
  dlkit export runs/digits-cnn-1 digits.onnx
  dlkit export runs/titanic-mlp-1 titanic.pt2 --json | jq '.rows[0].names'

The input is what the run's schema.json makes of a row (a table's features in the order of
`names`; pixels as they are read, normalised within), the output what `dlkit predict` says:
probabilities, or values in the target's own units. The number of rows is free. The file is
read back and compared with the network before it is put in place.
ONNX needs the extra [onnx]; .pt2 needs nothing more and is read by torch.export.load.
A run of a module of your own is opened when --module FILE.py:CLASS names it again: that runs
its code, and a run by itself never does.
"""

from typing import Annotated

import typer

from dlkit.commands._module import Module, refuse_idle
from dlkit.core.result import Result
from dlkit.core.run import open_run


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run directory of dlkit train.", show_default=False)],
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="What to write: NAME.onnx or NAME.pt2.", show_default=False)
    ],
    module: Module = None,
) -> Result:
    refuse_idle(module, [open_run(run)] if module else [])
    from dlkit.nn.export import export

    return export(run, file, module or ())
