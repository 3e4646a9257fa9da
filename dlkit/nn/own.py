"""A module of the user's own as the network of a run: named on the command line, never by a file; built, tried, known
again by what its source files were."""

import hashlib
import inspect
import random
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dlkit.core import console
from dlkit.core.errors import DlkitError, ExitCode, bad_data
from dlkit.core.foreign import installed
from dlkit.core.layers import Shape, show
from dlkit.core.network import MODULE, is_module
from dlkit.core.reading import OF_TEXT
from dlkit.core.run import Run
from dlkit.data import Schema
from dlkit.data.texts import TextSchema
from dlkit.data.tokens import PAD

if TYPE_CHECKING:
    from dlkit.nn import live

Kind = Literal["numbers", "tokens", "texts"]
"""What a network reads: numbers B×…, tokens B×T, or tokens B×L of texts, PAD after each one's end."""
LEAVES_OUT = "_dlkit_leaves_out"
"""Set on a network of which not every step uses every parameter: DDP has to look for them."""
SOURCE = "source"
"""The folder of a run that keeps the source files of its module, to be read and never run by itself."""
ROWS = 3
_OUTPUTS = ("classes", "num_classes", "n_classes", "out_features", "outputs", "num_labels", "vocab", "vocab_size")


def kind_of(schema: Schema | TextSchema) -> Kind:
    return "tokens" if schema.task in OF_TEXT else "texts" if schema.tokens else "numbers"


@dataclass(frozen=True)
class Own:
    """What `package.module:Class` or `file.py:Class` stands for, arguments included.

    word        as it was typed
    make        builds it, each time anew
    sources     its source files, by their place in its folder, as they were when they were imported
    package     name and version of the installed package that it comes from instead
    params      how many parameters it has, shared ones counted once
    leaves_out  whether its forward may leave some of them without a gradient
    """

    word: str
    make: "live.Maker"
    sources: dict[str, bytes]
    package: dict[str, str]
    params: int = 0
    leaves_out: bool = False

    def __str__(self) -> str:
        return spelt(self.word)

    @property
    def where(self) -> str:
        return self.make.where

    @property
    def name(self) -> str:
        """What a run of it is called by: digits-net-1."""
        return self.make.name.rpartition(".")[2].lower()

    @property
    def digests(self) -> dict[str, str]:
        return {name: hashlib.sha256(data).hexdigest() for name, data in self.sources.items()}

    @property
    def facts(self) -> dict[str, Any]:
        """What a run keeps to know the module again."""
        return {"word": self.word, "files": self.digests, "package": self.package}

    def build(self, shape: Shape, kind: Kind = "numbers") -> nn.Module:
        """The module with the weights that it begins with. Whatever draws them, torch's seed fixes them."""
        seed = torch.initial_seed() % 2**32
        random.seed(seed)
        np.random.seed(seed)
        module = self.make()
        if any(is_lazy(p) for p in (*module.parameters(), *module.buffers())):
            with torch.no_grad(), _users_code(self._cannot(shape)):
                module.eval()(example(ROWS, shape, kind))
            module.train()
        module.register_forward_pre_hook(_in_order)
        if self.leaves_out:
            setattr(module, LEAVES_OUT, True)
        return module

    def _cannot(self, shape: Shape) -> str:
        return f"{self.word} cannot take {show(shape)}"

    def answer(
        self, module: nn.Module, shape: Shape, output: Shape, needs: str, kind: Kind, rows: int = ROWS
    ) -> Tensor:
        """What the module makes of some rows, as it is; DlkitError where that is not `output` for each of them."""
        with _users_code(self._cannot(shape)):
            out = module(example(rows, shape, kind))
        wanted = (rows, *output)
        if not isinstance(out, Tensor):
            found = f"returns a {type(out).__name__}"
        elif tuple(out.shape) != wanted:
            found = f"makes {show(tuple(out.shape)) or 'one number'} of {rows} rows"
        elif not out.is_floating_point():
            found = f"returns {str(out.dtype).removeprefix('torch.')}"
        else:
            return out
        raise DlkitError(f"{self.word} {found}, but {needs}: {show(wanted)} is needed", self._hint(output))

    def fitting(
        self, shape: Shape, output: Shape, needs: str, kind: Kind = "numbers", vocabulary: int | None = None
    ) -> "Own":
        """The same, its parameters counted, once it is clear that it leads from `shape` to `output`, takes each of the
        tokens of a vocabulary of so many, and can be trained. `needs` says what the outputs are for. Parameters that
        its forward does not use are named."""
        module = self.build(shape, kind)
        strange = [name for name, value in module.state_dict().items() if not isinstance(value, Tensor)]
        if strange:
            raise DlkitError(f"{self.word}: its state_dict holds {strange[0]}, which is no tensor and cannot be saved")
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not named:
            raise DlkitError(f"{self.word} has no parameter to train")
        with torch.no_grad():
            self.answer(module.eval(), shape, output, needs, kind)
            if vocabulary is not None:
                self._take_last(module, shape, vocabulary)
        out = self.answer(module.train(), shape, output, needs, kind)
        if not out.requires_grad:
            raise DlkitError(
                f"{self.word}: its output has no gradient: is there a detach() or no_grad() in its forward?"
            )
        with _users_code(f"{self.word} has no backward pass"):
            gradients = torch.autograd.grad(out.float().sum(), list(named.values()), allow_unused=True)
        idle = [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]
        if idle:
            listed = ", ".join(idle[:6]) + (", …" if idle[6:] else "")
            console.note(f"tried on {ROWS} rows, the forward of {self.word} makes no use of {listed}")
        return replace(self, params=sum(p.numel() for p in module.parameters()), leaves_out=bool(idle))

    def _take_last(self, module: nn.Module, shape: Shape, vocabulary: int) -> None:
        """DlkitError where the module has no place for the last of the vocabulary: an embedding too small."""
        try:
            with _users_code(f"{self.word} cannot take the last of the vocabulary's {vocabulary} tokens"):
                module(torch.full((ROWS, *shape), vocabulary - 1))
        except DlkitError as failure:
            failure.hint = failure.hint or f"its embedding needs a row for each of them: nn.Embedding({vocabulary}, …)"
            raise

    def _hint(self, output: Shape) -> str:
        names = list(inspect.signature(self.make.member).parameters) if callable(self.make.member) else []
        known = next((name for name in _OUTPUTS if name in names), None)
        if known:
            return f"say so with its argument {known}: {self.make.where}:{self.make.name}:{known}={output[-1]}"
        return f"let its last layer have {output[-1]} output{'s' if output[-1] > 1 else ''}"


