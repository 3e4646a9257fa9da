"""The weight matrices inside a layer, by the names their fields use; and low-rank adapters on them (LoRA).

LoRA: y = xW₀ + (α/r)·xAB, A: in×r, B: r×out (Hu et al. 2021, arXiv 2106.09685); r·(in + out) parameters a matrix.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from dlkit.core import layers, sequence
from dlkit.core.errors import DlkitError
from dlkit.core.graph import Step

TARGETS = ("q", "k", "v", "o", "gate", "up", "down", "linear", "head", "conv")


class Matrix(NamedTuple):
    """`times` matrices of inputs×outputs, called `name`."""

    name: str
    inputs: int
    outputs: int
    times: int = 1

    @property
    def params(self) -> int:
        return self.inputs * self.outputs * self.times


def matrices(step: Step) -> list[Matrix]:
    """The weight matrices of a layer; what else it has (biases, norms) are vectors. A tied head has none of its own."""
    layer, x = step.layer, step.inputs[0]
    if isinstance(layer, sequence.Attention):
        query, keys = layer.widths(x)
        width = x[1]
        sizes = {"q": (width, query), "k": (width, keys), "v": (width, keys), "o": (query, width)}
        return [Matrix(name, *size) for name, size in sizes.items()]
    if isinstance(layer, sequence.Mlp | sequence.GatedMlp):
        return _feed_forward(x[-1], layer.hidden, isinstance(layer, sequence.GatedMlp), 1)
    if isinstance(layer, sequence.Moe):
        router = Matrix("router", x[-1], layer.experts)
        return [router, *_feed_forward(x[-1], layer.hidden, layer.gated, layer.experts)]
    if isinstance(layer, sequence.Embed):
        return [Matrix("embed", layer.num_embeddings, layer.embedding_dim)]
    if isinstance(layer, sequence.LmHead):
        return [] if layer.tie else [Matrix("head", x[-1], layer.vocab)]
    if isinstance(layer, layers.Linear):
        return [Matrix("linear", x[-1], layer.out_features)]
    if isinstance(layer, layers.Conv):
        channels, groups = layer.channels(x)
        return [Matrix("conv", x[0] // groups * prod(layers.per_axis("", layer.kernel_size, len(x) - 1)), channels)]
    return []


def _feed_forward(width: int, hidden: int, gated: bool, times: int) -> list[Matrix]:
    up = [Matrix(name, width, hidden, times) for name in (("gate", "up") if gated else ("up",))]
    return [*up, Matrix("down", hidden, width, times)]


class Lora(NamedTuple):
    """A rank, and the names of the matrices that get adapters."""

    rank: int
    targets: tuple[str, ...]


def parse_lora(text: str) -> Lora:
    """r=8,targets=q,v: ValueError says what is wrong. Without targets, queries and values as in the paper."""
    words = [word for word in text.split(",") if word]
    rank = [word.removeprefix("r=") for word in words if word.startswith("r=")]
    targets = [word.removeprefix("targets=") for word in words if not word.startswith("r=")]
    bad = [word for word in targets if word not in TARGETS]
    if len(rank) != 1 or not rank[0].isdecimal() or not 1 <= int(rank[0]) <= 10**6 or bad:
        raise ValueError(
            f"must be a rank and matrices among {', '.join(TARGETS)}, such as r=8,targets=q,v. Got {text!r} instead."
        )
    return Lora(int(rank[0]), tuple(dict.fromkeys(targets)) or ("q", "v"))


def adapter_params(steps: Sequence[Step], lora: Lora) -> int:
    """Parameters of the adapters; DlkitError names a target that no layer has."""
    found = [matrix for step in steps for matrix in matrices(step)]
    for target in lora.targets:
        if not any(matrix.name == target for matrix in found):
            known = ", ".join(dict.fromkeys(matrix.name for matrix in found if matrix.name in TARGETS))
            raise DlkitError(f"no layer has a matrix {target!r} for --lora: this network has {known or 'none'}")
    chosen = [matrix for matrix in found if matrix.name in lora.targets]
    return sum(lora.rank * (matrix.inputs + matrix.outputs) * matrix.times for matrix in chosen)
