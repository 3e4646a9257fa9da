"""What `flops` answers: compute, time, cost and compute-optimal sizes as Results."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from dlkit.core import compute, model
from dlkit.core.compute import Count, Counting, Part
from dlkit.core.effect import refuse
from dlkit.core.errors import DlkitError
from dlkit.core.hardware import Job
from dlkit.core.model import Walked
from dlkit.core.result import Column, Result
from dlkit.core.sequence import Attention, WindowAttention

PARTS = [
    Column("component"),
    Column("params", "int"),
    Column("forward_flops", "flops", "forward"),
    Column("backward_flops", "flops", "backward"),
    Column("recompute_flops", "flops", "recompute"),
    Column("train_flops", "flops", "FLOPs"),
    Column("share", "share"),
]
SHARED = [
    Column("gpu_hours", "si", "GPU-hours", terminal=False),
    Column("days", "float", terminal=False),
    Column("cost", "money", terminal=False),
    Column("energy_kwh", "si", "kWh", terminal=False),
    Column("co2_kg", "si", "kg CO2", terminal=False),
]
"""What a run takes, told apart by each component's share of the FLOPs, so that a column adds up to the whole."""
FACTS = [
    Column("approach"),
    Column("convention"),
    Column("per"),
    Column("context", "int"),
    Column("params", "int"),
    Column("active_params", "int"),
    Column("frozen_params", "int"),
    Column("tokens", "si"),
    Column("forward_flops", "flops", "forward"),
    Column("train_flops", "flops", "training FLOPs"),
    Column("over_6nd", "float", "over 6·N·D"),
    Column("gpu_hours", "si", "GPU-hours"),
    Column("days", "float"),
    Column("cost", "money"),
    Column("mfu", "share", "MFU"),
    Column("hfu", "share", "HFU"),
    Column("energy_kwh", "si", "kWh"),
    Column("co2_kg", "si", "kg CO2"),
    Column("peak_flops", "flops", "dense peak"),
    Column("activation_bytes", "bytes", "activations kept"),
]


_SAME = {"active_params": "params", "hfu": "mfu"}


def _facts(summary: dict[str, Any]) -> list[Column]:
    """The facts worth a reader's eye: not the same number under two names, nor that nothing is frozen."""
    facts = [fact for fact in FACTS if summary.get(fact.name) or fact.name != "frozen_params"]
    return [fact for fact in facts if fact.name not in _SAME or summary[fact.name] != summary[_SAME[fact.name]]]


class Amount(NamedTuple):
    """How much is trained on: tokens (a number, or "optimal" by `approach`), or samples; times epochs."""

    tokens: int | str | None = None
    samples: int | None = None
    epochs: int = 1
    context: int | None = None
    approach: str = "2"


class Scale(NamedTuple):
    """How many units are trained, as a fraction: 2T tokens of samples of 4,096. Unknown: one unit."""

    units: int = 1
    of: int = 1

    def of_run(self, flops: int) -> int:
        return flops * self.units // self.of


class View(NamedTuple):
    """How the rows are shown: by component, or from `depth` 0 on by layer or block; with their formulas."""

    depth: int | None = None
    explain: bool = False


class Counted(NamedTuple):
    """A counted model. `formulas`: of each part, where asked for; `extra`: more keys of rows, by the part's name."""

    counts: Count
    params: int
    active: int
    frozen: int = 0
    note: str = ""
    formulas: dict[str, str] | None = None
    extra: dict[str, dict[str, Any]] = {}


_NOTHING: frozenset[str] = frozenset()


def answer(
    words: Sequence[str],
    amount: Amount,
    how: Counting,
    convention: str,
    job: Job,
    view: View = View(),  # noqa: B008
    said: Container[str] = _NOTHING,
) -> Result:
    """Training compute of the model in `words`, a number of parameters or a network. `said`: the options given."""
    given = model.read(words, amount.context, "flops")
    _agree(given, how, convention, view, said)
    return result(_counted(given, how, convention, view), amount, how, convention, job, said)


