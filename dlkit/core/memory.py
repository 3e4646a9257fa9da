"""What `memory` answers: bytes on each GPU as a Result, and the largest micro-batch that fits."""

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

from dlkit.core import hardware, model, units
from dlkit.core.effect import refuse
from dlkit.core.errors import DlkitError
from dlkit.core.footprint import Part, Plan, by_stage, parts, total, trained
from dlkit.core.matrices import Lora, resolved_for
from dlkit.core.model import Measured, Walked
from dlkit.core.result import Column, Result
from dlkit.core.saved import activations
from dlkit.core.sequence import Attention

COLUMNS = [Column("component"), Column("bytes", "bytes", "per GPU"), Column("share", "share")]
FACTS = [
    Column("per_gpu_bytes", "bytes", "per GPU"),
    Column("per_gpu_gb", "text", "which is"),
    Column("total_bytes", "bytes", "all GPUs"),
    Column("params", "int"),
    Column("frozen_params", "int"),
    Column("param_bytes", "text", "bytes a parameter"),
    Column("stage", "text", "pipeline stage"),
    Column("batch", "int", "micro-batch"),
    Column("global_batch", "int"),
    Column("context", "int"),
    Column("largest_batch", "int", "largest micro-batch that fits"),
]
BATCH = Column("batch", "int", "micro-batch", terminal=False)
LARGEST_BATCH = 10**9


class Room(NamedTuple):
    """Where it has to fit: a device's name or a size, and the share of it that is kept free."""

    device: str | None = None
    reserve: float = 0.1

    @property
    def bytes(self) -> int | None:
        if self.device is None:
            return None
        try:
            whole = units.size(self.device)
        except ValueError:
            if self.device[:1].isdigit():
                raise DlkitError(
                    f"--fit needs a device, or a size with its unit such as 80GiB: {self.device}"
                ) from None
            whole = hardware.accelerator(self.device).memory
        return int(whole * (1 - self.reserve))


_NOTHING: frozenset[str] = frozenset()
Given = int | Walked | Measured


def answer(
    words: Sequence[str],
    plan: Plan,
    context: int | None,
    room: Room,
    said: Container[str] = _NOTHING,
    explain: bool = False,
) -> Result:
    """The memory of the model in `words`, a number of parameters or a network. `said`: the options given."""
    _agree(plan)
    return result(model.read(words, context, "memory"), plan, room, said, explain)


def result(given: Given, plan: Plan, room: Room, said: Container[str] = _NOTHING, explain: bool = False) -> Result:
    """The answer for a model that is read."""
    _needed(given, plan, room, said)
    capacity = room.bytes
    largest = largest_batch(given, plan, capacity) if capacity is not None else None
    if largest:
        plan = plan._replace(batch=largest)
    stages = by_stage(given, plan)
    found = max(stages, key=total)
    summary = _summary(given, plan, found, stages)
    summary |= {"fit": room.device, "capacity_bytes": capacity, "reserve": room.reserve, "largest_batch": largest}
    saved = levers(given, plan) if capacity is not None else {}
    summary |= {"best_lever": next(iter(saved), None), "levers": saved}
    rows = [_row(part, total(found), plan, explain) for part in found]
    columns = [*COLUMNS, *([BATCH] if room.device else []), *([Column("formula")] if explain else [])]
    return Result(
        columns,
        rows,
        summary,
        "largest_batch" if room.device else "per_gpu_bytes",
        [fact for fact in FACTS if fact.name != "frozen_params" or summary["frozen_params"]],
        ok=largest != 0,
        notes=_notes(given, plan, found, summary),
        total={"component": "total", "bytes": total(found), "share": 1.0 if total(found) else None},
    )


def _row(part: Part, per_gpu: int, plan: Plan, explain: bool) -> dict[str, Any]:
    share = part.bytes / per_gpu if per_gpu and part.bytes is not None else None
    row = {"component": part.component, "bytes": part.bytes, "share": share, "batch": plan.batch}
    return row | ({"formula": part.formula or None} if explain else {})


