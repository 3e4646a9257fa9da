"""The effective receptive field, measured: how much of the theoretical one matters (Luo et al. 2016).

The gradient of the middle output position with respect to the input: the input is drawn anew for every sample, and the
weights too unless they are those of a run; the output's channels are weighted at random, and the root mean square over
samples and input channels is taken, in evaluation mode (no dropout, norms with their running statistics).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from dlkit.core import console, draw, receptive
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.graph import Graph
from dlkit.core.layers import LAST, Shape, show
from dlkit.core.receptive import Walk
from dlkit.core.result import Column, Result
from dlkit.core.run import open_run
from dlkit.core.sequence import Embed
from dlkit.nn.build import build
from dlkit.nn.device import pick, seed_all

MASS = 0.9545  # what lies within two standard deviations of a Gaussian's middle
LARGEST = 1024  # side of an input that is chosen here
DEFINITION = "width of the middle interval that holds 95.45 % of the gradient, axis by axis"
FACTS = [
    Column("effective", "shape", "effective"),
    Column("luo", "float", "Luo et al. 2016"),
    Column("rf", "shape", "theoretical"),
    Column("measured_on", "shape", "measured on"),
    Column("samples", "int"),
]


class Measured(NamedTuple):
    """The magnitude of the gradient over the input's positions, and the sizes read from it."""

    gradient: torch.Tensor
    widths: list[int]
    luo: float


class Drawn(NamedTuple):
    """A module, and how it is run up to the layer that is measured."""

    module: nn.Module
    forward: Callable[[torch.Tensor], torch.Tensor]


class Subject(NamedTuple):
    """What is measured: a network walked, and whose weights it has.

    sample  gives a random input of a shape: numbers, or tokens
    draw    takes the index of the layer and the input's shape; what it returns makes a network, each time anew
    """

    walked: Walk
    weights: str
    sample: Callable[[Shape, torch.device], torch.Tensor]
    draw: Callable[[int, Shape, torch.device], Callable[[], Drawn]]


def answer(subject: Subject, at: str | None, want: str | None, samples: int, seed: int) -> Result:
    """What `rf` answers, with the effective size of the layer that is asked for, and a picture of it."""
    walked = subject.walked
    index = receptive.locate(walked, at, want)
    result = receptive.layers_up_to(walked, index)
    step = walked.steps[index]
    if not step.layout or not step.positions or len(step.output) != len(step.positions) + 1:
        raise DlkitError(f"{step.name} has no map of positions, and so no middle one: choose another with --at")
    shape = walked.input or _input(walked, index)
    found = measure(subject, index, shape, samples, seed)
    sizes = {"effective": found.widths, "luo": found.luo, "definition": DEFINITION}
    result.summary |= {**sizes, "samples": samples, "measured_on": list(shape), "weights": subject.weights}
    result.summary["size"] = receptive.written(found.widths)
    result.facts, result.bare = FACTS, True
    result.title = f"{step.name}: gradient of the middle output, {subject.weights}"
    result.drawing = lambda width: _picture(found, width)
    extent = walked.extent or shape[1:]
    rf = result.summary["rf"]
    if rf and any(size > side for size, side in zip(rf, extent, strict=True)):
        result.notes.append(
            f"the theoretical field is larger than the input {show(shape)}: borders cut what is measured"
        )
    return result


# What may be measured ----------------------------------------------------------------------------------


def of_text(words: Sequence[str]) -> Subject:
    """A network in the network language, with weights drawn anew for every sample."""
    walked = receptive.read(words)
    graph = walked.graph

    def draw(index: int, shape: Shape, device: torch.device) -> Callable[[], Drawn]:
        def made() -> Drawn:
            module = build(Graph(graph.nodes[: index + 1], index), shape).to(device)
            return Drawn(module, module)

        return made

    return Subject(walked, "at initialisation", partial(_sample, graph), draw)


def of_run(path: str) -> Subject:
    """The network of a run of `train`, with its weights. Not there: exit code 66; damaged or another's: 65."""
    from dlkit.nn.predictor import open_network

    run = open_run(path)
    walked, network = receptive.of(receptive.network_of(run)), open_network(run)
    graph, weights = walked.graph, network.model.state_dict()

    def draw(index: int, shape: Shape, device: torch.device) -> Callable[[], Drawn]:
        kept = Graph(graph.nodes[: index + 1], index)
        names = {node.name for node in kept.nodes}
        module = build(kept, shape)
        module.load_state_dict({key: value for key, value in weights.items() if key.partition(".")[0] in names})
        module = module.to(device)
        return lambda: Drawn(module, module)

    return Subject(walked, f"with the weights of {path}", partial(_sample, graph), draw)


