"""A user's module, traced: what each of its parts makes of one sample, as the walk over a graph would say it.

The module runs on the meta device, where tensors have shapes and no numbers, once with a batch of 2 and once with
3: what grows from one to the other belongs to a sample, and what does not is paid once. So a sample's count is
2·(batch of 2) − (batch of 3), whatever dimension the batch is folded into.
"""

import re
from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import torch
from torch import nn

from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.field import Reach, Verdict
from dlkit.core.graph import Step, totals
from dlkit.core.layers import FIRST, LAST, Layer, Shape
from dlkit.core.printed import layer_of
from dlkit.nn.events import Call, Op, first_tensor, recording
from dlkit.nn.memory import saved_bytes
from dlkit.nn.reach import Tracker, storage

BATCHES = 2, 3


class Traced(NamedTuple):
    """One sample's way through a module. `uncounted` says how often each op without MACs ran; `kinds` the class of
    each inner module, by its path.

    `activation_bytes`: what one sample's forward keeps for the backward pass, in training mode; None if that fails.
    """

    input: Shape
    output: Shape
    steps: list[Step]
    params: int
    macs: int
    activation_bytes: int | None
    uncounted: dict[str, int]
    kinds: dict[str, str]
    extent: Shape  # positions of the input, on each axis of a field
    layout: str  # where they lie in it
    calls: list[int]  # for each step the number of its call, as `events.Calls` numbers them

    @property
    def field(self) -> Reach:
        """The receptive field of the last map."""
        return totals(self.steps).field


class Recorded(Layer):
    """A layer of which only the name is known: the rest is what the trace saw."""

    def __init__(self, text: str) -> None:
        self.text = text

    @property
    def op(self) -> str:
        return self.text.partition(":")[0]

    def __str__(self) -> str:
        return self.text


class _Row(NamedTuple):
    """A part of the module as one run saw it, for a whole batch."""

    name: str
    text: str
    output: tuple[int, ...]
    macs: int
    verdict: Verdict
    params: int
    positions: tuple[int, ...]
    layout: str
    call: int


class _Run(NamedTuple):
    """One forward pass: its rows, its output's shape, the ops that were not counted, and the positions followed."""

    rows: list[_Row]
    output: tuple[int, ...]
    uncounted: dict[str, int]
    tracker: Tracker


def trace(module: nn.Module, input_shape: Shape, dtype: torch.dtype | None = None) -> Traced:
    """Trace `module` with one sample of `input_shape` (C×H×W, or T for tokens), in evaluation mode.

    Whether numbers of two axes are C×L or T×D is told by the first part that minds, as it is in a graph.
    `module` is moved to the meta device. dtype: the input's; unless given, that of the parameters, or int64 where the
    first layer is an embedding. What the module's own code raises passes through. Shared parameters count once.
    """
    module = on_meta(module).eval()
    dtype = dtype or input_dtype(module)
    two, three = (sample(batch, input_shape, dtype) for batch in BATCHES)
    run = _run(module, two, FIRST)
    if run.tracker.crossed:
        run = _run(module, two, LAST)
    (rows, output, uncounted, tracker), (more, larger, *_) = run, _run(module, three, run.tracker.layout)
    if [row.name for row in rows] != [row.name for row in more]:
        what = "the module runs other parts for a batch of 3 than for one of 2"
        raise DlkitError(what, "a forward that loops over the batch is not traced", ExitCode.BAD_DATA)
    steps = [_step(*pair) for pair in zip(rows, more, strict=True)]
    used = sum(row.params for row in rows)
    params = sum(p.numel() for p in module.parameters())
    if params > used:
        steps.append(_unused(params - used))
    kept = saved_bytes(module, [sample(batch, input_shape, dtype) for batch in BATCHES])
    macs = sum(step.macs for step in steps)
    kinds = {name: type(inner).__name__ for name, inner in module.named_modules()}
    extent = tracker.extent or input_shape
    calls = [row.call for row in rows]
    output = one_sample(output, larger)
    return Traced(input_shape, output, steps, params, macs, kept, uncounted, kinds, extent, tracker.layout, calls)


def on_meta(module: nn.Module) -> nn.Module:
    """`module` on the meta device, its shared parameters still shared: `to` alone makes two of them."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    module = module.to("meta")
    for first, *others in names.values():
        for other in others:
            owner, _, attribute = other.rpartition(".")
            setattr(module.get_submodule(owner), attribute, module.get_parameter(first))
    return module


def input_dtype(module: nn.Module) -> torch.dtype:
    """int64 where the first layer that has parameters is an embedding, else the parameters' own."""
    first = next((m for m in module.modules() if any(True for _ in m.parameters(recurse=False))), None)
    if isinstance(first, nn.Embedding | nn.EmbeddingBag):
        return torch.int64
    kinds = [p.dtype for p in module.parameters() if p.dtype.is_floating_point]
    return kinds[0] if kinds else torch.float32


