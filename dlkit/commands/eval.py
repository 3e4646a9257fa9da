"""Score trained runs, alone or together, on labelled data; or score predictions, rankings and images from anywhere.

Examples:
  dlkit eval runs/iris-mlp-1 iris
  dlkit eval runs/titanic-mlp-1 runs/titanic-boosting-1 test.csv --weights valid.csv
  dlkit predict runs/iris-mlp-1 iris --format csv | dlkit eval --predictions - --truth target --pred prediction
  dlkit eval --predictions hits.csv --truth relevance --pred score --query query --at 10
  dlkit eval --images originals/ restored/
  dlkit eval --features real.npy generated.npy

Classes: accuracy, precision, recall, F1 (0/0 is 0), AUC (one against the rest beyond two
classes), log loss, Brier score, calibration error (15 equal bins of the top class's
probability), and what each class was taken for. Several labels: each one's own, subset
accuracy, Hamming loss, micro and macro F1; means over labels of the rest. Values: RMSE, MAE,
R². Intervals are 95 % of a bootstrap over rows. Ranking: MRR and nDCG. A text: perplexity,
bits per byte. A run of a module of your own is opened when --module FILE.py:CLASS names it
again: that runs its code, and a run by itself never does.
Next: dlkit predict.
"""

from dataclasses import replace

from dlkit.commands import _options as opt
from dlkit.commands import _processes as proc
from dlkit.commands import _runs, _score
from dlkit.commands._module import Module
from dlkit.core.reading import Reading
from dlkit.core.result import Result


@opt.reading(without=_runs.NOT_READING)
def command(
    reading: Reading,
    words: _runs.Words = None,
    *,
    rows: _score.Rows = "all",
    predictions: _score.Predictions = None,
    truth: _score.Truth = None,
    pred: _score.Pred = None,
    proba: _score.Proba = None,
    query: _score.Query = None,
    gain: _score.Gain = "linear",
    at: _score.At = None,
    log_prob: _score.LogProb = None,
    task: _score.Task = None,
    images: _score.Images = None,
    window: _score.Window = "gaussian",
    data_range: _score.DataRange = None,
    features: _score.Features = None,
    inception: _score.Inception = None,
    splits: _score.Splits = None,
    device: opt.Device = "auto",
    tta: _runs.Tta = None,
    weights: _runs.Weights = None,
    stack: _runs.Stack = None,
    nproc: proc.Nproc = 1,
    module: Module = None,
) -> Result:
    what = _score.one_of(RUN=words, predictions=predictions, images=images, features=features, inception=inception)
    _score.refuse_foreign(
        what, device=device, rows=rows, truth=truth, pred=pred, proba=proba, query=query, gain=gain, at=at,
        log_prob=log_prob, task=task, window=window, data_range=data_range, splits=splits, tta=tta, weights=weights,
        stack=stack, nproc=nproc, module=module or None,
    )  # fmt: skip
    if what != "RUN":
        proc.single(nproc, f"--{what}")
    if what == "predictions":
        from dlkit.data.predictions import Named, scored

        truths = tuple(truth or ())
        named = Named(
            truths[0] if len(truths) == 1 else None, pred, proba, query, log_prob, gain, at, truths[1:] and truths
        )
        return scored(str(predictions), named, replace(reading, task=task))
    if what != "RUN":
        return _score.pairs(reading, images, features, inception, window, data_range, splits)
    paths, data = _runs.split_words(words, "eval")
    runs = _runs.open_runs(paths, data, nproc, module)
    if len(runs) == 1 and runs[0].of_text:
        from dlkit.nn.language import score

        _score.refuse_for_texts(rows=rows, tta=tta, weights=weights, stack=stack)
        return score(runs[0], data, reading, device, module or ())
    from dlkit.data.evaluate import evaluate

    return evaluate(_runs.open_ensemble(runs, reading, device, tta, weights, stack, module), data, reading, rows)
