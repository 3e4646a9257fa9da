"""What one forward pass did: a tree of module calls and torch functions, with the aten ops that each ran."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from dlkit.nn import counting
from dlkit.nn.reach import Tracker, storage

aten = torch.ops.aten
_COPIES = {aten.clone, aten._unsafe_view, aten._to_copy, aten._reshape_copy, aten.copy_, aten.lift_fresh}


LISTENING = ("perform", "__torch_function__", "__torch_dispatch__")
"""Functions of this file that hand a call on to torch: what fails there is not ours."""


class Op:
    """One aten op: its name, its result's shape, its MACs (None: not counted), and what it is made of."""

    __slots__ = ("macs", "moves", "name", "output", "result", "storages")

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        self.name = func._overloadpacket.__name__
        self.macs = counting.macs(func, args, kwargs, out)
        self.moves = moves(func)
        self.result = first_tensor(out)
        self.output = () if self.result is None else tuple(self.result.shape)
        self.storages = {storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}


class Call:
    """A module's call, or a torch function's where no module is nearer, and what happened in it, in order."""

    def __init__(self, name: str, module: nn.Module | None, number: int = -1) -> None:
        self.name, self.module, self.number = name, module, number
        self.items: list[Call | Op] = []
        self.result: torch.Tensor | None = None

    def ops(self) -> Iterator[Op]:
        for item in self.items:
            if isinstance(item, Op):
                yield item
            else:
                yield from item.ops()


def first_tensor(value: Any) -> torch.Tensor | None:
    """The first tensor in what a module returned: a tensor, or a tuple, list or dict of them."""
    return next((leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)), None)


class Recorder(TorchDispatchMode):
    """Writes the ops that reach the dispatcher into the call at hand, and shows them to the tracker."""

    def __init__(self, root: Call, tracker: Tracker) -> None:
        super().__init__()
        self.stack = [root]
        self.tracker = tracker
        self.kept: list[Any] = []  # a tensor's storage identifies it only as long as it lives

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = on_one_device(args, kwargs or {})
        parts = decomposed(self, func, args, kwargs)
        if parts is not NotImplemented:
            return parts
        out = perform(func, args, kwargs)
        self.tracker.after(func, args, kwargs, out)
        self.kept.append((args, kwargs, out))
        self.stack[-1].items.append(Op(func, args, kwargs, out))
        return out


def moves(func: Any) -> bool:
    """Whether an op only moves or copies: no arithmetic."""
    return func.is_view or func._overloadpacket in _COPIES


def decomposed(mode: TorchDispatchMode, func: Any, args: Any, kwargs: Any) -> Any:
    """The result of an op that is made of others, run under `mode`; NotImplemented where it is to be run as it is."""
    if _known(func):
        return NotImplemented
    with mode:
        return func.decompose(*args, **kwargs)


def _known(func: Any) -> bool:
    packet = func._overloadpacket
    return counting.counts(packet) or "upsample" in packet.__name__ or not func._can_decompose()


def on_one_device(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Constants that a forward made on the CPU (arange, a mask), moved where the rest is: to the meta device."""
    devices = {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
    if not {"meta", "cpu"} <= devices:
        return args, kwargs

    def move(value: Any) -> Any:
        alone = isinstance(value, torch.Tensor) and value.device.type == "cpu"
        return torch.empty_like(value, device="meta") if alone else value

    return tree_map(move, (args, kwargs))


def perform(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an op. A constant of whole numbers or truths is made for real, so that a forward may look at it."""
    out = func(*args, **kwargs)
    made = isinstance(out, torch.Tensor) and not any(isinstance(t, torch.Tensor) for t in tree_leaves((args, kwargs)))
    if made and out.device.type == "meta" and not out.is_floating_point() and "device" in kwargs:
        return func(*args, **{**kwargs, "device": torch.device("cpu")})
    return out


class Calls(TorchFunctionMode):
    """Numbers the calls of a forward pass, modules and torch functions alike, as they begin."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0

    def enter(self, name: str, module: nn.Module | None) -> int:
        self.begun += 1
        return self.begun - 1

    def leave(self, number: int, name: str, args: Any, kwargs: Any, out: Any) -> None:
        """The call with this number returned `out`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        number = self.enter(name, None)
        out = func(*args, **(kwargs or {}))
        self.leave(number, name, args, kwargs or {}, out)
        return out

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """While the block runs, the calls of all inner modules too."""
        with ExitStack() as stack:
            for name, module in model.named_modules():
                if module is not model:
                    for handle in self._hooks(name, module):
                        stack.callback(handle.remove)
            stack.enter_context(self)
            yield

    def _hooks(self, name: str, module: nn.Module) -> list[Any]:
        running: list[int] = []

        def enter(_: nn.Module, __: Any) -> None:
            running.append(self.enter(name, module))

        def leave(_: nn.Module, args: Any, out: Any) -> None:
            self.leave(running.pop(), "", args, {}, out)

        return [module.register_forward_pre_hook(enter, prepend=True), module.register_forward_hook(leave)]


class Tree(Calls):
    """Gathers what happens in each call (a module, an einsum) under its name."""

    def __init__(self, stack: list[Call], tracker: Tracker) -> None:
        super().__init__()
        self.stack, self.tracker = stack, tracker

    def enter(self, name: str, module: nn.Module | None) -> int:
        number = super().enter(name, module)
        self.stack.append(Call(name, module, number))
        return number

    def leave(self, number: int, name: str, args: Any, kwargs: Any, out: Any) -> None:
        call = self.stack.pop()
        if call.module is None:
            self.tracker.called(name, args, kwargs, out)
        else:
            call.result = first_tensor(out)
        if call.items or call.module is not None:
            self.stack[-1].items.append(call)


class Catch(Calls):
    """Keeps the first tensor that one call returned."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.result: torch.Tensor | None = None

    def leave(self, number: int, name: str, args: Any, kwargs: Any, out: Any) -> None:
        if number == self.number:
            self.result = first_tensor(out)


@contextmanager
def recording(model: nn.Module, tracker: Tracker) -> Iterator[Call]:
    """The root call, complete when the block ends."""
    root = Call("", model)
    recorder = Recorder(root, tracker)
    with torch.no_grad(), Tree(recorder.stack, tracker).on(model), recorder:
        yield root


@contextmanager
def located(
    model: nn.Module,
    entered: Callable[[str, Any], None] | None = None,
    left: Callable[[str, Any], None] | None = None,
) -> Iterator[list[str]]:
    """The paths of the modules that are running, the innermost last, while the block runs; "" is `model`.

    `entered` is called with the path of the module around and what is handed in, `left` with the module's own path
    and what it returns.
    """
    stack = [""]

    def enter(path: str, args: Any, kwargs: Any) -> None:
        if entered:
            entered(stack[-1], (args, kwargs))
        stack.append(path)

    def leave(path: str, out: Any) -> None:
        stack.pop()
        if left:
            left(path, out)

    with ExitStack() as handles:
        for path, module in model.named_modules():
            if module is not model:
                before = module.register_forward_pre_hook(
                    lambda _, args, kwargs, path=path: enter(path, args, kwargs), prepend=True, with_kwargs=True
                )
                after = module.register_forward_hook(lambda _, __, out, path=path: leave(path, out))
                handles.callback(before.remove)
                handles.callback(after.remove)
        yield stack
