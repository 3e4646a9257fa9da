"""The weight matrices inside a layer, by the names their fields use; and low-rank adapters on them (LoRA).

LoRA: y = xW₀ + (α/r)·xAB, A: in×r, B: r×out (Hu et al. 2021, arXiv 2106.09685); r·(in + out) parameters a matrix.
"""

from collections.abc import Iterable, Sequence
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
    """A rank; the names of the matrices that get adapters, none: as `resolved` chooses; α, unless it is the rank."""

    rank: int
    targets: tuple[str, ...] = ()
    alpha: float | None = None

    @property
    def scale(self) -> float:
        """α/r, which multiplies what the adapters add."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def __str__(self) -> str:
        alpha = "" if self.alpha is None else f",alpha={self.alpha:g}"
        return f"r={self.rank}{alpha}{',targets=' if self.targets else ''}{','.join(self.targets)}"


def parse_lora(text: str) -> Lora:
    """r=8,alpha=16,targets=q,v: ValueError says what is wrong. Whether a network has the targets, `resolved` says."""
    said: dict[str, list[str]] = {"r": [], "alpha": [], "targets": []}
    for word in text.split(","):
        name, equals, value = word.rpartition("=")
        said.setdefault(name if equals else "targets", []).append(value)
    (ranks, alphas, targets), strange = list(said.values())[:3], len(said) > 3
    good = len(ranks) == 1 and ranks[0].isdecimal() and 1 <= int(ranks[0]) <= 10**6 and len(alphas) <= 1
    if not good or strange or not all(target.isidentifier() for target in targets):
        raise ValueError(
            f"must be a rank, an alpha and matrices among {', '.join(TARGETS)}, such as r=8,alpha=16,targets=q,v. "
            f"Got {text!r} instead."
        )
    return Lora(int(ranks[0]), tuple(dict.fromkeys(targets)), _alpha(alphas[0]) if alphas else None)


def _alpha(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"must have an alpha above 0, such as r=8,alpha=16. Got alpha={text} instead.")
    return value


def resolved(lora: Lora, names: Iterable[str]) -> Lora:
    """`lora` with its targets, where a network has matrices of these names: unless said, queries and values as in the
    paper, or linear layers where there is no attention. DlkitError for a target that is not there."""
    known = list(dict.fromkeys(name for name in names if name not in _NEVER))
    targets = lora.targets or (("q", "v") if {"q", "v"} <= {*known} else ("linear",))
    for target in targets:
        if target not in known:
            listed = ", ".join(known)
            raise DlkitError(f"no layer has a matrix {target!r} for --lora: this network has {listed or 'none'}")
    return lora._replace(targets=targets)


_NEVER = ("embed", "router")
"""Matrices that get no adapters."""


def resolved_for(lora: Lora, steps: Sequence[Step]) -> Lora:
    """`lora` with its targets in the network of `steps`."""
    return resolved(lora, [matrix.name for step in steps for matrix in matrices(step)])


def adapter_params(steps: Sequence[Step], lora: Lora) -> int:
    """Parameters of the adapters; DlkitError names a target that no layer has."""
    found = [matrix for step in steps for matrix in matrices(step)]
    targets = resolved_for(lora, steps).targets
    chosen = [matrix for matrix in found if matrix.name in targets]
    return sum(lora.rank * (matrix.inputs + matrix.outputs) * matrix.times for matrix in chosen)
