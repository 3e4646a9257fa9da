"""Initial weights other than torch's own."""

import math

import torch
from torch import nn

from dlkit.nn.sequence import Attention, Mlp

STD = 0.02


@torch.no_grad()
def initialise(model: nn.Module) -> None:
    """GPT-2's initial weights (Radford et al. 2019): N(0, .02), biases 0, ends of branches scaled."""
    ends = [m.out for m in model.modules() if isinstance(m, Attention)]
    ends += [m.down for m in model.modules() if isinstance(m, Mlp)]
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.normal_(0, STD)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()  # type: ignore[union-attr,operator]
    for end in ends:
        end.weight.normal_(0, STD / math.sqrt(len(ends)))
