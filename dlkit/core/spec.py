"""The network language: text -> Graph.

    net     = [shape] item …                    3x224x224 conv:64,k7,s2,p3 bn relu
    item    = layer | name | "(" items ")" | N "*" item | ("sum" | "cat" | "mul") "(" items "|" items … ")"
    layer   = name [":" argument ","…]          conv:64,k3,padding=1
    lines   : name = items                      a definition, for later lines; # starts a comment

Every mistake is a DlkitError with its position, a caret under it, what was expected, and the nearest name.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from dlkit.core.arguments import Argument, Choice, Padding, Whole
from dlkit.core.errors import DlkitError, nearest
from dlkit.core.graph import SOURCE, Builder, Graph
from dlkit.core.layers import Join, Layer, Shape
from dlkit.core.sequence import CATALOGUE
from dlkit.core.source import context, place

MAX_LAYERS = 100_000
MAX_DEPTH = 100

_TOKEN = re.compile(
    r"(?P<blank>[^\S\n]+|\#[^\n]*)|(?P<line>\n)|(?P<open>\()|(?P<close>\))|(?P<bar>\|)"
    r"|(?P<times>[^\s()|#*:,=]*[^\S\n]*\*)|(?P<word>[^\s()|#]+)"
)
_DEFINITION = re.compile(r"[^\S\n]*([A-Za-z_][\w-]*)[^\S\n]*=[^\S\n]*")
_SHAPE_PART = Whole(1)


class Network(NamedTuple):
    """A parsed network: the shape it starts with, where the text gives one, and its graph."""

    input: Shape | None
    graph: Graph


def parse(text: str) -> Network:
    """The network that `text` describes; DlkitError points at the first mistake."""
    return _Parser(text).network()


def parse_shape(text: str) -> Shape:
    """A shape such as 3x224x224 (C×H×W, no batch) or 224; DlkitError names the part that is not a size."""
    return tuple(_shape_part(text, part) for part in text.split("x"))


def _shape_part(text: str, part: str) -> int:
    try:
        return _SHAPE_PART.read(part)
    except ValueError:
        expected = f"each part must be {_SHAPE_PART.expected}, as in 3x224x224"
        raise DlkitError(f"{part!r} in the shape {text!r} is not a size: {expected}") from None


# Lexing -----------------------------------------------------------------------------------------


class _Token(NamedTuple):
    kind: str  # open, close, bar, times, word; define starts a line, end closes it
    text: str
    start: int


def _tokens(text: str) -> Iterator[_Token]:
    """The tokens of a text; a logical line ends at a newline outside parentheses."""
    at, depth, fresh = 0, 0, True
    while at < len(text):
        if fresh and (name := _DEFINITION.match(text, at)):
            yield _Token("define", name[1], name.start(1))
            at, fresh = name.end(), False
            continue
        found = _TOKEN.match(text, at)
        assert found and found.lastgroup  # the alternatives cover every character
        kind = found.lastgroup
        depth += (kind == "open") - (kind == "close" and depth > 0)
        if kind == "line" and depth == 0:
            if not fresh:
                yield _Token("end", "", at)
            fresh = True
        elif kind not in ("blank", "line"):
            yield _Token(kind, found[0], at)
            fresh = False
        at = found.end()
    yield _Token("end", "", len(text))


# Parsing ----------------------------------------------------------------------------------------


class _Part:
    """A piece of the net before repeats are written out: a layer, a sequence, or a join of branches."""

    __slots__ = ("count", "depth", "items", "layer", "length", "sealed", "start", "times")
    count: int  # layers, repeats written out
    depth: int

    def __init__(
        self,
        start: int,
        length: int,
        layer: Layer | None,
        items: "list[_Part]",
        times: int = 1,
        sealed: bool = False,
    ) -> None:
        self.start, self.length = start, length
        self.layer, self.items, self.times = layer, items, times
        self.sealed = sealed  # a named network: its own positions are not in this text
        self.count = times * ((layer is not None) + sum(item.count for item in items))
        self.depth = 1 + max((item.depth for item in items), default=0)


class _Parser:
    """A recursive-descent parser over one text. Layer counts are known before anything is built."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        self.at = 0
        self.depth = 0
        self.input: Shape | None = None
        self.definitions: dict[str, _Part] = {}
        self.defining = ""
        self.words: dict[str, Layer] = {}

    def fail(self, start: int, length: int, what: str, expected: str = "") -> NoReturn:
        tail = f": {expected}" if expected else ""
        raise DlkitError(
            f"{what} at {place(self.text, start)}{tail}", context=context(self.text, start, max(1, length))
        ) from None

    @property
    def next(self) -> _Token:
        return self.tokens[self.at]

    def take(self) -> _Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def network(self) -> Network:
        body = self.sequence(0, len(self.text), self.lines())
        builder = Builder()
        output = _emit(body, builder, SOURCE)
        return Network(self.input, Graph(builder.nodes, output, self.text))

    def lines(self) -> list[_Part]:
        """The items of the net itself; definitions are put aside."""
        items: list[_Part] = []
        while self.at < len(self.tokens):
            token = self.next
            if token.kind == "define":
                self.definition(self.take())
            else:
                if not items and self.input is None and _is_shape(token):
                    self.input = self.shape(self.take())
                items += self.items()
            self.end_of_line()
        if not items:
            self.fail(len(self.text.rstrip()), 1, "the network is empty", "give at least one layer, e.g. conv:64,k3")
        return items

    def shape(self, token: _Token) -> Shape:
        """The input's shape; its part that is wrong is what the caret shows."""
        at = token.start
        for part in token.text.split("x"):
            try:
                _shape_part(token.text, part)
            except DlkitError as error:
                what, _, expected = error.message.partition(": ")
                self.fail(at, len(part), what, expected)
            at += len(part) + 1
        return parse_shape(token.text)

    def end_of_line(self) -> None:
        token = self.take()
        if token.kind == "close":
            self.fail(token.start, 1, "')' without '('")
        if token.kind == "bar":
            self.fail(
                token.start, 1, "'|' outside of sum(…), cat(…) and mul(…)", "it separates branches, as in sum(a | b)"
            )

    def definition(self, name: _Token) -> None:
        if name.text in CATALOGUE:
            self.fail(
                name.start,
                len(name.text),
                f"{name.text!r} is a layer and cannot be defined",
                "take another name",
            )
        if name.text in self.definitions:
            self.fail(name.start, len(name.text), f"{name.text!r} is defined twice")
        self.defining = name.text
        items = self.items()
        if not items and self.next.kind == "end":
            self.fail(name.start, len(name.text), f"the definition of {name.text!r} is empty")
        self.definitions[name.text] = self.sequence(name.start, len(name.text), items)
        self.defining = ""

    def sequence(self, start: int, length: int, items: list[_Part], times: int = 1) -> _Part:
        return self.bounded(_Part(start, length, None, items, times))

    def bounded(self, part: _Part) -> _Part:
        """`part`, unless it is too much to build."""
        if part.count > MAX_LAYERS:
            self.fail(part.start, part.length, f"{part.count} layers", f"a network may have {MAX_LAYERS}")
        if part.depth > MAX_DEPTH:
            self.fail(part.start, part.length, "nesting is too deep", f"at most {MAX_DEPTH} levels")
        return part

    def items(self) -> list[_Part]:
        items = []
        while self.next.kind in ("word", "times", "open"):
            items.append(self.item())
        return items

    def item(self) -> _Part:
        """One layer, group, repeat or join."""
        token = self.take()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(token.start, 1, "nesting is too deep", f"at most {MAX_DEPTH} levels")
        if token.kind == "times":
            part = self.repeat(token)
        elif token.kind == "open":
            part = self.group(token)
        elif token.text in CATALOGUE and issubclass(CATALOGUE[token.text], Join):
            part = self.join(token, CATALOGUE[token.text])
        else:
            part = self.word(token)
        self.depth -= 1
        return part

    def repeat(self, token: _Token) -> _Part:
        number = token.text[:-1].strip()
        try:
            times = Whole(1).read(number)
        except ValueError:
            shown = f"the repeat count {number!r}" if number else "'*' without a count"
            self.fail(token.start, len(token.text), shown, "it must be a whole number of at least 1, as in 4*relu")
        if self.next.kind not in ("word", "times", "open"):
            self.fail(token.start, len(token.text), "nothing to repeat", "a layer or (layers) must follow")
        return self.sequence(token.start, len(token.text), [self.item()], times)

    def group(self, token: _Token) -> _Part:
        items = self.items()
        self.closing(token)
        if not items:
            self.fail(token.start, 2, "empty parentheses", "put at least one layer in them")
        return self.sequence(token.start, 1, items)

    def closing(self, opened: _Token) -> None:
        token = self.take()
        if token.kind == "end":
            self.fail(opened.start, 1, "'(' without ')'")
        if token.kind == "bar":
            self.fail(
                token.start, 1, "'|' outside of sum(…), cat(…) and mul(…)", "it separates branches, as in sum(a | b)"
            )

    def join(self, token: _Token, kind: type[Layer]) -> _Part:
        if self.next.kind != "open":
            self.fail(token.start, len(token.text), f"{token.text} without branches", f"e.g. {kind.example}")
        opened = self.take()
        branches = [self.branch(opened)]
        while self.next.kind == "bar":
            self.take()
            branches.append(self.branch(opened))
        self.closing(opened)
        if len(branches) < 2:
            what = f"{token.text} of a single branch"
            self.fail(token.start, len(token.text), what, f"separate two or more with |, e.g. {kind.example}")
        return self.bounded(_Part(token.start, len(token.text), kind(), branches))

    def branch(self, opened: _Token) -> _Part:
        return self.sequence(opened.start, 1, self.items())

    # Words ---------------------------------------------------------------------------------------

    def word(self, token: _Token) -> _Part:
        """A layer, a defined name, or a named network."""
        name, colon, rest = token.text.partition(":")
        start, length = token.start, len(token.text)
        if self.next.kind == "open" and self.next.start == start + length:
            self.fail(start + length, 1, f"'(' after {token.text!r}", "arguments follow a colon, as in conv:64,k3")
        if name in CATALOGUE:
            return _Part(start, length, self.layer(token, CATALOGUE[name]), [])
        if name in self.definitions:
            if colon:
                self.fail(start + len(name), len(rest) + 1, f"{name!r} is a definition and takes no arguments")
            return self.sequence(start, length, [self.definitions[name]])
        if _is_shape(token):
            self.fail(
                start,
                length,
                f"the shape {token.text!r}",
                "only the first word of a network may be its shape",
            )
        return self.named(token, name)

    def named(self, token: _Token, name: str) -> _Part:
        """A network of the zoo, in place. As the first word it also brings its input shape."""
        from dlkit.core import zoo

        if name not in zoo.names():
            self.unknown(token, name, zoo.names())
        overrides = {}
        for start, text in _split(token):
            key, equals, value = text.partition("=")
            if not equals:
                self.fail(start, len(text), f"{text!r} is not an option", f"write it as in {name}:classes=10")
            if key in overrides:
                self.fail(start, len(text), f"{key} is given twice")
            if key not in zoo.info(name).options:
                options = [f"{option}={default}" for option, default in zoo.info(name).options.items()]
                self.fail(start, len(key), f"{name} has no option {key!r}", f"it takes {', '.join(options)}")
            overrides[key] = self.value(name, Argument(key, Whole(1)), value, start + len(key) + 1)
        inner = _Parser(zoo.text(name, **overrides))
        body = _Part(token.start, len(token.text), None, inner.lines(), sealed=True)
        if self.input is None and token is self.tokens[0]:
            self.input = inner.input
        return self.bounded(body)

    def unknown(self, token: _Token, name: str, zoo: list[str]) -> NoReturn:
        start, length = token.start, max(1, len(name))
        if name and name == self.defining:
            self.fail(start, length, f"the definition of {name!r} uses itself", "definitions cannot be recursive")
        if any(later.kind == "define" and later.text == name for later in self.tokens[self.at :]):
            self.fail(start, length, f"{name!r} is used before its definition", "define it on an earlier line")
        known = [*CATALOGUE, *self.definitions, *zoo]
        near = nearest(name.lower(), known)
        self.fail(start, length, f"unknown layer {name!r}", near)

    def layer(self, token: _Token, kind: type[Layer]) -> Layer:
        """The layer that a word stands for; equal words share one object."""
        if token.text in self.words:
            return self.words[token.text]
        values: dict[str, Any] = {}
        for start, text in _split(token):
            argument, value, offset = self.argument(kind, start, text, values)
            if argument.name in values:
                self.fail(start, len(text), f"{kind.names[0]}'s {argument.name} is given twice", kind.takes())
            values[argument.name] = self.value(kind.names[0], argument, value, start + offset)
        try:
            made = kind(**values)
        except DlkitError as error:
            what, _, example = error.message.partition(", e.g. ")
            self.fail(token.start, len(token.text), what, f"e.g. {example}" if example else "")
        self.words[token.text] = made
        return made

    def value(self, owner: str, argument: Argument, text: str, start: int) -> Any:
        try:
            return argument.kind.read(text)
        except ValueError:
            what = f"{owner}'s {argument.name} is {text!r}" if text else f"{owner}'s {argument.name} has no value"
            self.fail(start, len(text), what, f"it must be {argument.kind.expected}")

    def argument(self, kind: type[Layer], start: int, text: str, given: dict[str, Any]) -> tuple[Argument, str, int]:
        """The argument that `text` sets, its value's text, and where in `text` that begins."""
        op, (key, equals, value) = kind.names[0], text.partition("=")
        if not text:
            self.fail(start, 1, f"{op} has an empty argument", kind.takes())
        if equals:
            found = next((a for a in kind.arguments if key in (a.name, a.short)), None)
            return (found, value, len(key) + 1) if found else self.no_argument(kind, start, key)
        bare = _bare(kind, given)
        if re.match(r"[-+.0-9]|(nan|inf(inity)?)$", text, re.IGNORECASE):
            if not bare:
                self.fail(start, len(text), f"{op} takes no bare number, here {text!r},", kind.takes())
            return bare, text, 0
        if bare and text in bare.kind.words:
            return bare, text, 0
        for found in kind.arguments:
            rest = text.removeprefix(found.short)
            if found.short and rest != text and (rest in found.kind.words or re.match(r"[-+.0-9]|nan|inf", rest)):
                return found, rest, len(found.short)
        return self.no_argument(kind, start, text)

    def no_argument(self, kind: type[Layer], start: int, text: str) -> NoReturn:
        op = kind.names[0]
        for found in kind.arguments:
            if text in (found.name, found.short):
                self.fail(start, len(text), f"{op}'s {found.name} has no value", _sample(found))
        written = [a.name for a in kind.arguments] + [
            a.short + w for a in kind.arguments for w in a.kind.words if a.short
        ]
        near = nearest(text, written)
        hint = f"; {near}" if near.startswith("did") else ""
        self.fail(start, len(text), f"{op} has no argument {text!r}", kind.takes() + hint)


