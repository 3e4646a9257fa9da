"""The Typer application: one subcommand a file of `commands/`, and the output options that each of them gets."""

import ast
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from dlkit import __version__
from dlkit.core import console
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.result import Result

_COMMANDS = Path(__file__).with_name("commands")
_OUTPUT = "Output"

Json = Annotated[bool, typer.Option("--json", help="Same as --format json.", rich_help_panel=_OUTPUT)]
Format = Annotated[
    Literal["table", "tsv", "csv", "json", "jsonl"] | None,
    typer.Option("--format", show_default="table on a terminal, tsv in a pipe", rich_help_panel=_OUTPUT,
                 help="How the result is written."),
]  # fmt: skip
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the headline value alone.", rich_help_panel=_OUTPUT)]


def output_options(command: Callable[..., Result], name: str) -> Callable[..., int]:
    """`command` with --format, --json and -q added; the wrapper renders its Result and returns the exit code."""

    def wrapper(*, json: bool, format: Any, quiet: bool, **arguments: Any) -> int:
        from dlkit.core import render

        if json and format not in (None, "json"):
            raise typer.BadParameter(f"--json and --format {format} contradict each other")
        console.quiet = quiet
        result = command(**arguments)
        render.write(result, name, __version__, "json" if json else format, quiet)
        return ExitCode.OK if result.ok else ExitCode.NO

    keyword = inspect.Parameter.KEYWORD_ONLY
    extra = [
        inspect.Parameter("format", keyword, default=None, annotation=Format),
        inspect.Parameter("json", keyword, default=False, annotation=Json),
        inspect.Parameter("quiet", keyword, default=False, annotation=Quiet),
    ]
    own = inspect.signature(command)
    wrapper.__signature__ = own.replace(parameters=[*own.parameters.values(), *extra])  # type: ignore[attr-defined]
    wrapper.__doc__ = inspect.getmodule(command).__doc__  # type: ignore[union-attr]
    wrapper.__name__ = name
    wrapper.__annotations__ = {}
    return wrapper


class Command(TyperCommand):
    """A command whose help keeps its examples as typed and, off a terminal, groups its options as a terminal does, and
    that takes an option of one value once."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        given = list(args)  # which the parser uses up
        try:
            rest = super().parse_args(ctx, args)
        except typer.TyperException as failure:
            vars(failure)["ctx"] = getattr(failure, "ctx", None) or ctx  # whose help shows what is right
            raise
        if not ctx.resilient_parsing:
            _refuse_repeated(self.make_parser(ctx).parse_args(given)[2])
        return rest

    def format_help_text(self, ctx: typer.Context, formatter: Any) -> None:
        formatter.write(f"\n{inspect.cleandoc(self.help or '').strip()}\n")

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                default = "Arguments" if param.param_type_name == "argument" else "Options"
                panels.setdefault(getattr(param, "rich_help_panel", None) or default, []).append(record)
        for title in sorted(panels, key=_panel_order):
            with formatter.section(title):
                formatter.write_dl(panels[title])


def _refuse_repeated(given: list[Any]) -> None:
    """Of an option of one value given twice the last would win without a word. A flag twice says the same twice."""
    options = [param for param in given if param.param_type_name == "option" and not param.multiple]
    for i, option in enumerate(options):
        if option in options[:i] and (not option.is_flag or option.secondary_opts):
            name = "/".join(max(names, key=len) for names in (option.opts, option.secondary_opts) if names)
            raise DlkitError(f"{name} is given twice, and takes one value", "leave one of them out")


def _panel_order(title: str) -> int:
    return {"Arguments": 0, "Options": 1, _OUTPUT: 3}.get(title, 2)


class Commands(TyperGroup):
    """The subcommands, found by file name. Listing them reads no module; invoking one imports that one alone."""

    listing = False

    def list_commands(self, ctx: typer.Context) -> list[str]:
        return sorted(path.stem for path in _COMMANDS.glob("[!_]*.py"))

    def get_command(self, ctx: typer.Context, name: str) -> Any:
        if name not in self.list_commands(ctx):
            return None
        return TyperCommand(name, help=_summary(name)) if self.listing else load(name)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:
        self.commands = dict.fromkeys(self.list_commands(ctx))  # what a misspelt name is compared with
        return super().resolve_command(ctx, args)

    def format_help_text(self, ctx: typer.Context, formatter: Any) -> None:
        formatter.write(f"\n{inspect.cleandoc(self.help or '').strip()}\n")

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:
        self.listing = True
        super().format_help(ctx, formatter)

    def shell_complete(self, ctx: typer.Context, incomplete: str) -> Any:
        # No descriptions: rendering them would import rich on every press of the tab key.
        from typer._click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            self.listing = True
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name) for name in self.list_commands(ctx) if name.startswith(incomplete)]


def load(name: str) -> Any:
    """The Typer command in `commands/<name>.py`: its function `command`, with the output options added."""
    module = importlib.import_module(f"dlkit.commands.{name}")
    single = typer.Typer(rich_markup_mode=_markup(), add_completion=False)
    help_names = {"help_option_names": ["-h", "--help"]}
    single.command(name, cls=Command, context_settings=help_names)(output_options(module.command, name))
    return get_command(single)


def _summary(name: str) -> str:
    """The first line of a command file's docstring, without importing the file."""
    tree = ast.parse((_COMMANDS / f"{name}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def _markup() -> Literal["rich"] | None:
    """Typer's Rich help costs twice a bare start: a terminal gets it, a pipe gets plain text."""
    return "rich" if sys.stdout.isatty() else None


def _print_version(value: bool) -> None:
    if value:
        print(f"dlkit {__version__}")  # noqa: T201
        raise typer.Exit


def root(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Shell tools for people who train neural networks: before, while and after.

    dlkit convshape 3x224x224 conv:64,k7,s2,p3 bn relu maxpool:k3,s2,p1
    dlkit train digits
    dlkit train digits --lr $(dlkit lrfind digits -q)

    Each command's help starts with examples: dlkit COMMAND --help.
    """


def build() -> Any:
    """The root command."""
    app = typer.Typer(
        cls=Commands, rich_markup_mode=_markup(), context_settings={"help_option_names": ["-h", "--help"]}
    )
    app.callback()(root)
    return get_command(app)


def invoke(argv: list[str]) -> int:
    """Run one command line and return its exit code; errors pass through.

    Typer's own `main` would turn a closed pipe into exit code 1 and swallow Ctrl-C, so it serves completion only.
    """
    command = build()
    if "_DLKIT_COMPLETE" in os.environ:
        command.main(argv, prog_name="dlkit")
    try:
        with command.make_context("dlkit", argv or ["--help"]) as context:
            return int(command.invoke(context) or ExitCode.OK)
    except typer.Exit as stop:
        return stop.exit_code
