"""Initial weights other than torch's own: of networks that read tokens."""

import math

import torch
from torch import nn

from dlkit.nn.sequence import Attention, Mlp, Positions, sinusoids

STD = 0.02


@torch.no_grad()
def initialise(model: nn.Module) -> None:
    """Of a language model: token tables N(0, .02), since a tied head reads them too, and ends of branches scaled, as
    GPT-2's (Radford et al. 2019). Linear layers N(0, 1/inputs), biases 0: .02, which is right at its width of 768,
    leaves the attention of a small network flat, and what it tells too faint to be learned from."""
    ends = [m.out for m in model.modules() if isinstance(m, Attention)]
    ends += [m.down for m in model.modules() if isinstance(m, Mlp)]
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.weight.normal_(0, STD)
        if isinstance(module, nn.Linear):
            module.weight.normal_(0, 1 / math.sqrt(module.in_features))
            if module.bias is not None:
                module.bias.zero_()
    for end in ends:
        end.weight.div_(math.sqrt(len(ends)))


@torch.no_grad()
def place(model: nn.Module) -> None:
    """Learned positions begin as sines and cosines, as strong as the tokens are: of those one linear layer makes "the
    position before this one" for all positions at once, of random vectors it has to learn that for each."""
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    for module in model.modules():
        if isinstance(module, Positions) and tables:
            waves = sinusoids(*module.weight.shape, module.weight.device)
            module.weight.copy_(waves * (math.sqrt(2) * tables[0].std()))
