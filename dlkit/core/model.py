"""What a cost is asked of: a bare number of parameters, or a network with the walk over it."""

from collections.abc import Sequence
from typing import NamedTuple

from dlkit.core import network, units
from dlkit.core.errors import DlkitError
from dlkit.core.graph import Graph, Step, walk
from dlkit.core.matrices import Matrix
from dlkit.core.sequence import Embed


class Walked(NamedTuple):
    """A network and its walk. `positions` are the tokens of a sample, None where it does not take tokens."""

    graph: Graph
    steps: list[Step]
    positions: int | None


class Measured(NamedTuple):
    """A user's module as torch saw it, in the precision at hand; parameters of matrices by their shapes.

    `buffers` are bytes; `each` the bytes of activations that one sample keeps, `fixed` those of a batch of any size,
    None where the module cannot run in training mode.
    """

    params: int
    trained: int
    matrices: list[tuple[str, Matrix]]  # those that are trained, with the op of their layer
    buffers: int
    each: int | None
    fixed: int | None
    positions: int | None


def read(words: Sequence[str], context: int | None, command: str) -> int | Walked:
    """The number of parameters in `words`, or the network with `context` tokens to a sample."""
    if len(words) == 1 and _numeric(words[0]):
        if context is not None:
            raise DlkitError("--context needs a network: a bare number of parameters has no attention")
        return _params(words[0])
    if not words:
        raise DlkitError("a model is missing", f"for example: dlkit {command} 70B, or dlkit {command} llama-2-7b")
    net = network.read(words)
    if net.input is None:
        raise DlkitError("the input shape is missing before the network", f"for example: dlkit {command} 3x224x224 …")
    shape, language = net.input, any(isinstance(node.layer, Embed) for node in net.graph.nodes)
    if context is not None:
        if not language or len(shape) != 1:
            raise DlkitError("--context is for networks that take tokens", "give the input's shape before the network")
        shape = (context,)
    return Walked(net.graph, walk(net.graph, shape), shape[0] if language else None)


def _params(word: str) -> int:
    try:
        return units.count(word)
    except ValueError as error:
        raise DlkitError(f"the number of parameters {error}") from None


def _numeric(word: str) -> bool:
    """Whether a word is meant as a number: not a shape, a text of several words, or stdin's -."""
    number = word[:1] in "+-.0123456789" and word != "-" and not any(sign in word for sign in " \n:(x")
    return number or word.lower() in ("nan", "inf", "infinity")