def _split(token: _Token) -> Iterator[tuple[int, str]]:
    """Each argument of a word, with its offset in the text."""
    name, colon, rest = token.text.partition(":")
    at = token.start + len(name) + 1
    for text in rest.split(",") if colon else ():
        yield at, text
        at += len(text) + 1


def _bare(kind: type[Layer], given: dict[str, Any]) -> Argument | None:
    """The argument that the next bare number sets: the first not given; else the last, which is then given twice."""
    names = kind.bare.split()
    name = next((name for name in names if name not in given), names[-1] if names else "")
    return next((a for a in kind.arguments if a.name == name), None)


def _sample(argument: Argument) -> str:
    if isinstance(argument.kind, Choice | Padding):
        return f"write {argument.name}={argument.kind.words[0]}"
    return f"write {argument.name}=1" + (f" or {argument.short}1" if argument.short else "")


def _is_shape(token: _Token) -> bool:
    return token.kind == "word" and re.match(r"[-+.0-9]", token.text) is not None


def _emit(part: _Part, builder: Builder, source: int, at: tuple[int, int] | None = None) -> int:
    """Build `part` after node `source`; the index of its last node. `at` overrules the places inside."""
    here = at or (part.start, part.length)
    if part.layer is not None:
        inputs = tuple(_emit(branch, builder, source, at) for branch in part.items) or (source,)
        return builder.add(part.layer, inputs, *here)
    for _ in range(part.times):
        for item in part.items:
            source = _emit(item, builder, source, here if part.sealed else at)
    return source
