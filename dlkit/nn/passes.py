"""One training pass of a module on the meta device: the MACs of each inner module, forward and backward.

The backward pass is run, not derived: autograd says which gradients a frozen part or a detached branch needs. Each
op on the way back belongs to the module whose forward made the node that runs it. Attention is written out as
products of matrices, so that its way back counts twice its way forward, as dlkit's own networks do.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dlkit.nn import counting
from dlkit.nn.events import decomposed, located, moves, on_one_device, perform


class Passes(NamedTuple):
    """MACs by inner module, by its path ("" for the module's own forward), and how often each uncounted op ran."""

    forward: Counter[str]
    backward: Counter[str]
    uncounted: Counter[str]


class _Counts(TorchDispatchMode):
    """Adds the MACs of each op to the module that `where` names."""

    def __init__(self, where: Callable[[], str], uncounted: Counter[str]) -> None:
        super().__init__()
        self.where, self.macs, self.uncounted = where, Counter[str](), uncounted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = on_one_device(args, kwargs or {})
        parts = decomposed(self, func, args, kwargs)
        if parts is not NotImplemented:
            return parts
        out = perform(func, args, kwargs)
        macs = counting.macs(func, args, kwargs, out)
        if macs is not None:
            self.macs[self.where()] += macs
        elif not moves(func) and any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves((args, kwargs))):
            self.uncounted[func._overloadpacket.__name__] += 1
        return out


class _Nodes:
    """Which module each node of autograd's graph belongs to; a hook on each says so when it runs."""

    def __init__(self) -> None:
        self.owners: dict[Any, str] = {}
        self.running = ""

    def claim(self, path: str, value: Any) -> None:
        """Give the nodes that made `value`, and that nobody owns, to the module at `path`."""
        waiting = [leaf.grad_fn for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
        while waiting:
            node = waiting.pop()
            if node is None or node in self.owners:
                continue
            self.owners[node] = path
            node.register_prehook(lambda _, path=path: self._run(path))
            waiting += [before for before, _ in node.next_functions]

    def _run(self, path: str) -> None:
        self.running = path


def passes(module: nn.Module, sample: torch.Tensor) -> Passes:
    """Forward and backward with `sample`; the gradient starts at every output that has one."""
    nodes, uncounted = _Nodes(), Counter[str]()
    with sdpa_kernel(SDPBackend.MATH), located(module, nodes.claim, nodes.claim) as stack:
        with _Counts(lambda: stack[-1], uncounted) as forward:
            out = module(sample)
        nodes.claim("", out)
    ends = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor) and leaf.grad_fn is not None]
    with _Counts(lambda: nodes.running, uncounted) as backward:
        if ends:
            torch.autograd.backward(ends, [torch.empty_like(end) for end in ends])
    for parameter in module.parameters():
        parameter.grad = None
    return Passes(forward.macs, backward.macs, uncounted)
