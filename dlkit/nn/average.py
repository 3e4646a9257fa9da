"""Averages of weights: a moving one over steps, and stochastic weight averaging over the last epochs."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from dlkit.core.recipe import Recipe
from dlkit.nn.loader import Batches
from dlkit.nn.norms import measure
from dlkit.nn.schedule import averaged_epochs
from dlkit.nn.spread import own, sharded
from dlkit.nn.tree import like


class Average:
    """A copy of a network whose weights are an average; the live one trains on. Saved and resumed by its state_dict."""

    def __init__(self, model: nn.Module) -> None:
        self.model = deepcopy(model).requires_grad_(False).eval()
        self.count = 0

    def shard(self, recipe: Recipe) -> None:
        """Cut the average into the shards of the live network, which several processes hold."""
        sharded(self.model.requires_grad_(True), recipe).requires_grad_(False)

    def after_step(self, live: nn.Module) -> None:
        """What a step of the live network means to the average."""

    def after_epoch(self, live: nn.Module, epoch: int, train: Batches) -> None:
        """What the end of an epoch, the first being 1, means to the average."""

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = int(state["count"])
        ours = self.model.state_dict()
        self.model.load_state_dict({name: like(ours[name], value) for name, value in state["model"].items()})

    @torch.no_grad()
    def _towards(self, live: nn.Module, weight: float) -> None:
        """averaged += weight · (live − averaged), buffers too; whole numbers are copied. What two names share, once."""
        ours, theirs = _tensors(self.model), _tensors(live)
        names = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[n] for n in names], [theirs[n] for n in names], weight)
        for name in ours.keys() - set(names):
            ours[name].copy_(theirs[name])
        self.count += 1


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights and buffers; of weights in shards this process's own."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: own(value) for name, value in named.items()}


class Ema(Average):
    """The exponential moving average: decay min(`decay`, (1 + n)/(10 + n)) at the n-th step, so that it starts fast."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay

    def after_step(self, live: nn.Module) -> None:
        self._towards(live, 1 - min(self.decay, (1 + self.count) / (10 + self.count)))


class Swa(Average):
    """The mean of the weights at the ends of the last epochs (Izmailov et al. 2018).

    Running statistics of batch norm are no average: they are measured over the training rows, each batch by all
    processes together.
    """

    def __init__(self, model: nn.Module, epochs: int, share: float) -> None:
        super().__init__(model)
        self.first = epochs - averaged_epochs(epochs, share) + 1

    def after_epoch(self, live: nn.Module, epoch: int, train: Batches) -> None:
        if epoch >= self.first:
            self._towards(live, 1 / (self.count + 1))
            measure(self.model, train.everything())


def make_average(model: nn.Module, recipe: Recipe) -> Average | None:
    if recipe.ema is not None:
        return Ema(model, recipe.ema)
    return Swa(model, recipe.epochs, recipe.swa) if recipe.swa is not None else None
