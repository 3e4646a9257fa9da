"""What `eval` scores besides runs: files of predictions, pairs of images, sets of features."""

from typing import Annotated, Any, Literal

import typer

from dlkit.commands import _options as opt
from dlkit.core import complete
from dlkit.core.errors import DlkitError
from dlkit.core.reading import Reading
from dlkit.core.result import Result

_FILE, _OTHER = "A file of predictions", "Images and features"


def _column(what: str) -> Any:
    option = typer.Option(help=what, metavar="COLUMN", autocompletion=complete.columns, rich_help_panel=_FILE)
    return Annotated[str | None, option]


def _two(what: str) -> Any:
    return Annotated[tuple[str, str] | None, typer.Option(metavar="A B", help=what, rich_help_panel=_OTHER)]


Rows = Annotated[
    Literal["all", "valid", "train"],
    typer.Option(help="Of the data that the runs were trained on: the rows held out, or the others."),
]
Predictions = Annotated[
    str | None, typer.Option(metavar="FILE", help="A table with the columns named below.", rich_help_panel=_FILE)
]
Truth = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN", autocompletion=complete.columns, rich_help_panel=_FILE,
        help="What is true; with --query, how relevant. Given again: several labels.",
    ),
]  # fmt: skip
Pred = _column("What was predicted; with --query, the score; of labels a prefix (prediction_).")
Proba = Annotated[
    str | None,
    typer.Option(
        metavar="PREFIX|COLUMN",
        rich_help_panel=_FILE,
        show_default="p_",
        help="Probabilities: columns PREFIX + class (or label), or the second class's alone.",
    ),
]
Query = _column("Rows of one query are a ranking: MRR, nDCG.")
Gain = Annotated[
    Literal["linear", "exponential"], typer.Option(help="nDCG: relevance, or 2^relevance - 1.", rich_help_panel=_FILE)
]
At = Annotated[int | None, typer.Option(min=1, help="nDCG down to this rank.", rich_help_panel=_FILE)]
LogProb = _column("Natural log-probabilities: perplexity.")
Task = Annotated[
    Literal["classification", "regression"] | None,
    typer.Option(help="What --truth is.", rich_help_panel=_FILE, show_default="told by --truth"),
]
Images = _two("Image pairs: two folders, or two arrays. PSNR and SSIM.")
Window = Annotated[Literal["gaussian", "uniform"], typer.Option(help="SSIM's window.", rich_help_panel=_OTHER)]
DataRange = Annotated[
    float | None,
    typer.Option(
        parser=opt.positive,
        metavar="NUMBER",
        rich_help_panel=_OTHER,
        help="How far pixels may lie apart.",
        show_default="255 for bytes, 1 for numbers in [0, 1]",
    ),
]
Features = _two("Two tables or arrays of features. Fréchet distance.")
Inception = Annotated[
    str | None, typer.Option(metavar="FILE", help="Class probabilities. Inception score.", rich_help_panel=_OTHER)
]
Splits = Annotated[
    int | None,
    typer.Option(
        min=1, help="Parts of the inception score.", rich_help_panel=_OTHER, show_default="10; 1 below 1000 rows"
    ),
]


def one_of(**asked: Any) -> str:
    """The name of the one thing that is to be scored."""
    given = [name for name, value in asked.items() if value]
    if len(given) > 1:
        first, second = (name if name == "RUN" else f"--{name}" for name in given[:2])
        raise DlkitError(f"{first} and {second} are two things to score: one at a time")
    return given[0] if given else "RUN"


_OF = {
    **dict.fromkeys(("truth", "pred", "proba", "query", "gain", "at", "log_prob", "task"), "predictions"),
    **dict.fromkeys(("window", "data_range"), "images"),
    **dict.fromkeys(("device", "rows", "tta", "weights", "stack", "nproc", "module"), "RUN"),
    "splits": "inception",
}
"""Option -> what it says something of."""
_DEFAULTS = {"device": "auto", "rows": "all", "gain": "linear", "window": "gaussian", "nproc": 1}


def refuse_foreign(what: str, **options: Any) -> None:
    """An option that says something of another thing than the one that is scored has no effect."""
    for name, value in options.items():
        if value != _DEFAULTS.get(name) and _OF[name] != what:
            owner = "runs" if _OF[name] == "RUN" else f"--{_OF[name]}"
            hint = "a run knows its target" if _OF[name] == "predictions" and what == "RUN" else None
            raise DlkitError(f"--{name.replace('_', '-')} is for {owner}", hint)


def refuse_for_texts(**options: Any) -> None:
    """A language model is scored on a text: it has no rows, views or members."""
    for name, value in options.items():
        if value != _DEFAULTS.get(name):
            raise DlkitError(f"--{name} has no effect on the run of a language model")


def pairs(
    reading: Reading,
    images: tuple[str, str] | None,
    features: tuple[str, str] | None,
    inception: str | None,
    window: str,
    data_range: float | None,
    splits: int | None,
) -> Result:
    """PSNR and SSIM, Fréchet distance or inception score."""
    from dlkit.data import pairs

    if images:
        return pairs.images(*images, window, data_range)
    if features:
        return pairs.features(*features, reading)
    return pairs.inception(str(inception), splits, reading)
