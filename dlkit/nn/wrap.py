"""A network's forward pass, with activation checkpointing and compilation around it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dlkit.core.errors import DlkitError
from dlkit.core.recipe import Recipe
from dlkit.nn.build import Net, from_text

Forward = Callable[[Tensor], Tensor]


def wrapped(model: nn.Module, recipe: Recipe) -> Forward:
    """What a step calls. The weights, their names and the mode are the model's own."""
    forward: Forward = checkpointed(model) if recipe.checkpoint_activations else model
    return torch.compile(forward) if recipe.compile else forward


def checkpointed(model: nn.Module) -> Forward:
    """The blocks of a network one by one, each keeping its input alone and run again for its gradients (S160).

    A sequence is cut into about √n pieces; a graph where only one tensor is alive (Chen et al. 2016).
    """
    pieces = _pieces(model)
    if len(pieces) < 2:
        raise DlkitError("--checkpoint-activations has no effect on this network: it has no two parts to keep apart")

    def forward(x: Tensor) -> Tensor:
        for run, modules in pieces:
            x = checkpoint(run, x, use_reentrant=False, context_fn=lambda m=modules: (nullcontext(), _again(m)))
        return x

    return forward


def _pieces(model: nn.Module) -> list[tuple[Forward, list[nn.Module]]]:
    if not from_text(model):
        return []
    modules = list(model.children())
    bounds = [0, *_spaced(model.cuts() if isinstance(model, Net) else list(range(1, len(modules)))), len(modules)]

    def piece(start: int, end: int) -> Forward:
        return partial(model.run, start, end) if isinstance(model, Net) else nn.Sequential(*modules[start:end])

    return [(piece(a, b), modules[a:b]) for a, b in pairwise(bounds)]


def _spaced(places: list[int]) -> list[int]:
    """About √n of the n places, evenly apart."""
    wanted = round(len(places) ** 0.5)
    return [places[(i + 1) * len(places) // (wanted + 1)] for i in range(wanted)]


@contextmanager
def _again(modules: list[nn.Module]) -> Iterator[Any]:
    """While a block runs for the second time its batch norms take their statistics without recording them again."""
    norms = [m for part in modules for m in part.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, tracked in before:
            norm.momentum, norm.num_batches_tracked = momentum, tracked