def result(
    counted: Counted, amount: Amount, how: Counting, convention: str, job: Job, said: Container[str] = _NOTHING
) -> Result:
    """The answer for a model that is counted."""
    count, whole, active = counted.counts, counted.counts.total(), counted.active
    tokens, samples = _amount(count, amount, active)
    known = tokens is not None or samples is not None
    if count.forward_only and (known or job != Job() or how.recompute != "none"):
        raise DlkitError(f"the convention {convention} counts the forward pass of one sample, not a training run")
    _amounts_agree(amount, known, said)
    scale = _scale(count, tokens, samples)
    forward, backward, again = (scale.of_run(flops) for flops in whole[3:])
    summary = {
        "params": counted.params,
        "active_params": active,
        "frozen_params": counted.frozen,
        "tokens": tokens,
        "samples": samples,
        "train_flops": None if count.forward_only else forward + backward + again,
        "forward_flops": forward,
        "backward_flops": None if count.forward_only else backward,
        "recompute_flops": None if count.forward_only else again,
        "per": "run" if known else count.unit,
        "over_6nd": _over_6nd(count, whole, active),
        "context": count.positions,
        "convention": convention,
        "recompute": how.recompute,
        "masked_scores": "skipped" if how.skip_masked else "counted",
        "freeze": list(how.freeze),
    }
    summary |= job.estimate(forward + backward, again, tokens or _positions(count), known)
    shown = [part for part in count.parts if any(part[1:]) or part.name in counted.extra]
    rows = [_row(part, scale, count.forward_only, sum(whole[3:]), counted, summary) for part in shown]
    notes = [counted.note] if counted.note else []
    if known and job.gpu and summary["gpu_hours"] is None:
        notes.append("how long it takes needs --mfu, --hfu, --tokens-per-second or --gpu-hours")
    return Result(
        _columns(counted, summary),
        rows,
        summary,
        "train_flops" if known else "forward_flops",
        _facts(summary),
        notes=notes,
        warnings=job.doubts(summary),
        total=_row(whole, scale, count.forward_only, sum(whole[3:]), counted, summary) if len(rows) > 1 else None,
    )


def _columns(counted: Counted, summary: dict[str, Any]) -> list[Column]:
    """A terminal leaves out what is 0 in every row, and beside a formula what it says."""
    shared = [column for column in SHARED if summary[column.name] is not None]
    own = [Column("activation_bytes", "bytes", "activations")] if counted.extra else []
    said = {"params", "forward_flops", "backward_flops", "recompute_flops"} if counted.formulas is not None else set()
    idle = said if summary["recompute_flops"] else {*said, "recompute_flops"}
    parts = [replace(column, terminal=column.name not in idle) for column in PARTS]
    return [*parts, *own, *shared, *([Column("formula")] if counted.formulas is not None else [])]


def _agree(given: int | Walked, how: Counting, convention: str, view: View, said: Container[str]) -> None:
    """Refuse what this model, or this way of counting, leaves without effect."""
    refuse(said, ["--dtype"], "on what is no module of your own, FILE.py:CLASS")
    if isinstance(given, int):
        refuse(said, ["--depth"], "on a bare number of parameters, which has no layers")
        return
    if view.depth is not None and convention != "dlkit":
        raise DlkitError(f"--depth shows dlkit's own count: the convention {convention} has no layers")
    layers = [step.layer for step in given.steps]
    if how.skip_masked and not any(isinstance(layer, Attention) and layer.causal for layer in layers):
        raise DlkitError("--causal-skip has no effect: this network has no causal attention")
    scores = any(isinstance(layer, Attention | WindowAttention) for layer in layers) and convention != "kaplan"
    if how.recompute == "selective" and not scores:
        what = "the convention kaplan counts" if convention == "kaplan" else "this network has"
        raise DlkitError(f"--recompute selective has no effect: {what} no attention scores")


