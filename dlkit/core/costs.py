"""What `flops` answers: compute, time, cost and compute-optimal sizes as Results."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from dlkit.core import compute, network, units
from dlkit.core.compute import Count, Counting
from dlkit.core.errors import DlkitError
from dlkit.core.graph import walk
from dlkit.core.hardware import Job
from dlkit.core.result import Column, Result

PARTS = [
    Column("component"),
    Column("params", "int"),
    Column("forward_flops", "flops"),
    Column("backward_flops", "flops"),
    Column("recompute_flops", "flops"),
    Column("train_flops", "flops"),
    Column("share", "share"),
]
FACTS = [
    Column("approach"),
    Column("per"),
    Column("params", "int"),
    Column("active_params", "int"),
    Column("tokens", "si"),
    Column("train_flops", "flops"),
    Column("gpu_hours", "si", "GPU-hours"),
    Column("days", "float"),
    Column("cost", "money"),
    Column("mfu", "share", "MFU"),
    Column("hfu", "share", "HFU"),
    Column("energy_kwh", "si", "kWh"),
    Column("co2_kg", "si", "kg CO2"),
]


class Amount(NamedTuple):
    """How much is trained on: tokens (a number, or "optimal" by `approach`), or samples times epochs."""

    tokens: int | str | None = None
    samples: int | None = None
    epochs: int = 1
    context: int | None = None
    approach: str = "2"


def answer(words: Sequence[str], amount: Amount, how: Counting, convention: str, job: Job) -> Result:
    """Training compute of the model in `words`, a number of parameters or a network."""
    count = counted(words, amount, how, convention)
    unit = count.total()
    times, tokens = _times(count, amount, unit.params)
    scale = times or 1
    trained = scale * (unit.forward + unit.backward + unit.recompute)
    summary: dict[str, Any] = {
        "params": unit.params,
        "active_params": unit.active_params,
        "tokens": tokens,
        "samples": times if count.unit == "sample" else None,
        "train_flops": trained,
        "forward_flops": scale * unit.forward,
        "backward_flops": scale * unit.backward,
        "recompute_flops": scale * unit.recompute,
        "per": "run" if times else count.unit,
        "convention": convention,
        "recompute": how.recompute,
    }
    summary |= job.estimate(
        scale * (unit.forward + unit.backward), scale * unit.recompute, tokens or _positions(count), bool(times)
    )
    rows = [_row(part, scale, trained) for part in count.parts]
    return Result(PARTS, rows, summary, "train_flops" if times else "forward_flops", FACTS)


def _positions(count: Count) -> int | None:
    """Tokens of one unit."""
    return 1 if count.unit == "token" else count.positions


def _row(part: compute.Part, scale: int, whole: int) -> dict[str, Any]:
    train = part.forward + part.backward + part.recompute
    return {
        "component": part.name,
        "params": part.params,
        "forward_flops": scale * part.forward,
        "backward_flops": scale * part.backward,
        "recompute_flops": scale * part.recompute,
        "train_flops": scale * train,
        "share": scale * train / whole if whole else None,
    }


def counted(words: Sequence[str], amount: Amount, how: Counting, convention: str) -> Count:
    """The cost of one token or sample of what `words` name."""
    params = bare_params(words)
    if params is not None:
        return compute.dense(params, how.recompute)
    net = network.read(words)
    if net.input is None:
        raise DlkitError("the input shape is missing before the network", "for example: dlkit flops 3x224x224 …")
    positions = None
    return compute.exact(walk(net.graph, net.input), positions, how)


def bare_params(words: Sequence[str]) -> int | None:
    """The number of parameters, where the one word is a number and not a network."""
    if len(words) != 1 or not _numeric(words[0]):
        return None
    try:
        return units.count(words[0])
    except ValueError as error:
        raise DlkitError(f"the number of parameters {error}") from None


def _numeric(word: str) -> bool:
    return (word[:1] in "+-.0123456789" and "x" not in word) or word.lower() in ("nan", "inf", "infinity")


def _times(count: Count, amount: Amount, params: int) -> tuple[int | None, int | None]:
    """How many units are trained, and how many tokens that is."""
    if count.unit == "token":
        if amount.samples is not None:
            raise DlkitError("--samples needs a network: a bare number of parameters is trained on --tokens")
        if amount.tokens == "optimal":
            from dlkit.core import optimal

            tokens = optimal.for_params(params, amount.approach).tokens
        else:
            tokens = amount.tokens  # type: ignore[assignment]
        times = tokens * amount.epochs if tokens is not None else None
        return times, times
    if amount.tokens is not None:
        raise DlkitError(
            "6·N·D and --tokens are for language models: a convolutional net reuses each weight at every position",
            "give --samples (and --epochs): dlkit flops resnet50 --samples 1.28M --epochs 90",
        )
    return (amount.samples * amount.epochs if amount.samples is not None else None), None


SIZES = [
    Column("approach"),
    Column("params", "si"),
    Column("tokens", "si"),
    Column("tokens_per_param", "float"),
    Column("loss", "float"),
    Column("coefficients"),
    Column("source"),
]


def sizes(budget: str, approach: str, job: Job) -> Result:
    """The compute-optimal parameters and tokens of a budget, by each approach; `approach` is the summary's."""
    from dlkit.core import optimal

    flops = job.budget(budget)
    found = optimal.for_budget(flops)
    chosen = next(size for size in found if size.law.name == approach)
    forward = 2 * chosen.params * chosen.tokens
    summary = {
        "params": chosen.params,
        "active_params": chosen.params,
        "tokens": chosen.tokens,
        "train_flops": flops,
        "forward_flops": forward,
        "backward_flops": 2 * forward,
        "approach": approach,
        "per": "run",
        "convention": "6ND",
    }
    summary |= job.estimate(flops, 0, chosen.tokens, whole=True)
    notes = [] if flops >= optimal.SMALLEST else [f"the laws were fitted from {optimal.SMALLEST:g} FLOPs on: far below"]
    rows = [
        {
            "approach": size.law.name,
            "params": size.params,
            "tokens": size.tokens,
            "tokens_per_param": size.tokens / size.params,
            "loss": size.loss,
            "coefficients": size.law.coefficients,
            "source": size.law.source,
        }
        for size in found
    ]
    return Result(SIZES, rows, summary, "params", FACTS, notes=notes)