def sample(batch: int, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty((batch, *shape), dtype=dtype, device="meta")


def one_sample(two: tuple[int, ...], three: tuple[int, ...]) -> Shape:
    """A shape without the batch, from the shapes with a batch of 2 and of 3; windows folded into it remain."""
    single = [(2 * a - b, a != b) for a, b in zip(two, three, strict=True)]
    return tuple(size for size, varies in single if not (varies and size == 1))


def _step(row: _Row, more: _Row) -> Step:
    output = one_sample(row.output, more.output)
    layer = Recorded(row.text)
    macs = 2 * row.macs - more.macs
    return _made(row.name, layer, output, row.params, macs, row.verdict, row.positions, row.layout)


def _unused(params: int) -> Step:
    """Parameters that no part of the forward pass touched."""
    return _made("(not used)", Recorded("parameters"), (), params, 0, Verdict(None))


def _made(
    name: str,
    layer: Recorded,
    output: Shape,
    params: int,
    macs: int,
    verdict: Verdict,
    positions: Shape = (),
    layout: str = "",
) -> Step:
    return Step(
        name=name,
        op=layer.op,
        layer=layer,
        text=str(layer),
        sources=(),
        inputs=(),
        output=output,
        params=params,
        macs=macs,
        field=verdict.reach,
        undefined=verdict.reason,
        activations=prod(output),
        active_params=params,
        positions=positions,
        layout=layout,
    )


# One run -----------------------------------------------------------------------------------------------


def _run(module: nn.Module, sample: torch.Tensor, layout: str) -> _Run:
    """One forward pass, positions followed as `layout` has them."""
    tracker = Tracker(sample, layout)
    with recording(module, tracker) as root:
        root.result = first_tensor(module(sample))
    if root.result is None:
        raise DlkitError("the module's forward returns no tensor", code=ExitCode.BAD_DATA)
    rows = list(_Rows(module, tracker, root.result).of(root))
    uncounted = Counter(plain(op.name) for op in root.ops() if op.macs is None and not op.moves and op.storages)
    return _Run(rows, tuple(root.result.shape), dict(uncounted.most_common()), tracker)


def plain(name: str) -> str:
    """aten's name for an op without what only tells its variants apart: _native_batch_norm_legit is batch_norm."""
    return re.sub(r"^native_|_legit(_no_training)?$|_with_indices$", "", name.strip("_"))


class _Rows:
    """A tree of calls as rows: a module without inner calls is one row, as is a function of any other module."""

    def __init__(self, module: nn.Module, tracker: Tracker, last: torch.Tensor) -> None:
        self.tracker, self.last = tracker, last
        self.parameters = {storage(p): p.numel() for p in module.parameters()}
        self.names: Counter[str] = Counter()

    def of(self, call: Call) -> Iterator[_Row]:
        inner = [item for item in call.items if isinstance(item, Call) and item.module is not None]
        if not inner and (call.name or type(call.module).__module__.startswith("torch.nn.")):
            name = call.name or type(call.module).__name__.lower()
            yield self.row(name, _described(call.module), call, call.module)
            return
        for item in call.items:
            if isinstance(item, Op):
                continue
            if item.module is not None:
                yield from self.of(item)
            elif self.shows(item):
                name = _function(item)
                yield self.row(f"{call.name}.{name}" if call.name else name, name, item, None)

    def shows(self, call: Call) -> bool:
        """Whether a function makes the output, or does more than move or prepare what does not depend on the input."""
        ops = list(call.ops())
        works = any(not op.moves and self.tracker.get(op.result) is not None for op in ops)
        return works or ops[-1].result is self.last

    def row(self, name: str, text: str, call: Call, module: nn.Module | None) -> _Row:
        self.names[name] += 1
        times = self.names[name]
        ops = list(call.ops())
        result = call.result if call.result is not None else ops[-1].result
        shape = () if result is None else tuple(result.shape)
        verdict = self.tracker.verdict(result)
        macs = sum(op.macs or 0 for op in ops)
        used = {key for op in ops for key in op.storages}
        used |= {storage(p) for p in module.parameters()} if module else set()
        params = sum(self.parameters.pop(s, 0) for s in used)
        name = name if times == 1 else f"{name}#{times}"
        return _Row(name, text, shape, macs, verdict, params, *self.tracker.positions(result), call.number)


def _described(module: nn.Module | None) -> str:
    """A module in the network language where that has it, else by its class."""
    layer = layer_of(repr(module))
    return str(layer) if layer else type(module).__name__


def _function(call: Call) -> str:
    """A torch function's name; an operator (`+`) goes by the op that it ran."""
    if not call.name.startswith("__"):
        return call.name.rstrip("_")
    ops = list(call.ops())
    return next((op for op in ops if not op.moves), ops[-1]).name.strip("_")
