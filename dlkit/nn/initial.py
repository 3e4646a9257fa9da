"""Initial weights other than torch's own: of networks that read tokens."""

import math

import torch
from torch import nn

from dlkit.nn.sequence import Attention, Mlp, Positions, sinusoids

STD = 0.02


@torch.no_grad()
def initialise_tables(model: nn.Module, written: bool) -> None:
    """Of a network that reads tokens; `written`: it writes tokens, too.

    Token tables are N(0, .02) of a language model, as GPT-2's, since a tied head reads them, and of a bag of tokens: of
    torch's N(0, 1) a token that is seen a few times stays the noise that it began as, by which rows are learned by
    heart. What sees the order of tokens keeps torch's, of which it learns faster.

    Learned positions begin as sines and cosines, as strong: of those one linear layer makes "the position before this
    one" for all positions at once, of random vectors it has to learn that for each.
    """
    small = written or not any(isinstance(m, Attention | nn.RNNBase) for m in model.modules())
    std = STD if small else 1.0
    for module in model.modules():
        if isinstance(module, nn.Embedding) and small:
            module.weight.normal_(0, std)
        if isinstance(module, Positions):
            module.weight.copy_(std * math.sqrt(2) * sinusoids(*module.weight.shape, module.weight.device))


@torch.no_grad()
def initialise_layers(model: nn.Module) -> None:
    """Of a language model: linear layers N(0, 1/inputs), biases 0, and ends of branches scaled as GPT-2's (Radford et
    al. 2019). Its .02 is right at its width of 768; the attention of a small network it leaves flat, and what that
    tells too faint to be learned from."""
    ends = [m.out for m in model.modules() if isinstance(m, Attention)]
    ends += [m.down for m in model.modules() if isinstance(m, Mlp)]
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(0, 1 / math.sqrt(module.in_features))
            if module.bias is not None:
                module.bias.zero_()
    for end in ends:
        end.weight.div_(math.sqrt(len(ends)))
