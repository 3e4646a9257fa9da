"""Receptive fields of a traced module: each tensor's dimensions are followed from the input through the aten ops.

A dimension is made of atoms: the batch, channels and heads are anonymous, a spatial atom belongs to one axis of the
input, or to several once they are merged (patches as tokens). Windows act on spatial atoms by the rules of
`dlkit.core.field`; a sum over all of an input's axes sees the whole input; where neither can be said, the field is
undefined and the op is named. Statistics of normalisation are taken as given, as in the walk over a graph.
"""

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_leaves

from dlkit.core import field
from dlkit.core.field import INPUT, PAST, WHOLE, Reads, Taps, Verdict, advance, unite
from dlkit.core.layers import FIRST, LAST, AdaptiveAvgPool, Upsample


class Atom(NamedTuple):
    """A factor of a dimension: the input's axes it holds, its size, and the size of what it was split from."""

    axes: tuple[int, ...]
    size: int
    whole: int = 0


Dim = tuple[Atom, ...]


class State(NamedTuple):
    """A tensor's dimensions, its receptive field, and the axes that were already summed over."""

    dims: tuple[Dim, ...]
    verdict: Verdict
    mixed: frozenset[int] = frozenset()


_FRESH = {f"{kind}_{tail}" for kind in ("zeros", "ones", "full", "empty", "rand", "randn") for tail in ("like",)} | {
    f"new_{kind}" for kind in ("zeros", "ones", "full", "empty")
}  # they take a shape, and no value
_HERE = field.window(1, 1, 1, 0)


def plain(sizes: Iterable[int]) -> tuple[Dim, ...]:
    """Dimensions without a spatial axis."""
    return tuple((Atom((), size),) for size in sizes)


def axes_of(dims: Iterable[Dim]) -> set[int]:
    return {axis for dim in dims for atom in dim for axis in atom.axes}


