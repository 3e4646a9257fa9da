"""A module of the user's own, named on the command line: imported, built, traced. This runs the user's code."""

import ast
import contextlib
import copy
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from dlkit.core import receptive, spec
from dlkit.core.blocks import LONG
from dlkit.core.errors import DlkitError, ExitCode, nearest
from dlkit.core.foreign import OURS, place
from dlkit.core.graph import SOURCE, Graph, Node, totals
from dlkit.core.io import missing
from dlkit.core.layers import Shape, show
from dlkit.core.network import MODULE
from dlkit.core.result import Column, Result
from dlkit.core.shapes import COLUMNS, FACTS, block_row, row, sizes
from dlkit.nn import effective
from dlkit.nn.events import LISTENING, Catch, first_tensor
from dlkit.nn.trace import Traced, input_dtype, trace

T = TypeVar("T")
_EXAMPLE = "for example: dlkit convshape 3x224x224 net.py:Net:width=64,depth=3"

RAN = "torch was loaded and the module's own code was run, on the meta device"


def table(words: list[str], dtype: str | None = None, depth: int | None = None) -> Result:
    """convshape's answer for SHAPE MODULE: every step, or a row for each inner module `depth` levels down."""
    return result(_traced(words, dtype), depth)


def field(words: list[str], at: str | None, pixel: str | None, want: str | None) -> Result:
    """rf's answer for SHAPE MODULE."""
    found = receptive.answer_for(walked(_traced(words)), at, pixel, want)
    found.notes.append(RAN)
    return found


def subject(words: list[str]) -> effective.Subject:
    """What is measured of SHAPE MODULE: each draw builds it anew, unless it is built already."""
    traced = _traced(words)
    make = maker(words[1])
    whole = make()
    dtype = input_dtype(whole)
    tokens = next((m.num_embeddings for m in whole.modules() if isinstance(m, nn.Embedding)), 2)

    def sample(shape: Shape, device: torch.device) -> torch.Tensor:
        if dtype.is_floating_point:
            return torch.randn(1, *shape, device=device).to(dtype)
        return torch.randint(tokens, (1, *shape), device=device)

    def draw(index: int, shape: Shape, device: torch.device) -> Callable[[], effective.Drawn]:
        if index >= len(traced.calls):
            raise DlkitError(f"{traced.steps[index].name} is no part of the forward pass: choose another with --at")

        def made() -> effective.Drawn:
            module = make().to(device)
            return effective.Drawn(module, lambda x: _until(words[1], module, x, traced.calls[index]))

        return made

    return effective.Subject(walked(traced), "as it is built", sample, draw)


def _until(word: str, module: nn.Module, x: torch.Tensor, call: int) -> torch.Tensor:
    """What the call with this number returns, when a module runs; the whole module where none is inside of it."""
    catch = Catch(call)
    with users_code(f"{word} cannot take {show(tuple(x.shape[1:]))}", ExitCode.BAD_DATA), catch.on(module):
        out = first_tensor(module(x))
    result = out if call < 0 else catch.result
    if result is None or not result.requires_grad:
        raise DlkitError(f"{word}: no gradient reaches the layer that is measured", code=ExitCode.BAD_DATA)
    return result


def walked(traced: Traced) -> receptive.Walk:
    """A trace as rf reads a walk. It has no wiring: the steps stand in the order in which they ran."""
    nodes = [Node(step.name, step.layer, (i - 1 if i else SOURCE,)) for i, step in enumerate(traced.steps)]
    steps = [step._replace(inputs=(traced.input,)) for step in traced.steps]
    fields, reasons = [step.field for step in steps], [step.undefined for step in steps]
    graph = Graph(nodes, len(nodes) - 1)
    return receptive.Walk(graph, traced.input, traced.extent, traced.layout, steps, fields, reasons)


def _traced(words: list[str], dtype: str | None = None) -> Traced:
    return run(words, dtype, trace)


def run(words: list[str], dtype: str | None, what: Callable[[nn.Module, Shape, torch.dtype | None], T]) -> T:
    """`what` of the module in SHAPE MODULE, its input's shape and type; what its code raises becomes one line."""
    if len(words) != 2:
        raise DlkitError("a module of your own needs the input shape before it and nothing after it", _EXAMPLE)
    shape = spec.parse_shape(words[0])
    module = load(words[1])
    with users_code(f"{words[1]} cannot take {show(shape)}", ExitCode.BAD_DATA):
        return what(module, shape, getattr(torch, dtype) if dtype else None)