def _agree(plan: Plan) -> None:
    """Refuse settings that say nothing together."""
    training = {"--zero": plan.zero, "--lora": plan.lora, "--checkpoint": plan.checkpoint != "none"}
    said = [name for name, value in (training | {"--accumulate": plan.accumulate > 1}).items() if value]
    if plan.inference and said:
        raise DlkitError(f"--inference trains nothing: {' and '.join(said)} has no meaning with it")
    if plan.sequence_parallel and plan.tensor == 1:
        raise DlkitError("--sp splits what tensor-parallel ranks hold twice: give --tp")


_OF_TRAINING = ("--optimizer", "--bytes-per-param", "--attention", "--zero", "--checkpoint", "--accumulate", "--sp")
_OF_LAYERS = ("--checkpoint", "--attention", "--sp")


def _needed(given: Given, plan: Plan, room: Room, said: Container[str]) -> None:
    """Refuse what this model, or these settings, leave without effect."""
    if plan.inference:
        refuse(said, _OF_TRAINING, "with --inference, which trains nothing")
    if plan.precision in ("fp32", "pure-bf16"):
        refuse(said, ["--bytes-per-param"], f"with --precision {plan.precision}, whose gradients are as its weights")
    if room.device is None:
        refuse(said, ["--reserve"], "without --fit")
    else:
        refuse(said, ["--batch"], "with --fit, which finds the largest")
    if isinstance(given, int):
        refuse(said, _OF_LAYERS, "on a bare number of parameters, whose activations are unknown")
    if isinstance(given, Walked) and not any(isinstance(step.layer, Attention) for step in given.steps):
        refuse(said, ["--attention"], "on a network without attention")
        if plan.checkpoint == "selective":
            raise DlkitError("--checkpoint selective drops attention scores, and this network has no attention")


def _summary(given: Given, plan: Plan, found: list[Part], stages: list[list[Part]]) -> dict[str, Any]:
    held = [total(stage) for stage in stages]
    copies = plan.gpus // len(stages)
    return {
        "per_gpu_bytes": total(found),
        "total_bytes": sum(held) * copies,
        "per_gpu_gb": f"{total(found) / 1e9:,.4g} GB (10⁹)",
        "params": _params(given),
        "frozen_params": given.params - given.trained if isinstance(given, Measured) else 0,
        "unknown": [part.component for part in found if part.bytes is None],
        "batch": plan.batch,
        "global_batch": None if plan.inference else plan.batch * plan.accumulate * plan.data_parallel,
        "context": None if isinstance(given, int) else given.positions,
        "data_parallel": plan.data_parallel,
        "bytes_per_param": None if plan.inference else plan.convention,
        "param_bytes": None if plan.inference else _param_bytes(plan),
        "stage": f"{stages.index(found) + 1} of {len(stages)}, which holds the most" if len(stages) > 1 else None,
        "stage_bytes": held,
        **{key: getattr(plan, key) for key in ("precision", "optimizer", "checkpoint", "attention", "zero", "gpus")},
        **{key: getattr(plan, key) for key in ("tensor", "pipeline", "sequence_parallel", "accumulate", "quantize")},
        "lora": str(resolved_for(plan.lora, given.steps)) if plan.lora and isinstance(given, Walked) else None,
        "inference": plan.inference,
    }


def _params(given: Given) -> int:
    if isinstance(given, Measured):
        return given.params
    return given if isinstance(given, int) else sum(step.params for step in given.steps)


def _param_bytes(plan: Plan) -> str:
    """Bytes of a trained parameter by the convention chosen: weight, gradient, states and master weight."""
    rest = trained("", 2**22, None, plan._replace(gpus=plan.tensor * plan.pipeline))
    each = [None if part.bytes is None else part.bytes / 2**22 for part in rest]
    terms = " + ".join("?" if value is None else f"{value:.4g}" for value in each)
    whole = "" if None in each else f"{sum(value or 0 for value in each):.4g} = "
    return f"{whole}{terms} ({plan.convention}, {plan.precision}, {plan.optimizer})"


def _why(given: Given, plan: Plan) -> str:
    if isinstance(given, int):
        return "they need the layers of a network"
    if isinstance(given, Measured):
        return "only a pass in training mode is measured" + ("" if plan.inference else ", and this module's fails")
    unknown = activations(given.steps, flash=True).unknown
    names = {step.op: None for step in given.steps if step.name in unknown}
    return f"{', '.join(names)} keep what their library chooses" if names else "they depend on shapes"


