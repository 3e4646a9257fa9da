"""The effective receptive field, measured: how much of the theoretical one matters (Luo et al. 2016).

The gradient of the middle output position with respect to the input, at initialisation: weights and input are drawn
anew for every sample, the output's channels are weighted at random, and the root mean square over samples and input
channels is taken, in evaluation mode (no dropout, norms with their initial statistics).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from dlkit.core import console, draw, receptive
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.graph import Graph
from dlkit.core.layers import Shape, show
from dlkit.core.receptive import Walk
from dlkit.core.result import Column, Result
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


def answer(words: Sequence[str], at: str | None, want: str | None, samples: int, seed: int) -> Result:
    """What `rf` answers, with the effective size of the layer that is asked for, and a picture of it."""
    walked = receptive.read(words)
    index = receptive.locate(walked, at, want)
    result = receptive.layers_up_to(walked, index)
    shape = walked.input or _input(walked, index)
    found = measure(Graph(walked.graph.nodes[: index + 1], index), shape, samples, seed)
    sizes = {"effective": found.widths, "luo": found.luo, "definition": DEFINITION}
    result.summary |= {**sizes, "samples": samples, "measured_on": list(shape)}
    result.summary["size"] = receptive.written(found.widths)
    result.facts = FACTS
    result.title = f"{result.summary['layer']}: gradient of the middle output, at initialisation"
    result.drawing = lambda width: _picture(found, width)
    rf = result.summary["rf"]
    if rf and any(size > side for size, side in zip(rf, shape[1:], strict=True)):
        result.notes.append(
            f"the theoretical field is larger than the input {show(shape)}: borders cut what is measured"
        )
    return result


def _input(walked: Walk, index: int) -> Shape:
    """An input large enough for the field of the layer at `index`, its sides multiples of 32."""
    reach, shape = walked.fields[index], walked.steps[0].inputs[0]
    sizes = [axis.size + int(axis.stride) for axis in reach] if isinstance(reach, tuple) else [224] * (len(shape) - 1)
    return (shape[0], *(min(LARGEST, -(-size // 32) * 32) for size in sizes))


def measure(graph: Graph, shape: Shape, samples: int, seed: int) -> Measured:
    """The effective field of the graph's output, a map, for inputs of `shape`."""
    device = pick("auto")
    seed_all(seed)
    energy = torch.zeros(shape[1:], dtype=torch.float64)
    with console.progress(samples, "measuring", "sample") as bar:
        for _ in range(samples):
            energy += _energy(graph, shape, device)
            bar.advance()
    if not bool(energy.isfinite().all()) or not bool(energy.any()):
        raise DlkitError("the gradient at the input is zero or not finite in every sample", code=ExitCode.INTERNAL)
    gradient = energy.sqrt()
    luo = float((gradient > (1 - MASS) * gradient.max()).sum()) ** (1 / gradient.dim())
    return Measured(gradient, [_width(gradient, axis) for axis in range(gradient.dim())], luo)


def _energy(graph: Graph, shape: Shape, device: torch.device) -> torch.Tensor:
    """The squared gradient of one draw, summed over the input's channels."""
    model = build(graph, shape).to(device).eval().requires_grad_(False)
    x = torch.randn(1, *shape, device=device, requires_grad=True)
    y = model(x)
    middle = y[(0, slice(None), *(size // 2 for size in y.shape[2:]))]
    (gradient,) = torch.autograd.grad(middle @ torch.randn_like(middle), x)
    return gradient[0].double().square().sum(0).cpu()


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
    return f"{draw.heat(shown.reshape(-1, shown.shape[-1]).tolist(), min(width, 64))}\ninput positions [{where}]"


def _around(profile: torch.Tensor, reach: int) -> tuple[int, int]:
    """From `reach` before the middle of the mass to `reach` after it, inside the input."""
    middle = round(float((profile * torch.arange(len(profile))).sum() / profile.sum()))
    return max(0, middle - reach), min(len(profile), middle + reach + 1)