def result(traced: Traced, depth: int | None = None) -> Result:
    """The rows and keys of convshape; the activation bytes besides. A terminal shows a long module by its parts."""
    rows = grouped(traced, depth or 0)
    overview = None
    if depth is None and len(rows) > LONG:
        deepest = max(step.name.count(".") for step in traced.steps)
        levels = (grouped(traced, level) for level in range(deepest, 0, -1))
        overview = next((level for level in levels if len(level) <= LONG), grouped(traced, 1))
    summary = {
        "input": list(traced.input),
        "output": list(traced.output),
        "params": traced.params,
        "macs": traced.macs,
        "flops": 2 * traced.macs,
        "rf": sizes(traced.field, traced.extent, totals(traced.steps).positions),
        "activation_bytes": traced.activation_bytes,
    }
    counted = ", ".join(f"{name} {times}" for name, times in traced.uncounted.items())
    notes = [RAN]
    if counted:
        notes.append(f"no MACs are counted for: {counted}")
    if reason := next((step.undefined for step in traced.steps if step.field is None and step.undefined), ""):
        notes.append(f"the receptive field is not followed past {reason}")
    facts = [*FACTS, Column("activation_bytes", "bytes", "activations kept")]
    return Result(COLUMNS, rows, summary, "output", facts, notes=notes, overview=overview)


def grouped(traced: Traced, depth: int) -> list[dict[str, Any]]:
    """A row for each step (depth 0), or for each run of steps inside of one module `depth` levels down."""
    if not depth:
        return [row(step, traced.extent) for step in traced.steps]
    groups = groupby(traced.steps, lambda step: ".".join(step.name.partition("#")[0].split(".")[:depth]))
    found = [(name, list(steps)) for name, steps in groups]
    titles = [
        (steps[0].name, steps[0].text)
        if len(steps) == 1
        else (name, f"{traced.kinds.get(name, name)} ({len(steps)} steps)")
        for name, steps in found
    ]
    return [block_row(title, steps, traced.extent) for title, (_, steps) in zip(titles, found, strict=True)]


# Loading ---------------------------------------------------------------------------------------------


def load(word: str) -> nn.Module:
    """The module that `package.module:Class`, `file.py:Class` or one of them with arguments stands for."""
    return maker(word)()


@dataclass(frozen=True)
class Maker:
    """What builds a module, each time anew; of one that is built already it makes copies.

    where, name, arguments  the parts of the word that named it; `home` is what was imported, `member` what is called
    """

    where: str
    name: str
    arguments: str
    home: Any
    member: Any

    def __call__(self) -> nn.Module:
        return _build(self.member, f"{self.where}:{self.name}", *read_arguments(self.arguments))


def maker(word: str) -> Maker:
    """Import what `word` names. This runs its code."""
    found = MODULE.fullmatch(word)
    if not found:
        raise DlkitError(f"{word!r} is not a module of your own", _EXAMPLE)
    arguments = found["inside"] if found["inside"] is not None else found["after"] or ""
    read_arguments(arguments)  # before anything is run
    with users_code(f"{found['where']} cannot be imported", ExitCode.USAGE):
        home = _import(found["where"])
    return Maker(found["where"], found["name"], arguments, home, _member(home, found["where"], found["name"]))


def _import(where: str) -> Any:
    """A file by its path, or a module from the current folder or the installed packages."""
    sys.path.insert(0, str(Path.cwd()))
    if not where.endswith(".py"):
        try:
            return importlib.import_module(where)
        except ModuleNotFoundError as failure:
            if failure.name and (where == failure.name or where.startswith(f"{failure.name}.")):
                hint = "it is looked for in the current folder and among the installed packages"
                code = ExitCode.USAGE if "." in failure.name else ExitCode.NO_DEPENDENCY
                raise DlkitError(f"there is no module {failure.name!r}", hint, code) from None
            raise
    path = Path(where)
    if not path.is_file():
        raise missing(where, FileNotFoundError(2, "No such file or directory"))
    sys.path.insert(0, str(path.resolve().parent))
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_of_yours"
    plan = importlib.util.spec_from_file_location(name, path.resolve())
    assert plan and plan.loader
    sys.modules[name] = module = importlib.util.module_from_spec(plan)
    plan.loader.exec_module(module)
    return module


def _member(home: Any, where: str, name: str) -> Any:
    for part in name.split("."):
        if not hasattr(home, part):
            offered = [key for key, value in vars(home).items() if callable(value) and not key.startswith("_")]
            raise DlkitError(f"{where} has no {name!r}: {nearest(part, offered)}")
        home = getattr(home, part)
    return home