def _notes(given: Given, plan: Plan, found: list[Part], summary: dict[str, Any]) -> list[str]:
    missing = [part.component for part in found if part.bytes is None]
    notes = []
    if missing:
        notes.append(f"not in the sum: {', '.join(missing)}, unknown here because {_why(given, plan)}")
    if plan.lora and "activations" not in missing:
        notes.append("activations are those of full training: an upper bound, frozen layers keep less")
    if plan.checkpoint == "selective" and plan.attention == "flash":
        notes.append("--checkpoint selective drops attention scores, and --attention flash stores none")
    if plan.zero and plan.data_parallel == 1:
        notes.append(f"--zero {plan.zero} partitions over data-parallel ranks, and there is one: say how many --gpus")
    if plan.pipeline > plan.accumulate and not plan.inference:
        notes.append(
            f"--accumulate {plan.accumulate} does not fill {plan.pipeline} pipeline stages: "
            f"from --accumulate {plan.pipeline} on the first stage holds that many"
        )
    if summary["largest_batch"] == 0:
        short = units.binary(summary["per_gpu_bytes"] - summary["capacity_bytes"])
        notes.append(f"not even one sample fits: {short} too much for {summary['fit']} less its reserve")
    for lever, saved in summary["levers"].items():
        notes.append(f"{lever} saves {units.binary(saved)} a GPU")
    return notes


def largest_batch(given: Given, plan: Plan, capacity: int) -> int:
    """The largest micro-batch that fits into `capacity` bytes: 0 where not even one sample does."""
    if isinstance(given, int):
        raise DlkitError("--fit needs the layers: a bare number of parameters has no activations")

    def fits(batch: int) -> bool:
        found = parts(given, plan._replace(batch=batch))
        unknown = [part.component for part in found if part.bytes is None]
        if unknown:
            raise DlkitError(f"--fit cannot tell: {', '.join(unknown)} of this network are not known")
        return total(found) <= capacity

    if not fits(1):
        return 0
    low, high = 1, 2
    while high < LARGEST_BATCH and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def levers(given: Given, plan: Plan) -> dict[str, int]:
    """What other settings would save on each GPU, most first."""
    now = total(parts(given, plan))
    tried = {} if isinstance(given, Measured) else _alternatives(plan)
    saved = {name: now - _total(given, other) for name, other in (tried | _anyhow(plan)).items()}
    return dict(sorted(((name, by) for name, by in saved.items() if by > 0), key=lambda item: -item[1]))


def _alternatives(plan: Plan) -> dict[str, Plan]:
    """The settings worth trying for a network, one at a time."""
    tried: dict[str, dict[str, Any]] = {}
    if plan.inference:
        tried |= {f"--quantize {kind}": {"quantize": kind} for kind in ("int8", "nf4-double")}
    else:
        tried |= {f"--checkpoint {level}": {"checkpoint": level} for level in ("selective", "full")}
        tried["--attention flash"] = {"attention": "flash"}
        tried["--lora r=16,targets=q,v"] = {"lora": plan.lora or Lora(16, ("q", "v"))}
    if plan.precision == "fp32":
        tried["--precision bf16"] = {"precision": "bf16"}
    return {name: plan._replace(**changes) for name, changes in tried.items()}


def _anyhow(plan: Plan) -> dict[str, Plan]:
    """The settings worth trying for any model."""
    tried: dict[str, dict[str, Any]] = {}
    if not plan.inference:
        tried |= {f"--zero {stage}": {"zero": stage} for stage in range(plan.zero + 1, 4)}
        tried["--optimizer adam8bit"] = {"optimizer": "adam8bit"}
    if plan.gpus == 1 and not plan.inference:
        tried["--gpus 8 --zero 3"] = {"gpus": 8, "zero": 3}
    if plan.batch > 1:
        tried[f"--batch {plan.batch // 2}"] = {"batch": plan.batch // 2}
    return {name: plan._replace(**changes) for name, changes in tried.items()}


def _total(given: Given, plan: Plan) -> int:
    """Bytes on a GPU; as large as can be where the plan does not apply to this network."""
    try:
        return total(parts(given, plan))
    except DlkitError:
        return 1 << 200
