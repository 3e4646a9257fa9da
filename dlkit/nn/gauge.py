"""`--watch`: what one step an epoch does to each layer, and what that says (S182-S187)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.nn.ranks import ALONE, Ranks

_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Hardsigmoid, nn.Hardswish)
VANISHING = 1e-3
"""First layer's gradient over the last's, root mean squares; beyond its inverse it explodes."""
DEAD, FAST, SLOW = 0.5, 0.1, 1e-7


class Gauge:
    """Measures one step, the first after it is made and after each `take`, by hooks that are there for that step alone.

    A layer's row holds the norm of its gradient as the optimiser gets it, that gradient's root mean square, the norm of
    its weights, and ‖Δw‖/‖w‖; a rectifier's the share of units (channels of a map) that are 0 for the whole batch, the
    parts of all processes.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], ranks: Ranks = ALONE) -> None:
        self.model, self.optimizers, self.ranks = model, optimizers, ranks
        own = {name: list(m.parameters(recurse=False)) for name, m in model.named_modules()}
        trained = {name: [p for p in parameters if p.requires_grad] for name, parameters in own.items()}
        self.layers = {name: parameters for name, parameters in trained.items() if parameters}
        self.rectifiers = {name: m for name, m in model.named_modules() if isinstance(m, _RECTIFIERS)}
        self.axes = _unit_axes(model)
        self._arm()

    def take(self) -> list[dict[str, Any]]:
        """The rows of the step that was measured, in the network's order; the next step is measured again."""
        dead = {name: {"dead": self._dead(units)} for name, units in self.alive.items()}
        rows = [
            {"layer": name, **self.rows.get(name, {}), **dead.get(name, {})}
            for name, _ in self.model.named_modules()
            if name in self.rows or name in dead
        ]
        self._disarm()
        self._arm()
        return rows

    def _dead(self, units: Tensor) -> float:
        """The share of units that no process, each having its part of the batch, has seen alive."""
        alive = self.ranks.largest(units.double().tolist())
        return 1 - sum(alive) / len(alive)

    def _arm(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.alive: dict[str, Tensor] = {}
        self.before: dict[str, list[Tensor]] = {}
        self.handles = [m.register_forward_hook(self._see(name)) for name, m in self.rectifiers.items()]
        # A layer may be the affair of two optimisers: of Muon and AdamW.
        self.handles.append(self.optimizers[0].register_step_pre_hook(self._before))
        self.handles.append(self.optimizers[-1].register_step_post_hook(self._after))

    def _disarm(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _see(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, out: Tensor) -> None:
            if module.training:
                units = (out.detach() != 0).movedim(self.axes[name], 0).flatten(1).any(1)
                self.alive[name] = self.alive[name] | units if name in self.alive else units

        return hook

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for name, parameters in self.layers.items():
            self.before[name] = [p.detach().clone() for p in parameters]
            grads = [p.grad for p in parameters if p.grad is not None]
            if grads:
                norm, count = _norm(grads), sum(g.numel() for g in grads)
                self.rows.setdefault(name, {}).update(grad_norm=norm, grad_rms=norm / count**0.5)

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for name, parameters in self.layers.items():
            old = self.before.pop(name)
            weight, moved = _norm(old), _norm([p.detach() - o for p, o in zip(parameters, old, strict=True)])
            ratio = moved / weight if weight else None
            self.rows.setdefault(name, {}).update(weight_norm=weight, update_ratio=ratio)
        self._disarm()


def _unit_axes(model: nn.Module) -> dict[str, int]:
    """On which axis of its output a rectifier has its units, as the layer with weights before it has them: that behind
    the batch, or of vectors and of sequences B×T×D the last."""
    axes, last = {}, 1
    for name, module in model.named_modules():
        if isinstance(module, _RECTIFIERS):
            axes[name] = last
        elif isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.GroupNorm):
            last = 1
        elif any(True for _ in module.parameters(recurse=False)):
            last = -1
    return axes


def _norm(tensors: list[Tensor]) -> float:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors))).item()


def findings(rows: list[dict[str, Any]]) -> list[str]:
    """What the rows of one step give cause to say, a sentence each."""
    if not rows:
        return []
    graded = [row for row in rows if row.get("grad_rms") is not None]
    said = []
    if len(graded) > 1:
        first, last = graded[0], graded[-1]
        ratio = first["grad_rms"] / last["grad_rms"] if last["grad_rms"] else float("inf")
        between = f"{first['layer']}'s is {ratio:.2g} of {last['layer']}'s"
        if ratio < VANISHING:
            said.append(f"gradients vanish: {between}; try a norm, a residual sum or another activation")
        elif ratio > 1 / VANISHING:
            said.append(f"gradients explode: {between}; try --clip, a norm or a smaller initial scale")
    dead = [row for row in rows if row.get("dead", 0) > DEAD]
    if dead:
        worst = max(dead, key=lambda row: row["dead"])
        said.append(f"{worst['dead']:.0%} of {worst['layer']}'s units are 0 for the whole batch; try a smaller --lr")
    moving = [row for row in rows if row.get("update_ratio") is not None]
    fast = [row["layer"] for row in moving if row["update_ratio"] > FAST]
    slow = [row["layer"] for row in moving if row["update_ratio"] < SLOW]
    if fast:
        said.append(f"a step moves {', '.join(fast[:4])} by more than a tenth of its norm; try a smaller --lr")
    if slow:
        said.append(f"a step hardly moves {', '.join(slow[:4])}: less than {SLOW:g} of its norm")
    return said or [_in_order(graded, moving)]


def _in_order(graded: list[dict[str, Any]], moving: list[dict[str, Any]]) -> str:
    norms, ratios = [row["grad_norm"] for row in graded], [row["update_ratio"] for row in moving]
    parts = [f"gradient norms from {min(norms):.2g} to {max(norms):.2g}"] if norms else []
    parts += [f"a step moves weights by {min(ratios):.2g} to {max(ratios):.2g} of their norm"] if ratios else []
    return f"nothing out of the ordinary in {len(graded)} layers: {', '.join(parts)}"