def _build(found: Any, word: str, positional: list[Any], named: dict[str, Any]) -> nn.Module:
    if isinstance(found, nn.Module):
        if positional or named:
            raise DlkitError(f"{word} is a module that is already built, and takes no arguments")
        return copy.deepcopy(found)
    if not callable(found):
        raise DlkitError(f"{word} is of type {type(found).__name__}, not an nn.Module or a function that returns one")
    if isinstance(found, type) and not issubclass(found, nn.Module):
        raise DlkitError(f"{word} is a class, but not an nn.Module")
    _check_arguments(found, word, positional, named)
    with users_code(f"{word} cannot be built", ExitCode.USAGE):
        made = found(*positional, **named)
    if not isinstance(made, nn.Module):
        raise DlkitError(f"{word} returned {type(made).__name__}, not an nn.Module")
    return made


def _check_arguments(found: Callable[..., Any], word: str, positional: list[Any], named: dict[str, Any]) -> None:
    """Refuse missing and unknown arguments by name."""
    parameters = inspect.signature(found).parameters.values()
    ordinary = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    places = [p for p in ordinary if p.kind is not p.KEYWORD_ONLY]
    open_ended = {p.kind for p in parameters} - {p.kind for p in ordinary}
    filled = {p.name for p in places[: len(positional)]} | set(named)
    needed = [p.name for p in ordinary if p.default is p.empty and p.name not in filled]
    if needed:
        example = ",".join(f"{name}=…" for name in needed)
        raise DlkitError(f"{word} needs its {', '.join(needed)}", f"write {word}:{example}")
    names = [p.name for p in ordinary]
    unknown = next((name for name in named if name not in names), None)
    if unknown and inspect.Parameter.VAR_KEYWORD not in open_ended:
        raise DlkitError(f"{word} has no argument {unknown!r}: {nearest(unknown, names)}")
    if len(positional) > len(places) and inspect.Parameter.VAR_POSITIONAL not in open_ended:
        raise DlkitError(f"{word} takes {len(places)} arguments; got {len(positional)}")


def read_arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Arguments as literals, `64,depth=3,act=relu,sizes=[1,2]`: a plain word is a string, 3x5 the tuple (3, 5)."""
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for part in _split(text):
        key, equals, value = part.strip().partition("=")
        if equals and key.strip().isidentifier():
            if key.strip() in named:
                raise DlkitError(f"the argument {key.strip()} is given twice")
            named[key.strip()] = _literal(value.strip())
        elif named:
            raise DlkitError(f"the argument {part!r} without a name follows one with a name")
        else:
            positional.append(_literal(part.strip()))
    return positional, named


def _split(text: str) -> Iterator[str]:
    """The parts between the commas that stand outside of brackets and quotes."""
    start, depth, quote = 0, 0, ""
    for at, c in enumerate(text):
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        elif c == "," and depth == 0:
            yield text[start:at]
            start = at + 1
        else:
            depth += (c in "([{") - (c in ")]}")
    if text.strip():
        yield text[start:]


def _literal(text: str) -> Any:
    if re.fullmatch(r"\d+(x\d+)+", text):
        return tuple(int(part) for part in text.split("x"))
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if re.fullmatch(r"[A-Za-z_][\w.+/-]*", text):
            return text
        raise DlkitError(f"the argument {text!r} is neither a literal nor a plain word", _EXAMPLE) from None


# Errors ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def users_code(what: str, code: ExitCode) -> Iterator[None]:
    """Run code that is not ours: its prints go to stderr, and what it raises becomes one line with its place."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except DlkitError:
        raise
    except ModuleNotFoundError as failure:
        message = f"{what}{_at(failure)}: it needs {failure.name!r}, which is not installed"
        raise DlkitError(message, code=ExitCode.NO_DEPENDENCY) from None
    except SystemExit as stop:
        raise DlkitError(f"{what}: it ends the program (exit code {stop.code})", code=code) from None
    except Exception as failure:
        if _is_ours(traceback.extract_tb(failure.__traceback__)[-1]):
            raise
        said = " ".join(str(failure).split())
        raise DlkitError(f"{what}: {type(failure).__name__}{_at(failure)}: {said}", _meta_hint(said), code) from None


def _is_ours(frame: traceback.FrameSummary) -> bool:
    """Whether an exception came from dlkit's own code, and not from torch through the calls that are listened to."""
    listens = Path(frame.filename).name == "events.py" and frame.name in LISTENING
    return frame.filename.startswith(OURS) and not listens


def _meta_hint(said: str) -> str | None:
    if any(words in said for words in ("meta tensor", "Meta", "register_meta")):
        return "a trace has shapes and no numbers: a forward that looks at values (.item(), if x.sum() > 0) has none"
    return None


def _at(failure: BaseException) -> str:
    where = place(failure)
    return f" at {where}" if where else ""