def _sample(graph: Graph, shape: Shape, device: torch.device) -> torch.Tensor:
    """Standard normal numbers; random tokens where the network begins with an embedding."""
    first = graph.nodes[0].layer
    if isinstance(first, Embed):
        return torch.randint(first.num_embeddings, (1, *shape), device=device)
    return torch.randn(1, *shape, device=device)


def measure(subject: Subject, index: int, shape: Shape, samples: int, seed: int) -> Measured:
    """The effective field of the layer at `index`, for inputs of `shape`."""
    seed_all(seed)
    device = pick("auto")
    draw = subject.draw(index, shape, device)
    step, extent = subject.walked.steps[index], subject.walked.extent or shape[1:]
    energy = torch.zeros(extent, dtype=torch.float64)
    with console.progress(samples, "measuring", "sample") as bar:
        for _ in range(samples):
            drawn = draw()
            drawn.module.eval().requires_grad_(False)
            energy += _energy(drawn, subject.sample(shape, device), subject.walked.layout, step.layout)
            bar.advance()
    if not bool(energy.isfinite().all()) or not bool(energy.any()):
        raise DlkitError("the gradient at the input is zero or not finite in every sample", code=ExitCode.INTERNAL)
    gradient = energy.sqrt()
    luo = float((gradient > (1 - MASS) * gradient.max()).sum()) ** (1 / gradient.dim())
    return Measured(gradient, [_width(gradient, axis) for axis in range(gradient.dim())], luo)


def _energy(drawn: Drawn, x: torch.Tensor, before: str, after: str) -> torch.Tensor:
    """The squared gradient of one draw, summed over the input's channels. Of tokens, that at what embeds them.

    `before` and `after` are the layouts of input and output.
    """
    if x.is_floating_point():
        leaf = x.requires_grad_()
        y = drawn.forward(x)
    else:
        with _embedded(drawn.module) as leaves:
            y = drawn.forward(x)
        leaf = leaves[0]
    maps = y if after == LAST else y.movedim(1, -1)
    middle = maps[(0, *(size // 2 for size in maps.shape[1:-1]))]
    (gradient,) = torch.autograd.grad(middle @ torch.randn_like(middle), leaf)
    return gradient[0].double().square().sum(-1 if before == LAST else 0).cpu()


@contextmanager
def _embedded(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """What the first embedding gives, as leaves with a gradient."""
    leaves: list[torch.Tensor] = []

    def hook(_: nn.Module, __: Any, out: torch.Tensor) -> torch.Tensor | None:
        if leaves:
            return None
        with torch._C.DisableTorchFunction():  # this is no call of the module's own, and must not count as one
            leaves.append(out.detach().requires_grad_())
        return leaves[0]

    handles = [part.register_forward_hook(hook) for part in module.modules() if isinstance(part, nn.Embedding)]
    try:
        yield leaves
    finally:
        for handle in handles:
            handle.remove()


def _input(walked: Walk, index: int) -> Shape:
    """An input large enough for the field of the layer at `index`, its sides multiples of 32."""
    reach, shape = walked.fields[index], walked.steps[0].inputs[0]
    sizes = [axis.size + int(axis.stride) for axis in reach] if isinstance(reach, tuple) else [224] * (len(shape) - 1)
    return (shape[0], *(min(LARGEST, -(-size // 32) * 32) for size in sizes))


def _width(gradient: torch.Tensor, axis: int) -> int:
    """Positions on one axis between the quantiles that leave out half of the rest on either side."""
    share = _profile(gradient, axis).cumsum(0)
    tail = (1 - MASS) / 2 * share[-1]
    first, last = (int((share < bound).sum()) for bound in (tail, share[-1] - tail))
    return last - first + 1


def _profile(gradient: torch.Tensor, axis: int) -> torch.Tensor:
    """The gradient along one axis, summed over the others."""
    return gradient.movedim(axis, 0).flatten(1).sum(1) if gradient.dim() > 1 else gradient


def _picture(found: Measured, width: int) -> str:
    """The gradient as shades around its middle, as far as the size of Luo et al. on either side; depth is summed."""
    gradient = found.gradient
    while gradient.dim() > 2:
        gradient = gradient.sum(0)
    reach = int(found.luo) + 1
    spans = [_around(_profile(gradient, axis), reach) for axis in range(gradient.dim())]
    shown = gradient[tuple(slice(*span) for span in spans)]
    where = ", ".join(f"{start}:{stop}" for start, stop in spans)
    drawn = draw.bars(shown.tolist(), width) if shown.dim() == 1 else draw.heat(shown.tolist(), min(width, 64))
    return f"{drawn}\ninput positions [{where}]"


def _around(profile: torch.Tensor, reach: int) -> tuple[int, int]:
    """From `reach` before the middle of the mass to `reach` after it, inside the input."""
    middle = round(float((profile * torch.arange(len(profile))).sum() / profile.sum()))
    return max(0, middle - reach), min(len(profile), middle + reach + 1)