class Tracker:
    """The states of all tensors that depend on the input."""

    def __init__(self, sample: torch.Tensor, layout: str = FIRST) -> None:
        """`sample` is N×C×…, its axes after the channels; N×…×D with the layout LAST, before them; or tokens N×T.

        `crossed` tells, once something minds, whether that takes the positions of this layout for channels.
        """
        last = layout == LAST and sample.is_floating_point()
        lead = 2 if sample.is_floating_point() and not last else 1
        self.rank = sample.dim() - lead - last
        self.layout = layout if sample.is_floating_point() else LAST  # tokens: embedded, they are T×D
        self.crossed = None if sample.is_floating_point() else False
        self.extent = tuple(sample.shape[lead : lead + self.rank])
        axes = tuple((Atom((axis,), size),) for axis, size in enumerate(self.extent))
        dims = (*plain(sample.shape[:lead]), *axes, *plain(sample.shape[lead + self.rank :]))
        self._states: dict[int, tuple[torch.Tensor, State]] = {}
        self._written: set[int] = set()  # memory that was changed through a view: what holds it is no longer known
        self.put(sample, State(dims, Verdict((INPUT,) * self.rank)))

    def get(self, tensor: Any) -> State | None:
        found = self._states.get(id(tensor))
        if isinstance(tensor, torch.Tensor) and storage(tensor) in self._written:
            whole = found and found[1].verdict.reach == WHOLE
            return State(plain(tensor.shape), Verdict(WHOLE) if whole else Verdict(None, "a write into a part"))
        return found[1] if found and found[0] is tensor else None

    def verdict(self, tensor: torch.Tensor | None) -> Verdict:
        """A tensor's receptive field. A map that lies flat beside its channels has no positions any more."""
        state = self.get(tensor)
        if state is None:
            return Verdict(None, "what does not depend on the input")
        flat = any(axes_of([dim]) and any(not a.axes and a.size > 1 for a in dim) for dim in state.dims[1:])
        return Verdict(WHOLE) if flat and state.verdict.reach is not None else state.verdict

    def minds(self, channels: Dim) -> None:
        """Something takes the dimension `channels` for channels: the first that does tells where positions lie."""
        if self.crossed is None:
            alone = all(a.axes or a.size == 1 for a in channels)
            self.crossed = alone and len(axes_of([channels])) == 1  # several: an image that was flattened

    def everywhere(self, verdict: Verdict, count: int) -> Verdict:
        """The field where all `count` positions are read: of a sequence, of which a part may have been taken."""
        return field.everywhere(verdict, (count,), self.extent) if self.layout == LAST else Verdict(WHOLE)

    def positions(self, tensor: torch.Tensor | None) -> tuple[tuple[int, ...], str]:
        """The sizes of a tensor's spatial dimensions, in order, and its layout; empty where that is neither of two."""
        state = self.get(tensor)
        if state is None or tensor is None:
            return (), ""
        if state.verdict.reach == WHOLE:
            return tuple(tensor.shape[1:-1] if self.layout == LAST else tensor.shape[2:]), self.layout
        spatial = [i for i, dim in enumerate(state.dims) if axes_of([dim])]
        layouts = {tuple(range(2, tensor.dim())): FIRST, tuple(range(1, tensor.dim() - 1)): LAST}
        sizes = tuple(prod(a.size for a in state.dims[i] if a.axes) for i in spatial)
        return sizes, layouts.get(tuple(spatial), "")

    def put(self, tensor: torch.Tensor, state: State) -> None:
        self._states[id(tensor)] = tensor, state  # the tensor is kept, so that its id stays its own

    def called(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        """A torch function that says more than the ops it ran: their states are overruled."""
        if not args:
            return
        if name == "rms_norm":  # statistics are taken as given, though torch writes them out in sums
            state = self.get(args[0])
            if state is not None and isinstance(out, torch.Tensor) and out.shape == args[0].shape:
                self.put(out, state)
        elif name in ("lstm", "gru", "rnn_tanh", "rnn_relu") and len(args) == 9 and isinstance(args[3], bool):
            # (a packed sequence has its weights there, where others say whether they have biases)
            self._recurrent(name, args[0], out, both=args[7], time=int(args[8]))
        elif name == "scaled_dot_product_attention":
            given = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False))
            self._masked(out, **{**given, **kwargs})

    def _recurrent(self, name: str, x: torch.Tensor, out: Any, both: bool, time: int) -> None:
        """A recurrent layer: its output at a step sees the steps before, or all; its last state all."""
        state = self.get(x)
        if state is None:
            return
        time = min(time, x.dim() - 2)
        self.minds(state.dims[-1])
        walks, over = axes_of([state.dims[time]]), axes_of([state.dims[-1]])
        verdict, end = state.verdict, Verdict(WHOLE)
        if not walks and not over and time == 0 and x.dim() == 3 and self.rank:
            verdict = end = Verdict(None, f"{name}, which runs over the batch: it lacks batch_first=True")
        elif over or (walks and len(walks) < self.rank):
            verdict = end = Verdict(WHOLE) if over and self.rank == 1 else Verdict(None, name)
        elif walks:
            verdict = self.everywhere(verdict, x.shape[time]) if both else advance(verdict, PAST)
        else:
            end = verdict
        whole = verdict.reach == WHOLE
        self.put(
            out[0], State(plain(out[0].shape) if whole else (*state.dims[:-1], *plain(out[0].shape[-1:])), verdict)
        )
        for last in tree_leaves(out[1:]):
            self.put(last, State(plain(last.shape), end))

    def _masked(
        self, out: torch.Tensor, query: torch.Tensor, attn_mask: Any = None, is_causal: bool = False, **_: Any
    ) -> None:
        """Attention along the one axis that there is, where its mask is known: causal, or a band."""
        state = self.get(query)
        if state is None or self.rank != 1 or not axes_of(state.dims[-2:-1]) or isinstance(state.verdict.reach, str):
            return
        reads = PAST if is_causal else _band(attn_mask)
        if reads is not None:
            self.put(out, State((*state.dims[:-1], *plain(out.shape[-1:])), advance(state.verdict, reads)))

    def after(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Work out the state of what `func` returned."""
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        known = [(tensor, state) for tensor in inputs if (state := self.get(tensor)) is not None]
        if not known or func._overloadpacket.__name__ in _FRESH:
            return
        if func._schema.is_mutable and isinstance(out, torch.Tensor) and _is_part(out):
            self._written.add(storage(out))
        call = Run(self, func, args, kwargs, known)
        for index, result in enumerate(tree_leaves(out)):
            if isinstance(result, torch.Tensor):
                self.put(result, call.state(result, index))


def _band(mask: Any) -> Reads | None:
    """What a mask lets a position read, as a window around it; None where it has no numbers or is no band."""
    if not isinstance(mask, torch.Tensor) or mask.is_meta or mask.dtype is not torch.bool or mask.dim() < 2:
        return None
    seen = mask.flatten(0, -3).any(0) if mask.dim() > 2 else mask
    steps = [int(d) for d in (torch.arange(seen.shape[1]) - torch.arange(seen.shape[0])[:, None])[seen].unique()]
    size = seen.shape[0]
    if seen.shape != (size, size) or not steps or steps[-1] - steps[0] + 1 != len(steps) or 0 not in steps:
        return None
    if steps[0] == 1 - size:
        return PAST if steps[-1] == 0 else None
    return (field.window(len(steps), 1, 1, -steps[0]),)


def storage(tensor: torch.Tensor) -> int:
    """What identifies a tensor's memory: views share it. Works on the meta device, where no address exists."""
    return tensor.untyped_storage()._cdata


def _is_part(tensor: torch.Tensor) -> bool:
    return tensor.numel() * tensor.element_size() < tensor.untyped_storage().nbytes()


class Run:
    """One aten op on tensors of which at least one is followed."""

    def __init__(
        self, tracker: Tracker, func: Any, args: Any, kwargs: Any, known: list[tuple[torch.Tensor, State]]
    ) -> None:
        self.tracker, self.args, self.kwargs, self.known = tracker, args, kwargs, known
        self.name = func._overloadpacket.__name__
        self.arguments = [a.name for a in func._schema.arguments]
        self.pointwise = torch.Tag.pointwise in func.tags
        self.x, self.before = known[0]

    def argument(self, name: str, default: Any = None) -> Any:
        """An argument of the op by its name in the schema."""
        at = self.arguments.index(name) if name in self.arguments else len(self.args)
        value = self.args[at] if at < len(self.args) else self.kwargs.get(name)
        return default if value is None else value

    def state(self, out: torch.Tensor, index: int) -> State:
        rule = RULES.get(self.name.rstrip("_")) or (elementwise if self.pointwise else None)
        return (rule(self, out, index) if rule else None) or self.lost(out)

    def lost(self, out: torch.Tensor) -> State:
        """Nothing can be said: undefined, by the name of this op, unless everything was seen before."""
        whole = self.before.verdict.reach == WHOLE or not self.tracker.rank
        verdict = self.before.verdict if whole else Verdict(None, self.name)
        same = len(out.shape) == len(self.before.dims) and tuple(out.shape) == tuple(self.x.shape)
        return State(self.before.dims if same else plain(out.shape), verdict, self.before.mixed)

    def mix(
        self, dims: Sequence[Dim], kept: Sequence[Dim], base: State | None = None, factors: Sequence[Verdict] = ()
    ) -> State:
        """The state after a sum over `dims`: whole if all axes are seen, undefined if a part of them.

        `factors` are the fields of what is multiplied, before they are united.
        """
        base = base or self.before
        if base.verdict.reach == WHOLE or not axes_of(dims):
            return State(tuple(kept), base.verdict, base.mixed)
        atoms = [atom for dim in dims for atom in dim]
        seen = base.mixed | {axis for axis in axes_of(dims) if _covers(atoms, axis)}
        if len(seen) == self.tracker.rank:
            whole = unite([self.tracker.everywhere(verdict, _count(atoms)) for verdict in factors or [base.verdict]])
            return State(tuple(plain(_sizes(kept))), whole, seen)
        verdict = base.verdict if base.verdict.reach is None else Verdict(None, self.name)
        return State(tuple(kept), verdict, seen)

    def tap(self, taps: dict[int, Taps], dims: Sequence[Dim]) -> State:
        """The state after each axis is read by its own taps."""
        reads = tuple(taps.get(axis, _HERE) for axis in range(self.tracker.rank))
        return State(tuple(dims), advance(self.before.verdict, reads), self.before.mixed)


def _covers(atoms: list[Atom], axis: int) -> bool:
    """Whether a sum over `atoms` takes in all positions of an axis, which may have been split."""
    parts = [atom for atom in atoms if axis in atom.axes]
    return any(not atom.whole for atom in parts) or prod(atom.size for atom in parts) >= parts[0].whole


def _count(atoms: list[Atom]) -> int:
    """How many positions a sum over `atoms` takes in, of one axis."""
    return next(atom.whole or atom.size for atom in atoms if atom.axes)


def _sizes(dims: Iterable[Dim]) -> list[int]:
    return [prod(atom.size for atom in dim) for dim in dims]


def _numbers(value: Any, count: int) -> list[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * count if len(values) == 1 else values


# Windows ---------------------------------------------------------------------------------------------


def _windowed(run: Run, out: torch.Tensor, rank: int, taps: Callable[[int, int], Taps]) -> State | None:
    """`taps(i, size)` on the last `rank` dimensions, and whatever happens on the others left as it is."""
    dims, first = list(run.before.dims), len(run.before.dims) - rank
    if first:
        run.tracker.minds(dims[first - 1])
    found = {}
    for i in range(rank):
        dim, size, new = dims[first + i], run.x.shape[first + i], out.shape[first + i]
        axes = axes_of([dim])
        if axes and (len(dim) > 1 or len(axes) > 1 or dim[0].whole):
            return None
        for axis in axes:
            found[axis] = taps(i, size)
        dims[first + i] = (Atom(tuple(axes), new),)
    return run.tap(found, dims)


def _convolution(run: Run, out: torch.Tensor, index: int) -> State | None:
    weight = run.argument("weight")
    if len(run.known) > 1 or run.tracker.get(weight):
        return None
    rank = weight.dim() - 2
    kernel = weight.shape[2:]
    stride, padding, dilation = (_numbers(run.argument(n, 1), rank) for n in ("stride", "padding", "dilation"))

    def taps(i: int, size: int) -> Taps:
        if run.argument("transposed"):
            return field.transposed(kernel[i], stride[i], dilation[i], padding[i])
        return field.window(kernel[i], stride[i], dilation[i], padding[i])

    made = _windowed(run, out, rank, taps)
    if made is None:
        return None
    dims = (made.dims[0], (Atom((), out.shape[1]),), *made.dims[2:])
    return run.mix([run.before.dims[1]], dims, made)


def _pool(rank: int) -> Callable[[Run, torch.Tensor, int], State | None]:
    def rule(run: Run, out: torch.Tensor, index: int) -> State | None:
        kernel = _numbers(run.argument("kernel_size"), rank)
        stride = _numbers(run.argument("stride") or kernel, rank)
        padding, dilation = _numbers(run.argument("padding", 0), rank), _numbers(run.argument("dilation", 1), rank)
        return _windowed(run, out, rank, lambda i, size: field.window(kernel[i], stride[i], dilation[i], padding[i]))

    return rule


def _adaptive(rank: int) -> Callable[[Run, torch.Tensor, int], State | None]:
    def rule(run: Run, out: torch.Tensor, index: int) -> State | None:
        dims, new = run.before.dims, out.shape[-rank:]
        run.tracker.minds(dims[-rank - 1])
        if out.shape == run.x.shape:
            return run.before
        if prod(new) == 1:
            return run.mix(dims[-rank:], (*dims[:-rank], *plain(new)))
        reads = AdaptiveAvgPool(output_size=tuple(new)).reads((1, *run.x.shape[-rank:]))
        return _windowed(run, out, rank, lambda i, size: reads[i] if isinstance(reads, tuple) else _HERE)

    return rule


def _upsample(mode: str, rank: int) -> Callable[[Run, torch.Tensor, int], State | None]:
    def rule(run: Run, out: torch.Tensor, index: int) -> State | None:
        old, new = run.x.shape[-rank:], tuple(out.shape[-rank:])
        scales = [run.argument(name) for name in ("scales", "scales_d", "scales_h", "scales_w")]
        given = [scale for scale in scales if isinstance(scale, float)]
        if given and any(size * scale != n for size, scale, n in zip(old, given, new, strict=True)):
            return None  # torch reads by the scale, not by the sizes
        layer = Upsample(size=new, mode=mode, align_corners=bool(run.argument("align_corners", False)))
        reads = layer.reads((1, *old))
        return _windowed(run, out, rank, lambda i, size: reads[i] if isinstance(reads, tuple) else _HERE)

    return rule


def _pad(run: Run, out: torch.Tensor, index: int) -> State | None:
    pads = list(run.argument("pad", run.argument("padding")))
    rank = len(pads) // 2
    return _windowed(run, out, rank, lambda i, size: field.window(1, 1, 1, pads[2 * (rank - 1 - i)]))


# Elementwise work, sums and products -----------------------------------------------------------------


def elementwise(run: Run, out: torch.Tensor, index: int) -> State | None:
    """Position by position, with broadcasting."""
    verdicts = [state.verdict for _, state in run.known]
    dims: list[Dim] = []
    aligned = True
    for back in range(out.dim(), 0, -1):
        size = out.shape[-back]
        present = [(t.shape[-back], s.dims[-back], s) for t, s in run.known if t.dim() >= back]
        spatial = [dim for n, dim, _ in present if n == size and axes_of([dim])]
        dims.append(spatial[0] if spatial else (Atom((), size),))
        local = [(n, dim) for n, dim, s in present if not field.is_fixed(s.verdict)]
        aligned &= all(n == size if axes_of([dim]) else True for n, dim in local)
        aligned &= all(dim == dims[-1] for n, dim in local if spatial and n > 1)
    sizes = tuple(prod(a.size for a in dim if a.axes) for dim in dims if axes_of([dim]))
    if run.tracker.rank == 1 == len(sizes):
        verdicts = field.absorbed(verdicts, sizes, run.tracker.extent)
    made = unite(verdicts)
    if field.is_fixed(made):
        dims = list(plain(out.shape))
    mixed = frozenset().union(*(state.mixed for _, state in run.known))
    return State(tuple(dims), made if aligned or field.is_fixed(made) else Verdict(None, run.name), mixed)


def _same(run: Run, out: torch.Tensor, index: int) -> State | None:
    """Normalisation: the first input's state where the shape is its own; statistics see what they may."""
    if "batch_norm" in run.name or "group_norm" in run.name:
        run.tracker.minds(run.before.dims[1])
    if out.shape == run.x.shape:
        return run.before
    return State(plain(out.shape), run.before.verdict, run.before.mixed)


def _reduce(run: Run, out: torch.Tensor, index: int) -> State | None:
    if out.shape == run.x.shape:  # a mean of one position
        return run.before
    count = run.x.dim()
    asked = run.argument("dim")
    over = {d % count for d in (asked if isinstance(asked, (list, tuple)) else [asked])} if asked is not None else None
    over = over or set(range(count))
    dims = run.before.dims
    keep = out.dim() == count
    if run.tracker.rank == 1 and count == 3:  # what is summed over are positions
        run.tracker.minds(dims[3 - max(over)])
    kept = [plain([1])[0] if i in over else dim for i, dim in enumerate(dims) if keep or i not in over]
    return run.mix([dims[i] for i in sorted(over)], kept)


def _along(run: Run, out: torch.Tensor, index: int) -> State | None:
    """Softmax and its like: every position of one dimension is read, and the shape is kept."""
    dim = run.argument("dim", -1) % max(run.x.dim(), 1)
    return run.mix([run.before.dims[dim]], run.before.dims)


def _product(run: Run, out: torch.Tensor, index: int) -> State | None:
    """Matrix products: positions of a factor that is contracted, or met by the other's positions, are mixed."""
    a, b = (run.argument(n) for n in _FACTORS.get(run.name, ("self", "mat2")))
    left, right = run.tracker.get(a), run.tracker.get(b)
    if left is None and right is None:
        return None
    left_dims = left.dims if left else plain(a.shape)
    right_dims = right.dims if right else plain(b.shape)
    contracted = [left_dims[-1], right_dims[max(len(right_dims) - 2, 0)]]
    for dim in contracted if left and right else contracted[:1] if left else contracted[1:]:
        run.tracker.minds(dim)
    free = [left_dims[-2]] if len(left_dims) > 1 else []
    columns = [right_dims[-1]] if len(right_dims) > 1 else []
    crossed = columns if axes_of(free) and axes_of(columns) else []
    lead = left_dims[:-2] if left else right_dims[:-2]
    factors = [state.verdict for state in (left, right) if state]
    base = State((), unite(factors), (left or right).mixed)  # type: ignore[union-attr]
    kept = (*lead, *free, *(plain([out.shape[-1]]) if crossed else columns))
    return run.mix([*contracted, *crossed], kept, base, factors)


_FACTORS = {
    "addmm": ("mat1", "mat2"),
    "_addmm_activation": ("mat1", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "mv": ("self", "vec"),
}


def _cat(run: Run, out: torch.Tensor, index: int) -> State | None:
    """Joined along channels: the union. Joined along positions: undefined, though a later sum may see everything."""
    dim = run.argument("dim", 0) % out.dim()
    states = [state for _, state in run.known]
    dims, tensors = list(states[0].dims), run.argument("tensors")
    others = [[d for i, d in enumerate(s.dims) if i != dim and axes_of([d])] for s in states]
    axes = axes_of(s.dims[dim] for s in states)
    dims[dim] = (Atom(tuple(sorted(axes)), out.shape[dim]),)
    verdict = unite([state.verdict for state in states])
    if verdict.reach != WHOLE and (any(o != others[0] for o in others) or (axes and len(tensors) > 1)):
        verdict = Verdict(None, "cat along the positions" if axes else run.name)
    return State(tuple(dims), verdict, states[0].mixed)


def _embedding(run: Run, out: torch.Tensor, index: int) -> State | None:
    dims = (*run.before.dims, *plain(out.shape[-1:]))
    return State(dims, *run.before[1:]) if run.x is run.argument("indices") else None


# Views -----------------------------------------------------------------------------------------------


def _view(run: Run, out: torch.Tensor, index: int) -> State | None:
    """Dimensions merged and split; an axis that is split is no longer a map that a window slides over."""
    queue = [atom for dim in run.before.dims for atom in dim if atom.size > 1 or atom.axes]
    dims, split = [], False
    for size in out.shape:
        dim: list[Atom] = []
        while queue and (room := size // prod(atom.size for atom in dim)) > 0:
            atom = queue[0]
            if room == 1 and (atom.size > 1 or size > 1 or dim):  # axes of one position go with the next
                break
            if room % atom.size == 0:
                dim.append(queue.pop(0))
            elif atom.size % room == 0:
                split |= bool(atom.axes)
                whole = (atom.whole or atom.size) if atom.axes else 0
                dim.append(Atom(atom.axes, room, whole))
                queue[0] = Atom(atom.axes, atom.size // room, whole)
            else:
                return None
        dims.append(tuple(dim) or plain([size])[0])
    if queue and dims:
        dims[-1] = (*dims[-1], *queue)
    broken = split and run.before.verdict.reach != WHOLE
    return State(tuple(dims), Verdict(None, "view") if broken else run.before.verdict, run.before.mixed)


def _permute(run: Run, out: torch.Tensor, index: int) -> State | None:
    dims, count = run.before.dims, len(run.before.dims)
    if run.name == "permute":
        order = [d % count for d in run.argument("dims")]
    else:
        order = list(range(count))
        first, second = (0, 1) if run.name == "t" else (run.argument("dim0"), run.argument("dim1"))
        if count > 1:
            order[first], order[second] = order[second], order[first]
    return State(tuple(dims[d] for d in order), *run.before[1:])


def _unsqueeze(run: Run, out: torch.Tensor, index: int) -> State | None:
    at = run.argument("dim") % out.dim()
    dims = run.before.dims
    return State((*dims[:at], *plain([1]), *dims[at:]), *run.before[1:])


def _expand(run: Run, out: torch.Tensor, index: int) -> State | None:
    """New and stretched dimensions; a map of one position that is stretched is no map of positions any more."""
    fresh = out.dim() - run.x.dim()
    pairs = list(zip(run.before.dims, run.x.shape, out.shape[fresh:], strict=True))
    if any(old != new and axes_of([dim]) for dim, old, new in pairs):
        return None
    kept = [dim if old == new else plain([new])[0] for dim, old, new in pairs]
    return State((*plain(out.shape[:fresh]), *kept), *run.before[1:])


def _slice(run: Run, out: torch.Tensor, index: int) -> State | None:
    dim = run.argument("dim", 0) % run.x.dim()
    start, step = run.argument("start", 0), run.argument("step", 1)
    return _cut(run, out, dim, min(max(start + (start < 0) * run.x.shape[dim], 0), run.x.shape[dim]), step)


def _split(run: Run, out: torch.Tensor, index: int) -> State | None:
    dim = run.argument("dim", 0) % run.x.dim()
    sizes = run.argument("split_sizes", run.argument("split_size", 1))
    start = sum(sizes[:index]) if isinstance(sizes, (list, tuple)) else index * sizes
    return _cut(run, out, dim, start, 1)


def _cut(run: Run, out: torch.Tensor, dim: int, start: int, step: int) -> State | None:
    """Every `step`-th position of a dimension from `start` on."""
    dims, size = list(run.before.dims), out.shape[dim]
    axes = sorted(axes_of([dims[dim]]))
    if size == run.x.shape[dim]:
        return run.before
    if axes and (len(axes) > 1 or len(dims[dim]) > 1 or dims[dim][0].whole):
        return None
    dims[dim] = (Atom(tuple(axes), size),)
    return run.tap({axis: field.window(1, step, 1, -start) for axis in axes}, dims)


def _select(run: Run, out: torch.Tensor, index: int) -> State | None:
    """One position: fine of a channel; of an axis it leaves a map with a missing axis."""
    dim = run.argument("dim", 0) % run.x.dim()
    dims = run.before.dims
    gone = axes_of([dims[dim]]) and run.before.verdict.reach != WHOLE
    verdict = Verdict(None, run.name) if gone else run.before.verdict
    return State((*dims[:dim], *dims[dim + 1 :]), verdict, run.before.mixed)


Rule = Callable[[Run, torch.Tensor, int], State | None]

RULES: dict[str, Rule] = {
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable"), _convolution),
    **{f"{kind}{rank}d{tail}": _pool(rank) for rank in (1, 2, 3) for kind in ("max_pool", "avg_pool")
       for tail in ("", "_with_indices")},
    **{f"{kind}{rank}d": _adaptive(rank) for rank in (1, 2, 3)
       for kind in ("_adaptive_avg_pool", "adaptive_avg_pool", "adaptive_max_pool")},
    **{f"upsample_nearest{rank}d": _upsample("nearest", rank) for rank in (1, 2, 3)},
    **{f"_upsample_nearest_exact{rank}d": _upsample("nearest-exact", rank) for rank in (1, 2, 3)},
    "upsample_linear1d": _upsample("linear", 1),
    "upsample_bilinear2d": _upsample("bilinear", 2),
    "upsample_bicubic2d": _upsample("bicubic", 2),
    "upsample_trilinear3d": _upsample("trilinear", 3),
    "constant_pad_nd": _pad,
    **{f"{kind}_pad{rank}d": _pad for rank in (1, 2, 3) for kind in ("reflection", "replication")},
    **dict.fromkeys(
        ("native_layer_norm", "native_group_norm", "native_batch_norm", "_native_batch_norm_legit_no_training",
         "_native_batch_norm_legit", "native_dropout", "_fused_rms_norm", "detach", "alias", "_prelu_kernel"), _same),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "var", "var_mean", "std", "norm", "prod", "argmax",
                     "argmin", "logsumexp", "linalg_vector_norm", "any", "all"), _reduce),
    **dict.fromkeys(
        ("hardswish", "log_sigmoid_forward", "rrelu_with_noise", "masked_fill", "_to_copy", "tril", "triu"), elementwise
    ),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod"), _along),
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm", "mv", "_addmm_activation"), _product),
    "cat": _cat,
    "embedding": _embedding,
    **dict.fromkeys(("view", "_unsafe_view", "_reshape_alias", "reshape", "squeeze"), _view),
    **dict.fromkeys(("permute", "transpose", "t"), _permute),
    "unsqueeze": _unsqueeze,
    "expand": _expand,
    "slice": _slice,
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"), _split),
    **dict.fromkeys(("select", "unbind"), _select),
}  # fmt: skip