def _amounts_agree(amount: Amount, known: bool, said: Container[str]) -> None:
    if not known:
        refuse(said, ["--epochs"], "without --tokens or --samples")
    if amount.tokens != "optimal":
        refuse(said, ["--approach"], "without --budget or --tokens optimal")


def _counted(given: int | Walked, how: Counting, convention: str, view: View) -> Counted:
    count, note = counted(given, how, convention)
    params, active = _params(given)
    if isinstance(given, int):
        from dlkit.core import explain_costs

        formulas = {part.name: explain_costs.dense(given, part) for part in count.parts} if view.explain else None
        return Counted(count, params, active, 0, note, formulas)
    frozen = sum(given.steps[i].params for i in compute.frozen_steps(given.steps, how.freeze))
    if view.depth is None:
        formulas = _formulas(given, how, convention) if view.explain else None
        return Counted(count, params, active, frozen, note, formulas)
    parts, formulas = _by_layer(given, how, view)
    return Counted(count._replace(parts=parts), params, active, frozen, note, formulas)


def _formulas(given: Walked, how: Counting, convention: str) -> dict[str, str]:
    if convention == "dlkit":
        from dlkit.core import explain_costs

        return explain_costs.components(given.steps, how)
    from dlkit.core.conventions import explained

    return explained(convention, given.steps, given.positions)


def _by_layer(given: Walked, how: Counting, view: View) -> tuple[list[Part], dict[str, str] | None]:
    """A part for each layer, or each block at a depth above 0."""
    from dlkit.core import blocks, explain_costs

    by_step = compute.by_step(given.steps, how)
    if view.depth:
        if view.explain:
            raise DlkitError("--explain writes out layers: --depth 0")
        found = blocks.blocks(given.graph, given.steps, view.depth)
        titles = [": ".join(blocks.title(block, given.steps)) for block in found]
        groups = [[part for i in block.layers for part in by_step[i]] for block in found]
    else:
        titles, groups = [f"{step.name}: {step.text}" for step in given.steps], by_step
    parts = [_together(title, group) for title, group in zip(titles, groups, strict=True)]
    if not view.explain:
        return parts, None
    steps = zip(parts, given.steps, strict=True)
    return parts, {part.name: explain_costs.layer(step, part, how) for part, step in steps}


def _together(name: str, parts: Iterable[Part]) -> Part:
    whole = Part(name, 0, 0, 0, 0)
    for part in parts:
        whole = whole.plus(part)
    return whole


def counted(given: int | Walked, how: Counting, convention: str) -> tuple[Count, str]:
    """The cost of one token or sample, and what is worth saying about the convention."""
    if isinstance(given, int):
        return _dense(given, how, convention), ""
    if convention == "dlkit":
        return compute.exact(given.steps, given.positions, how), ""
    return _by(convention, given, how)


def _dense(params: int, how: Counting, convention: str) -> Count:
    if convention not in ("dlkit", "kaplan", "chinchilla"):
        raise DlkitError(f"the convention {convention} needs the layers: give a named model or a network")
    if how.skip_masked or how.freeze:
        raise DlkitError("--causal-skip and --freeze need the layers: give a named model or a network")
    return compute.dense(params, how.recompute)


def _by(convention: str, given: Walked, how: Counting) -> tuple[Count, str]:
    """A count by somebody else's convention, and how it differs from dlkit's own."""
    from dlkit.core.conventions import CONVENTIONS

    if how.skip_masked or how.freeze:
        raise DlkitError(f"--causal-skip and --freeze are dlkit's own: the convention {convention} has neither")
    chosen = CONVENTIONS[convention]
    count = chosen.counts(given.steps, given.positions, how.recompute)
    own = compute.exact(given.steps, given.positions, how).total()
    sums = [sum(total[3:4] if count.forward_only else total[3:]) for total in (count.total(), own)]
    return count, f"{convention}: {chosen.difference}; {sums[0] / sums[1]:.4g} times what dlkit counts"


