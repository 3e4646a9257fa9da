"""What `predict` is told about a text that a language model is to write."""

from typing import Annotated, Any

import typer

from dlkit.commands import _options as opt
from dlkit.commands._module import refuse_idle
from dlkit.core.errors import DlkitError
from dlkit.core.reading import Reading
from dlkit.core.result import Result
from dlkit.core.run import open_run

_PANEL = "Writing a text"
Generate = Annotated[
    int | None,
    typer.Option(min=1, max=1 << 20, metavar="TOKENS", help="Let a language model write so many tokens.",
                 rich_help_panel=_PANEL, show_default="off"),
]  # fmt: skip
Prompt = Annotated[
    str | None, typer.Option(help="What the text begins with.", rich_help_panel=_PANEL, show_default="a new line")
]
Temperature = Annotated[
    float | None,
    typer.Option(parser=opt.not_negative, metavar="NUMBER", rich_help_panel=_PANEL, show_default="1",
                 help="Below 1 safer, above 1 bolder, 0 the likeliest token always."),
]  # fmt: skip
TopK = Annotated[
    int | None,
    typer.Option(min=1, help="Draw from so many of the likeliest tokens.", rich_help_panel=_PANEL, show_default="all"),
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, max=2**31 - 1, help="Another seed, another text.", rich_help_panel=_PANEL, show_default="0"),
]


def write(words: list[str] | None, tokens: int, device: str, modules: list[str] | None, **said: Any) -> Result:
    """The text of one run; `said` are the options of how it is drawn."""
    if not words or len(words) != 1:
        raise DlkitError("--generate takes one run directory and no data", "dlkit predict RUN --generate 200")
    from dlkit.nn.language import Sampling, generate

    run = open_run(words[0])
    if not run.writes:
        what = "of a masked language model, which cannot go on from a text" if run.of_text else "of no language model"
        raise DlkitError(f"--generate: {words[0]} is a run {what}")
    refuse_idle(modules, [run])
    how = Sampling(tokens, **{name: value for name, value in said.items() if value is not None})
    return generate(run, how, device, modules or ())


def refuse_of_rows(reading: Reading, **said: Any) -> None:
    """The options of predicting rows where a text is to be written."""
    given = [f"--{name}" for name, value in said.items() if value] + reading.words()
    if given:
        hint = "its text goes to stdout: dlkit predict RUN --generate 200 > FILE" if given[0] == "--out" else None
        raise DlkitError(f"{given[0]} has no effect with --generate", hint)


def refuse(**said: Any) -> None:
    """The options of writing where no text is to be written."""
    for name, value in said.items():
        if value is not None:
            raise DlkitError(f"--{name.replace('_', '-')} is for --generate")
