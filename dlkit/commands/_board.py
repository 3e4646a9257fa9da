"""The options of `baseline` that say what takes part, for how long, and what is kept."""

from typing import Annotated, Any

import typer

from dlkit.core import complete, units

_PANEL = "Board"


def _budget(text: str) -> float:
    try:
        return units.duration(text)
    except ValueError as problem:
        raise typer.BadParameter(str(problem)) from None


Models = Annotated[
    list[str] | None,
    typer.Option(help="Families, by comma: svm, forest, …; also kmeans, em. Repeatable.", metavar="NAMES",
                 rich_help_panel=_PANEL, show_default="all that suit the task"),
]  # fmt: skip
Metric = Annotated[
    str | None,
    typer.Option(help="accuracy, balanced_accuracy, f1, auc, log_loss, brier; rmse, mae, r2.", metavar="NAME",
                 rich_help_panel=_PANEL, show_default="accuracy or rmse"),
]  # fmt: skip
Budget = Annotated[
    Any, typer.Option(help="Time for everything: 60s, 5m.", parser=_budget, metavar="TIME", rich_help_panel=_PANEL)
]
Tries = Annotated[
    int | None,
    typer.Option(min=1, help="Settings tried in a family at most; 1: defaults alone.", metavar="N",
                 rich_help_panel=_PANEL, show_default="as the budget allows"),
]  # fmt: skip
Balance = Annotated[bool, typer.Option("--balance", help="Weigh classes alike, however rare.", rich_help_panel=_PANEL)]
Save = Annotated[
    str | None,
    typer.Option(help="The family to save.", metavar="NAME", rich_help_panel=_PANEL, show_default="the best"),
]
Embed = Annotated[
    str | None,
    typer.Option(help="Learn from what the network of this run makes of each row (the input of its last linear layer).",
                 metavar="RUN", autocompletion=complete.runs, rich_help_panel=_PANEL, show_default=False),
]  # fmt: skip
Folds = Annotated[
    int | None,
    typer.Option(min=2, help="Folds that score.", metavar="K", rich_help_panel="Split", show_default="5"),
]
Valid = Annotated[
    str | None, typer.Option(metavar="FILE", help="Score on this file, not on folds.", rich_help_panel="Split")
]
Engine = Annotated[
    str,
    typer.Option(help="local, local:N processes, or dask://HOST:PORT.", metavar="WHERE", rich_help_panel="Machine"),
]
Out = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="The run directory to make.", show_default="runs/DATA-baseline-N"),
]
