"""Append predictions to a table: what a trained run, or several together, say of each row.

Examples:
  dlkit predict runs/titanic-mlp-1 new.csv > predicted.tsv
  dlkit predict runs/titanic-mlp-1 new.csv --out predicted.parquet
  cat new.csv | dlkit predict runs/titanic-mlp-1 - --format jsonl
  dlkit predict runs/titanic-mlp-1 runs/titanic-boosting-1 new.csv --out both.csv
  dlkit predict runs/tinyshakespeare-gpt-1 --generate 500 --prompt 'ROMEO:' --temperature 0.8

The input's columns stay, in their order and as they are written; then come `prediction` and,
for classes, the probability of each (`p_yes`); for several labels `prediction_drama` and
`p_drama` of each; for a run of cluster, `cluster`. Columns are
found by name and read as they were at training; no target is needed. CSV, TSV, JSON lines
and Parquet are read and written piece by piece, so that a file of any size fits.
A run of a module of your own is opened when --module FILE.py:CLASS names it again: that runs
its code, and a run by itself never does.
Next: dlkit eval --predictions scores what was written.
"""

from typing import Annotated

import typer

from dlkit.commands import _generate, _runs
from dlkit.commands import _options as opt
from dlkit.commands import _processes as proc
from dlkit.commands._module import Module
from dlkit.core.reading import Reading
from dlkit.core.result import Result


@opt.reading(without=_runs.NOT_READING)
def command(
    reading: Reading,
    words: _runs.Words = None,
    *,
    out: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write there, whole or not at all: .csv, .tsv, .jsonl (.gz), .parquet."),
    ] = None,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="Goes before the names of the new columns.")] = "",
    device: opt.Device = "auto",
    tta: _runs.Tta = None,
    weights: _runs.Weights = None,
    stack: _runs.Stack = None,
    module: Module = None,
    generate: _generate.Generate = None,
    prompt: _generate.Prompt = None,
    temperature: _generate.Temperature = None,
    top_k: _generate.TopK = None,
    seed: _generate.Seed = None,
    nproc: proc.Nproc = 1,
) -> Result:
    drawing = {"prompt": prompt, "temperature": temperature, "top_k": top_k, "seed": seed}
    if generate:
        proc.single(nproc, "--generate")
        _generate.refuse_of_rows(reading, out=out, prefix=prefix, tta=tta, weights=weights, stack=stack)
        return _generate.write(words, generate, device, module, **drawing)
    _generate.refuse(**drawing)
    paths, data = _runs.split_words(words, "predict")
    from dlkit.data import predict

    if out is not None:
        predict.check_out(out, data)
    runs = _runs.open_runs(paths, data, nproc, module)
    whole = _runs.open_ensemble(runs, reading, device, tta, weights, stack, module)
    return predict.written(whole, data, reading, prefix, out) if out else predict.printed(whole, data, reading, prefix)
