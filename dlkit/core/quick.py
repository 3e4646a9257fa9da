"""The quick form of `convshape`: one convolution, from options."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from dlkit.core import shapes, spec
from dlkit.core.arguments import Argument
from dlkit.core.errors import DlkitError
from dlkit.core.graph import SOURCE, Builder, Graph
from dlkit.core.layers import Conv, ConvTranspose, Shape
from dlkit.core.network import is_shape
from dlkit.core.result import Result

NAMES = ("kernel_size", "stride", "padding", "dilation")


class Options(NamedTuple):
    """What the user gave, as text; None is not given. `filters` are the output channels."""

    kernel_size: str | None = None
    stride: str | None = None
    padding: str | None = None
    dilation: str | None = None
    output_padding: str | None = None
    filters: int | None = None
    transposed: bool = False

    @property
    def kind(self) -> type[Conv | ConvTranspose]:
        return ConvTranspose if self.transposed else Conv

    def values(self) -> dict[str, Any]:
        """The arguments that were given, read; DlkitError names the option that is wrong."""
        if self.output_padding is not None and not self.transposed:
            raise DlkitError("--output-padding belongs to a transposed convolution", "add --transposed")
        known = {argument.name: argument for argument in self.kind.arguments}
        given = {name: getattr(self, name) for name in (*NAMES, "output_padding")}
        return {name: _read(known[name], text) for name, text in given.items() if text is not None}


def _read(argument: Argument, text: str) -> Any:
    try:
        return argument.kind.read(text)
    except ValueError:
        option = argument.name.replace("_", "-")
        raise DlkitError(f"--{option} must be {argument.kind.expected}; got {text!r}") from None


def as_map(word: str) -> tuple[Shape, bool]:
    """The input as a map, and whether its channels are given: a lone number is a length."""
    if not is_shape(word):
        hint = "for example: dlkit convshape 224 -k 7 -s 2 -p 3"
        raise DlkitError(f"the quick form takes input sizes and no layers, here {word!r}", hint)
    size = spec.parse_shape(word)
    return ((1, *size), False) if len(size) == 1 else (size, True)


def table(words: Sequence[str], options: Options, explain: bool = False) -> Result:
    """One convolution on each input size. Without `filters`, channels and costs are absent."""
    values = options.values()
    if "kernel_size" not in values:
        raise DlkitError("the quick form needs a kernel size, for example -k 3")
    builder = Builder()
    layer = options.kind(out_channels=options.filters or 1, **values)
    graph = Graph(builder.nodes, builder.add(layer, (SOURCE,)))
    maps = [as_map(word) for word in words]
    counted = options.filters is not None and all(channels for _, channels in maps)
    result = shapes.answer(graph, [shape for shape, _ in maps], explain=explain)
    result.bare = len(words) == 1 and not explain
    if not counted:
        _drop_channels(result)
    if any(len(shape) == 2 and channels for shape, channels in maps):
        result.notes.append("an input of two numbers is C×L, channels and length; an image is C×H×W, as in 3x224x224")
    return result


def _drop_channels(result: Result) -> None:
    """Leave out what depends on channels that nobody named."""
    rows = [dict(row) for row in result.rows]
    for target in (result.summary, *rows):
        target.update({key: None for key in ("params", "macs", "flops") if key in target})
        target.update({key: _spatial(target[key]) for key in ("input", "output") if key in target})
    for row in rows:
        row["op"] = row["op"].replace(":1,", ":", 1)
        if "formula" in row:
            row["formula"] = row["formula"].partition(";")[0]
    result.rows = rows
    if "lines" in result.summary:
        shapes.set_lines(result)


def _spatial(sizes: list[Any]) -> list[Any]:
    """A shape, or each of several, without its channels."""
    return [shape[1:] for shape in sizes] if isinstance(sizes[0], list) else sizes[1:]
