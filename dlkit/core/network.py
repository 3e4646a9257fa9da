"""A network as the user names it on the command line: words, a name, `@file`, or `-` for stdin."""

import re
from collections.abc import Sequence
from pathlib import Path

from dlkit.core import console, spec, zoo
from dlkit.core.errors import DlkitError
from dlkit.core.io import read_text
from dlkit.core.layers import Shape
from dlkit.core.sequence import CATALOGUE

MODULE = re.compile(
    r"(?P<where>[^\s:()]+\.py|[A-Za-z_][\w.]*):(?P<name>[A-Za-z_][\w.]*)(?:\((?P<inside>.*)\)|:(?P<after>.*))?"
)
"""The user's own module: file.py:Class or package.module:Class, with arguments in parentheses or after a colon."""


def read(words: Sequence[str]) -> spec.Network:
    """The network in `words`, with its input: a shape as the first word, else the file's, else the named net's own."""
    shape, rest = _input(words)
    if not rest:
        raise DlkitError(
            "a network is missing after the input shape" if shape else "a network is missing",
            "for example: 3x224x224 conv:64,k7,s2,p3 bn relu, or a name such as resnet50 (see 'dlkit models')",
        )
    if is_module(rest[0]):
        raise DlkitError(
            f"{rest[0]} is a module of your own, and here the network language is needed",
            "dlkit convshape SHAPE MODULE traces it",
        )
    for word in rest:
        _refuse_bare(word)
    text = _text(rest)
    if _PRINTED.search(text):
        return _printed(text, shape)
    if shape and not any(map(is_file, rest)):
        return spec.parse(" ".join(words))  # the shape too, so that positions are those of what was typed
    network = spec.parse(text)
    return spec.Network(shape or network.input, network.graph)


def _refuse_bare(word: str) -> None:
    """A file's name without what makes it a network: no layer has such a name."""
    path, _, rest = word.partition(":")
    if path.endswith(".py"):
        message = f"{word!r} names no class" if not rest else f"{word!r}: {rest!r} is no name of a class"
        raise DlkitError(message, f"a module of your own is FILE.py:CLASS, here {path}:CLASS")
    if word.endswith(".dlk") and not is_file(word):
        raise DlkitError(f"{word!r} is no layer", f"a file in the network language is @FILE, here @{word}")


def is_module(word: str) -> bool:
    """Whether a word of a command line names a module of the user's own, and no layer and no network."""
    found = MODULE.fullmatch(word)
    if not found:
        return False
    where = found["where"]
    if "." in where:
        return True
    return where not in CATALOGUE and where not in zoo.names() and _importable(where)


def _importable(name: str) -> bool:
    from importlib.util import find_spec

    return Path(f"{name}.py").is_file() or Path(name).is_dir() or find_spec(name) is not None


_PRINTED = re.compile(r"\A\s*[A-Za-z_]\w*\([^\n]*\n\s*\([^()\n]*\): |\A\s*[A-Z]\w*\([^\n]*\)\s*\Z")


def _printed(text: str, shape: Shape | None) -> spec.Network:
    """A network from the printed form of a torch module."""
    from dlkit.core import printed

    if shape is None:
        raise DlkitError("the input shape is missing before the printed module", "for example: 3x224x224 -")
    graph, notes = printed.read(text, shape)
    for note in notes:
        console.note(note)
    return spec.Network(shape, graph)


def is_shape(word: str) -> bool:
    """Whether a word of a command line is meant as an input shape."""
    return word.replace("x", "").isdecimal()


def _input(words: Sequence[str]) -> tuple[Shape | None, Sequence[str]]:
    if words and is_shape(words[0]):
        return spec.parse_shape(words[0]), words[1:]
    return None, words


def _text(words: Sequence[str]) -> str:
    """One text of all words, files and stdin read in their place."""
    return " ".join(_file(word) if is_file(word) else word for word in words)


def is_file(word: str) -> bool:
    """Whether a word of a command line stands for the network's text in a file, or on stdin."""
    return word == "-" or word[:1] == "@" or word.endswith(".json")


def _file(word: str) -> str:
    """The text of a file or of stdin; a Hugging Face config.json becomes the network that it describes."""
    path = word.removeprefix("@")
    text = read_text(path)
    if not path.endswith(".json") and text.lstrip()[:1] != "{":
        return text
    from dlkit.core import huggingface

    config = huggingface.read(text, "stdin" if path == "-" else path)
    for note in config.notes:
        console.note(note)
    return config.text


def for_data(words: Sequence[str], outputs: int, **more: int) -> spec.Network:
    """The network in `words` for a data set: its input only where the user gave one.

    A name from the zoo, whose own input is only its usual one, also gets the number of outputs that is needed.
    """
    words = filled(words, classes=outputs, **more)
    network = read(words)
    named = words[0].partition(":")[0] in zoo.names()
    return spec.Network(None if named else network.input, network.graph)


def is_named(words: Sequence[str]) -> bool:
    """Whether a network is one of the zoo's, whatever its options."""
    return len(words) == 1 and words[0].partition(":")[0] in zoo.names()


def filled(words: Sequence[str], **values: int) -> Sequence[str]:
    """A single name from the zoo with those of its options that the user left open; anything else as it is."""
    if not is_named(words):
        return words
    name, _, said = words[0].partition(":")
    given = [part for part in said.split(",") if part]
    known = {part.partition("=")[0] for part in given}
    options = zoo.info(name).options
    given += [f"{option}={value}" for option, value in values.items() if option in options and option not in known]
    return [f"{name}:{','.join(given)}" if given else name]