def _users_code(what: str) -> AbstractContextManager[None]:
    from dlkit.nn import live

    return live.users_code(what, ExitCode.USAGE)


def example(rows: int, shape: Shape, kind: Kind) -> Tensor:
    """Rows to try a module on: standard normal numbers, or tokens 1, which every vocabulary has and are no padding."""
    if kind == "numbers":
        return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0))
    tokens = torch.ones(rows, *shape, dtype=torch.int64)
    if kind == "texts":
        tokens[-1, 1:] = PAD
    return tokens


def _in_order(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Images as PyTorch lays them out by itself: a forward with view() takes no others. Flat, because the strides of a
    single channel would say channels last to a convolution even where contiguous() has nothing to do."""
    return tuple(x.contiguous().flatten().view(x.shape) if isinstance(x, Tensor) else x for x in inputs)


def open_own(words: Sequence[str]) -> Own:
    """The module that is the one word of a network. This runs its code."""
    if len(words) != 1:
        others = " ".join(word for word in words if not is_module(word))
        raise DlkitError("a module of your own is the whole network", f"leave out {others!r}" if others else None)
    from dlkit.nn import live  # which loads all that traces a module: a tenth of a second that others never need

    make = live.maker(words[0])
    sources = dict(_sources(make))
    top = sys.modules[make.home.__name__.partition(".")[0]]
    version = getattr(top, "__version__", None)
    package = {top.__name__: str(version)} if version and not sources else {}
    return Own(words[0], make, sources, package)


def _sources(make: "live.Maker") -> Iterator[tuple[str, bytes]]:
    """The files of the user's own that were imported from the module's folder, as they are; none of a package that is
    installed. What their code prints goes to stderr from here on: stdout has the result alone."""
    by_path, at = make.where.endswith(".py"), getattr(make.home, "__file__", None)
    if not at or (installed(at) and not by_path):
        return
    levels = 0 if by_path else make.where.count(".") + (Path(at).name == "__init__.py")
    folder = Path(at).resolve().parents[levels]
    for loaded in list(sys.modules.values()):
        file = vars(loaded).get("__file__") if isinstance(loaded, ModuleType) else None
        if not file or not str(file).endswith(".py") or (installed(str(file)) and loaded is not make.home):
            continue
        path = Path(file).resolve()
        if path.is_relative_to(folder) and path.is_file():
            vars(loaded).setdefault("print", _print)
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def _print(*values: Any, **how: Any) -> None:
    print(*values, **{"file": sys.stderr} | how)  # noqa: T201


def again(run: Run, words: Sequence[str]) -> Own:
    """The module of a run, which one of `words` has to name: a file alone never makes code run. DlkitError where none
    does; where its source files are not those that the run was trained with, exit code 65."""
    text, facts = str(run.config.get("network")), run.config["module"]
    if not isinstance(facts, dict) or [*facts] != ["word", "files", "package"] or not isinstance(facts["files"], dict):
        raise bad_data(f"{run.path}: config.json holds no network that can be built")
    word = next((word for word in words if spelt(word) == text), None)
    named = shlex.quote(str(facts["word"]))
    if word is None and any(is_module(word) for word in words):
        other = next(word for word in words if is_module(word))
        raise DlkitError(f"{run.path}: its network is {text}, not {other}", f"name it as it was: {named}")
    if word is None:
        raise DlkitError(
            f"{run.path}: its network is a module of your own, {text}, and opening it runs its code",
            f"if you trust it, name it, as eval, predict and export do: --module {named}",
        )
    own = open_own([word])
    changed = next((name for name, digest in facts["files"].items() if own.digests.get(name) != digest), None)
    if changed is not None:
        message = f"{changed} is not what it was when {run.path} was trained" if changed in own.digests \
            else f"{run.path} was trained with {changed}, which {word} does not import now"  # fmt: skip
        kept = run.path / SOURCE
        way = f"--module {kept}/{text}" if own.where.endswith(".py") else f"PYTHONPATH={kept}"
        raise bad_data(message, f"the code as it was is kept: {way}")
    if own.package != facts["package"]:
        now, before = (_versions(package) for package in (own.package, facts["package"]))
        console.note(f"{run.path} was trained with {before}; this is {now}: outputs may differ")
    return own


def _versions(package: Any) -> str:
    named = [f"{name} {version}" for name, version in package.items()] if isinstance(package, dict) else []
    return ", ".join(named) or "a package of no version"


def spelt(word: str) -> str:
    """A module's name wherever its file lies: what runs are compared by. Other words as they are."""
    found = MODULE.fullmatch(word)
    if not found:
        return word
    place = Path(found["where"]).name if found["where"].endswith(".py") else found["where"]
    arguments = found["inside"] if found["inside"] is not None else found["after"] or ""
    return f"{place}:{found['name']}" + (f":{arguments.strip()}" if arguments.strip() else "")
