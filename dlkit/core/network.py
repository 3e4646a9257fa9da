"""A network as the user names it on the command line: words, a name, `@file`, or `-` for stdin."""

from collections.abc import Sequence

from dlkit.core import spec, zoo
from dlkit.core.errors import DlkitError
from dlkit.core.io import read_text
from dlkit.core.layers import Shape


def read(words: Sequence[str]) -> spec.Network:
    """The network in `words`, with its input: a shape as the first word, else the file's, else the named net's own."""
    shape, rest = _input(words)
    if not rest:
        raise DlkitError(
            "a network is missing after the input shape" if shape else "a network is missing",
            "for example: 3x224x224 conv:64,k7,s2,p3 bn relu, or a name such as resnet50 (see 'dlkit models')",
        )
    network = spec.parse(_text(rest))
    return spec.Network(shape or network.input, network.graph)


def _input(words: Sequence[str]) -> tuple[Shape | None, Sequence[str]]:
    if words and words[0].replace("x", "").isdecimal():
        return spec.parse_shape(words[0]), words[1:]
    return None, words


def _text(words: Sequence[str]) -> str:
    """One text of all words, files and stdin read in their place."""
    return " ".join(read_text(word.removeprefix("@")) if word == "-" or word[:1] == "@" else word for word in words)


def for_data(words: Sequence[str], outputs: int) -> spec.Network:
    """The network in `words` for a data set: its input only where the user gave one.

    A bare name from the zoo, whose own input is only its usual one, also gets the number of outputs that is needed.
    """
    if len(words) == 1 and words[0] in zoo.names():
        words = [f"{words[0]}:classes={outputs}"]
    network = read(words)
    named = words[0].partition(":")[0] in zoo.names()
    return spec.Network(None if named else network.input, network.graph)