def _params(given: int | Walked) -> tuple[int, int]:
    """Parameters, and those that one position uses."""
    if isinstance(given, int):
        return given, given
    return sum(step.params for step in given.steps), sum(step.active_params for step in given.steps)


def _over_6nd(count: Count, whole: Part, params: int) -> float | None:
    """Training FLOPs over 6·N·D, N the active parameters; None where that has no meaning."""
    if count.forward_only or (count.unit == "sample" and count.positions is None):
        return None
    return (whole.forward + whole.backward + whole.recompute) / (6 * params * (count.positions or 1))


def _positions(count: Count) -> int | None:
    """Tokens of one unit."""
    return 1 if count.unit == "token" else count.positions


def _row(
    part: Part, scale: Scale, forward_only: bool, whole: int, counted: Counted, summary: dict[str, Any]
) -> dict[str, Any]:
    train = part.forward + part.backward + part.recompute
    row = {
        "component": part.name,
        "params": part.params,
        "forward_flops": scale.of_run(part.forward),
        "backward_flops": None if forward_only else scale.of_run(part.backward),
        "recompute_flops": None if forward_only else scale.of_run(part.recompute),
        "train_flops": None if forward_only else scale.of_run(train),
        "share": train / whole if whole else None,
    }
    taken = {column.name: summary[column.name] for column in SHARED if summary[column.name] is not None}
    row |= {name: value * train / whole for name, value in taken.items()} if whole else {}
    row |= counted.extra.get(part.name, {})
    return row | ({"formula": _formula(part, scale, counted)} if counted.formulas is not None else {})


def _formula(part: Part, scale: Scale, counted: Counted) -> str | None:
    """The formula of one unit, and how many units the run has."""
    formula = (counted.formulas or {}).get(part.name)
    if formula is None or scale == Scale():
        return formula
    return f"{formula}; × {scale.units}{f'/{scale.of}' if scale.of > 1 else ''} {counted.counts.unit}s"


def _amount(count: Count, amount: Amount, params: int) -> tuple[int | None, int | None]:
    """Tokens and samples of the whole run, each None where it is not known or has no meaning."""
    if amount.tokens is not None and amount.samples is not None:
        raise DlkitError("--tokens and --samples say the same thing twice: give one of them")
    if amount.samples is not None:
        if count.unit == "token":
            raise DlkitError("--samples needs a network: a bare number of parameters is trained on --tokens")
        samples = amount.samples * amount.epochs
        return (samples * count.positions if count.positions else None), samples
    if amount.tokens is None:
        return None, None
    if _positions(count) is None:
        raise DlkitError(
            "6·N·D and --tokens are for language models: a convolutional net reuses each weight at every position",
            "give --samples (and --epochs): dlkit flops resnet50 --samples 1.28M --epochs 90",
        )
    if isinstance(amount.tokens, str):
        from dlkit.core import optimal

        return optimal.for_params(params, amount.approach).tokens * amount.epochs, None
    return amount.tokens * amount.epochs, None


def _scale(count: Count, tokens: int | None, samples: int | None) -> Scale:
    if samples is not None:
        return Scale(samples)
    return Scale(tokens, _positions(count) or 1) if tokens is not None else Scale()


SIZES = [
    Column("approach"),
    Column("params", "si"),
    Column("tokens", "si"),
    Column("tokens_per_param", "float", "tokens a parameter"),
    Column("loss", "float", "fitted loss"),
    Column("source"),
]


_OF_A_MODEL = (
    *("--epochs", "--context", "--recompute", "--convention", "--causal-skip", "--freeze", "--depth", "--explain"),
    "--dtype",
)


def sizes(budget: str, approach: str, job: Job, said: Container[str] = _NOTHING) -> Result:
    """The compute-optimal parameters and tokens of a budget, by each approach; `approach` is the summary's."""
    refuse(said, _OF_A_MODEL, "with --budget, which asks for the best model")
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
    return Result(SIZES, rows, summary, "params", _facts(summary), notes=notes, warnings=job.doubts(summary))
