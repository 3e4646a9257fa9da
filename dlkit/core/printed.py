"""The printed form of an `nn.Module` as a network: its layers in the order in which they are printed.

What a print leaves out cannot be read: functional ops, parameters outside of modules, and the wiring. Two things are
told by the numbers that are printed: a Linear whose in_features are all of a map gets a flatten, and a part that fits
its block's input instead of what came before it (a ResNet's downsample) is a branch that is added.
"""

import ast
import re
from math import prod
from typing import Any, NamedTuple

from dlkit.core import layers
from dlkit.core.errors import DlkitError
from dlkit.core.graph import SOURCE, Graph, Node
from dlkit.core.layers import Layer, Shape, show
from dlkit.core.sequence import CATALOGUE

_LINE = re.compile(r"\s*(?:\((?P<name>[^()]*)\): )?(?:(?P<times>\d+) x )?(?P<kind>[A-Za-z_]\w*)\((?P<rest>.*)$")

# What torch prints without a name, and what of it must agree with the input's channels or features.
_BARE = {
    "Conv": ("in_channels", "out_channels"),
    "ConvTranspose": ("in_channels", "out_channels"),
    "BatchNorm": ("num_features",),
    "InstanceNorm": ("num_features",),
    "GroupNorm": ("num_groups", "num_channels"),
    "LayerNorm": ("normalized_shape",),
    "RMSNorm": ("normalized_shape",),
    "Embedding": ("num_embeddings", "embedding_dim"),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), ("input_size", "hidden_size")),
}
_CHANNELS = ("in_channels", "num_features", "num_channels")
_OTHER_NAMES = {"SyncBatchNorm": "BatchNorm", "NonDynamicallyQuantizableLinear": "Linear", "Dropout1d": "Dropout"}
_CONTAINERS = ("Sequential", "ModuleList", "ModuleDict", "DataParallel", "DistributedDataParallel")
_RESHAPE = (
    *(
        "Unflatten",
        "PixelShuffle",
        "PixelUnshuffle",
        "Fold",
        "Unfold",
        "Bilinear",
        "EmbeddingBag",
    ),
    *("MultiheadAttention", "FractionalMaxPool2d", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d", "LPPool1d", "LPPool2d"),
    *(
        f"{kind}Pad{rank}d"
        for kind in ("Zero", "Constant", "Reflection", "Replication", "Circular")
        for rank in (1, 2, 3)
    ),
)


class Printed(NamedTuple):
    """One printed module: its place in the model, its class, what stands in its parentheses, its children."""

    path: str
    kind: str
    arguments: str
    children: "list[Printed]"


def layer_of(text: str) -> Layer | None:
    """The layer that one printed module stands for, such as ReLU(inplace=True); None where the catalogue has none."""
    found = _LINE.match(text)
    if not found or "\n" in text:
        return None
    made = _layer(Printed("", found["kind"], found["rest"].removesuffix(")"), []))
    return made[0] if made else None


def read(text: str, shape: Shape) -> tuple[Graph, list[str]]:
    """The graph of a printed module for an input of `shape`, and notes on what was assumed.

    DlkitError names the first module that cannot follow the ones before it.
    """
    reader = _Reader(shape)
    reader.take(_tree(text))
    if not reader.nodes:
        kinds = ", ".join(reader.unknown) or "nothing but containers"
        raise DlkitError(f"no layer of the printed module is known: {kinds}", _HINT)
    return Graph(reader.nodes, reader.at), reader.notes()


# The tree ----------------------------------------------------------------------------------------------


def _tree(text: str) -> Printed:
    root = Printed("", "", "", [])
    stack = [root]
    for number, line in enumerate(text.strip().splitlines(), 1):
        if line.strip() == ")":
            stack.pop()
            if not stack:
                raise DlkitError(f"line {number} of the printed module closes more than was opened")
        else:
            _add(line, number, stack)
    if len(stack) > 1:
        raise DlkitError(f"the printed module ends inside of {stack[-1].path or stack[-1].kind}: a ')' is missing")
    return _placed(root, "")


def _placed(printed: Printed, path: str) -> Printed:
    """The same tree with each name written out as a path from the top; repeats no longer share their children."""
    children = [_placed(child, f"{path}.{child.path}".lstrip(".")) for child in printed.children]
    return printed._replace(path=path, children=children)


def _add(line: str, number: int, stack: list[Printed]) -> None:
    found = _LINE.match(line)
    if not found or (not found["name"] and len(stack) > 1):
        if found or len(stack) > 1:  # what a module prints of itself above its children
            return
        raise DlkitError(f"line {number} is not a printed module: {line.strip()[:60]!r}")
    inside, rest = stack[-1], found["rest"]
    names = _repeated(found["name"] or "", int(found["times"] or 1))
    made: list[Printed] = []
    for name in names:
        made.append(Printed(name, found["kind"], rest.removesuffix(")"), made[0].children if made else []))
    inside.children.extend(made)
    if not rest.endswith(")"):
        stack.append(made[0])


def _repeated(name: str, times: int) -> list[str]:
    """The names of `(0-2): 3 x Block(…)`: 0, 1, 2."""
    first, dash, _ = name.partition("-")
    return [str(int(first) + i) for i in range(times)] if dash and first.isdecimal() else [name] * times


# One module --------------------------------------------------------------------------------------------


def _values(printed: Printed) -> dict[str, Any]:
    """The arguments by name; a bare word (padding=same) is a string. Empty where they are no Python."""
    try:
        call = ast.parse(f"f({printed.arguments})", mode="eval").body
    except SyntaxError:
        return {}
    assert isinstance(call, ast.Call)
    bare = zip(_BARE.get(_family(printed.kind), ()), call.args, strict=False)
    return {name: _value(node) for name, node in (*bare, *((k.arg, k.value) for k in call.keywords)) if name}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return node.id
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _family(kind: str) -> str:
    """Conv2d -> Conv: one class of the catalogue serves all ranks."""
    return re.sub(r"(?<=[a-z])[123]d$", "", _OTHER_NAMES.get(kind, kind))


def _layer(printed: Printed) -> tuple[Layer, dict[str, Any]] | None:
    """The layer and all that was printed of it; None where the catalogue has no such class."""
    kind = _kinds().get(_family(printed.kind))
    if kind is None:
        return None
    values = _values(printed)
    if values.get("proj_size"):
        return None
    if "normalized_shape" in values:
        values["dims"] = len(values["normalized_shape"])
    if isinstance(values.get("scale_factor"), float | tuple):
        values["scale_factor"] = _whole(values["scale_factor"])
    known = {a.name: _uniform(values[a.name]) for a in kind.arguments if a.name in values}
    try:
        return kind(**known), values
    except DlkitError:
        return None


def _kinds() -> dict[str, type[Layer]]:
    """The catalogue by torch's class names."""
    ours = {kind.__name__: kind for kind in CATALOGUE.values() if not issubclass(kind, layers.Join)}
    return ours | {"Embedding": ours["Embed"], "LSTM": ours["Lstm"], "GRU": ours["Gru"], "RNN": ours["Rnn"]}


def _uniform(value: Any) -> Any:
    """(3, 3) -> 3: the network language's way to say it."""
    return value[0] if isinstance(value, tuple) and value and set(value) == {value[0]} else value


def _whole(factor: Any) -> Any:
    """2.0 -> 2, where nothing is lost."""
    parts = factor if isinstance(factor, tuple) else (factor,)
    return tuple(int(part) if part == int(part) else part for part in parts)


# In order ----------------------------------------------------------------------------------------------


class _Reader:
    """Appends modules to a chain while their numbers fit the shape that has come so far."""

    def __init__(self, shape: Shape) -> None:
        self.nodes: list[Node] = []
        self.shapes = {SOURCE: shape}
        self.at = SOURCE
        self.unknown: dict[str, int] = {}
        self.branches: list[str] = []

    def take(self, printed: Printed) -> None:
        """Read a module and its children; each child may instead be a branch from where this module began."""
        start = self.at
        if self.leaf(printed):
            return
        for child in printed.children:
            before = self.at, len(self.nodes)
            try:
                self.take(child)
            except DlkitError as misfit:
                if start == before[0] or not self.branch(child, start, before):
                    raise misfit from None

    def leaf(self, printed: Printed) -> bool:
        """Append a module that is a layer; False for one whose children are to be read."""
        made = _layer(printed)
        if made is not None:
            self.append(printed, *made)
            return True
        if printed.kind in _RESHAPE or _family(printed.kind) in _kinds():
            what = f"{printed.path or printed.kind} is a {printed.kind}, which the printed form does not say enough of"
            raise DlkitError(what, _HINT)
        if not printed.children and printed.kind not in ("", *_CONTAINERS):
            self.unknown[printed.kind] = self.unknown.get(printed.kind, 0) + 1
        return not printed.children

    def append(self, printed: Printed, layer: Layer, values: dict[str, Any]) -> None:
        x = self.shapes[self.at]
        rank = re.search(r"([123])d$", printed.kind)
        if rank and printed.kind.startswith(("Conv", "MaxPool", "AvgPool", "Adaptive")) and len(x) != 1 + int(rank[1]):
            raise self.misfit(printed, f"{rank[1]} spatial axes", x)
        features = values.get("in_features")
        if features is not None and not (len(x) <= 2 and x[-1] == features):
            if prod(x) != features:
                raise self.misfit(printed, f"{features} features", x)
            self.add(f"{printed.path}.flatten", layers.Flatten(start_dim=1), x)
            x = self.shapes[self.at]
        wanted = next((values[name] for name in _CHANNELS if name in values), None)
        if wanted is not None and x[0] != wanted:
            raise self.misfit(printed, f"{wanted} channels", x)
        if "input_size" in values and x[-1] != values["input_size"]:
            raise self.misfit(printed, f"{values['input_size']} features", x)
        normal = values.get("normalized_shape")
        if normal is not None and tuple(x[-len(normal) :]) != tuple(normal):
            raise self.misfit(printed, show(normal), x)
        self.add(printed.path or layer.op, layer, x)

    def add(self, name: str, layer: Layer, *inputs: Shape, sources: tuple[int, ...] = ()) -> None:
        try:
            output = layer.output(*inputs)
        except DlkitError as misfit:
            taken = " and ".join(map(show, inputs))
            raise DlkitError(f"{name} ({layer}) cannot take {taken}: {misfit.message}", _HINT) from None
        self.nodes.append(Node(name, layer, sources or (self.at,)))
        self.at = len(self.nodes) - 1
        self.shapes[self.at] = output

    def branch(self, child: Printed, start: int, before: tuple[int, int]) -> bool:
        """Read `child` from its block's start and add it to what came before, if the shapes then agree."""
        main, count = before
        del self.nodes[count:]
        self.at = start
        try:
            self.take(child)
        except DlkitError:
            return False
        if self.shapes[self.at] != self.shapes[main]:
            return False
        self.branches.append(child.path)
        self.add(f"{child.path}.sum", layers.Sum(), *[self.shapes[i] for i in (main, self.at)], sources=(main, self.at))
        return True

    def misfit(self, printed: Printed, wanted: str, x: Shape) -> DlkitError:
        unread = f"; {', '.join(self.unknown)} before it may change shapes" if self.unknown else ""
        return DlkitError(
            f"{printed.path or printed.kind} takes {wanted}, and the module printed before it makes {show(x)}{unread}",
            _HINT,
        )

    def notes(self) -> list[str]:
        notes = ["read in printed order: the print leaves out functional ops, residual sums and bare parameters"]
        if self.branches:
            shown = ", ".join(self.branches[:4]) + (", …" if len(self.branches) > 4 else "")
            notes.append(f"read as branches from their block's input, added: {shown}")
        if self.unknown:
            shown = ", ".join(f"{kind} {times}" for kind, times in self.unknown.items())
            notes.append(f"unknown modules, taken to keep the shape and to cost nothing: {shown}")
        return notes


_HINT = "a print does not say how its modules are wired; name the class itself, as in net.py:Net, and it is traced"
