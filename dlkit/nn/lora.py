"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685): y = xWᵀ + b + (α/r)·(xAᵀ)Bᵀ; A and B alone learn.

A: r×in is drawn as a linear layer's weights are, B: out×r begins at 0, so that the first step starts from the network
as it was. A convolution's matrix is its weight with all but the filters flattened.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlkit.core import layers, sequence
from dlkit.core.graph import Step
from dlkit.nn.tree import whole

A, B = "lora_a", "lora_b"
_CONVOLUTIONS = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


class Adapted(nn.Module):
    """A layer with adapters on its weight, which keeps its name, its class and its own parameters."""

    weight: nn.Parameter
    lora_a: nn.Parameter
    lora_b: nn.Parameter
    lora_scale: float

    @torch.no_grad()
    def attach(self, rank: int, scale: float) -> None:
        """Parameters A and B, drawn on the weight's device and in its type."""
        rows, columns = len(self.weight), self.weight[0].numel()
        self.lora_a = nn.Parameter(self.weight.new_empty(rank, columns))
        self.lora_b = nn.Parameter(self.weight.new_zeros(rows, rank))
        self.lora_scale = scale
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))


class AdaptedLinear(Adapted, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        low = F.linear(F.linear(input, self.lora_a), self.lora_b)
        return super().forward(input) + self.lora_scale * low


class AdaptedConvolution(Adapted):
    """In front of a class of convolutions. Each group of channels goes through the whole of A, and its filters' B."""

    groups: int

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve = super()._conv_forward  # type: ignore[misc]
        filters = self.lora_a.view(-1, *weight.shape[1:]).repeat(self.groups, *[1] * (weight.dim() - 1))
        back = self.lora_b.view(*self.lora_b.shape, *[1] * (weight.dim() - 2))
        product = next(product for kind, product in _CONVOLUTIONS.items() if isinstance(self, kind))
        low = product(convolve(input, filters, None), back, groups=self.groups)
        out: Tensor = convolve(input, weight, bias) + self.lora_scale * low
        return out


def adapt(layer: nn.Module, rank: int, scale: float) -> None:
    """Give a linear layer or a convolution adapters, in place."""
    kind = type(layer)
    if kind is nn.Linear:
        layer.__class__ = AdaptedLinear
    else:
        layer.__class__ = type(f"Adapted{kind.__name__}", (AdaptedConvolution, kind), {})
    assert isinstance(layer, Adapted)
    layer.attach(rank, scale)


def merged(model: nn.Module) -> dict[str, Tensor]:
    """The state of a network on the host, each tensor a copy, with W + (α/r)·BA in place of W, A and B.

    Of weights in shards every process has to ask.
    """
    state = {name: whole(value.detach()).cpu().clone().contiguous() for name, value in model.state_dict().items()}
    for path, layer in model.named_modules():
        if isinstance(layer, Adapted):
            stem = f"{path}." if path else ""
            a, b, weight = state.pop(stem + A), state.pop(stem + B), state[stem + "weight"]
            weight += layer.lora_scale * (b @ a).view_as(weight)
    return state


# Which layers --------------------------------------------------------------------------------------------------------


def in_graph(steps: list[Step]) -> Iterator[tuple[str, str]]:
    """(matrix, path of its layer) of a built graph, the matrices by the names that `core.matrices` has for them."""
    for step in steps:
        for name, inner in _inside(step.layer):
            yield name, f"{step.name}.{inner}" if inner else step.name


def _inside(layer: layers.Layer) -> Iterator[tuple[str, str]]:
    if isinstance(layer, sequence.Attention):
        yield from (("q", "q"), ("k", "k"), ("v", "v"), ("o", "out"))
    elif isinstance(layer, sequence.Mlp | sequence.GatedMlp):
        yield from _feed_forward("", isinstance(layer, sequence.GatedMlp))
    elif isinstance(layer, sequence.Moe):
        for i in range(layer.experts):
            yield from _feed_forward(f"experts.{i}.", layer.gated)
    elif isinstance(layer, sequence.LmHead):
        yield from () if layer.tie else (("head", ""),)
    elif isinstance(layer, layers.Linear):
        yield "linear", ""
    elif isinstance(layer, layers.Conv):
        yield "conv", ""


def _feed_forward(stem: str, gated: bool) -> Iterator[tuple[str, str]]:
    for name in ("gate", "up", "down") if gated else ("up", "down"):
        yield name, stem + name


def in_module(model: nn.Module) -> Iterator[tuple[str, str]]:
    """(matrix, path) of a module of the user's own: each of torch's own linear layers and convolutions, as `linear` or
    `conv` and by the last part of its path. One whose weight another part has too, or that is computed, is left out."""
    owners: dict[int, int] = {}
    for inner in model.modules():
        for parameter in inner.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for path, inner in model.named_modules():
        kind = type(inner)
        if kind in (nn.Linear, *_CONVOLUTIONS) and owners[id(inner.weight)] == 1:
            yield "linear" if kind is nn.Linear else "conv", path
            if path:
                yield path.rpartition(".")[2], path
