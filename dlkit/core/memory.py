"""What `memory` answers: bytes on each GPU as a Result, and the largest micro-batch that fits."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from dlkit.core import hardware, model, units
from dlkit.core.errors import DlkitError
from dlkit.core.footprint import Part, Plan, parts
from dlkit.core.matrices import Lora
from dlkit.core.model import Walked
from dlkit.core.result import Column, Result
from dlkit.core.saved import activations

COLUMNS = [Column("component"), Column("bytes", "bytes", "per GPU"), Column("share", "share")]
FACTS = [
    Column("per_gpu_bytes", "bytes", "per GPU"),
    Column("per_gpu_gb", "text", "which is"),
    Column("total_bytes", "bytes", "all GPUs"),
    Column("params", "int"),
    Column("bytes_per_param", "text", "convention"),
    Column("batch", "int", "micro-batch"),
    Column("global_batch", "int"),
    Column("context", "int"),
    Column("largest_batch", "int", "largest micro-batch that fits"),
]
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


def answer(words: Sequence[str], plan: Plan, context: int | None, room: Room) -> Result:
    """The memory of the model in `words`, a number of parameters or a network."""
    _agree(plan)
    given = model.read(words, context, "memory")
    capacity = room.bytes
    largest = largest_batch(given, plan, capacity) if capacity is not None else None
    if largest:
        plan = plan._replace(batch=largest)
    found = parts(given, plan)
    per_gpu = sum(part.bytes or 0 for part in found)
    summary = _summary(given, plan, found, per_gpu)
    summary |= {"fit": room.device, "capacity_bytes": capacity, "reserve": room.reserve, "largest_batch": largest}
    saved = levers(given, plan) if capacity is not None else {}
    summary |= {"best_lever": next(iter(saved), None), "levers": saved}
    rows = [
        {
            "component": p.component,
            "bytes": p.bytes,
            "share": p.bytes / per_gpu if per_gpu and p.bytes is not None else None,
        }
        for p in found
    ]
    return Result(
        COLUMNS, rows, summary, "per_gpu_bytes", FACTS, ok=largest != 0, notes=_notes(given, plan, found, summary)
    )


def _agree(plan: Plan) -> None:
    """Refuse settings that say nothing together."""
    training = {"--zero": plan.zero, "--lora": plan.lora, "--checkpoint": plan.checkpoint != "none"}
    said = [name for name, value in (training | {"--accumulate": plan.accumulate > 1}).items() if value]
    if plan.inference and said:
        raise DlkitError(f"--inference trains nothing: {' and '.join(said)} has no meaning with it")
    if plan.sequence_parallel and plan.tensor == 1:
        raise DlkitError("--sp splits what tensor-parallel ranks hold twice: give --tp")


def _summary(given: int | Walked, plan: Plan, found: list[Part], per_gpu: int) -> dict[str, Any]:
    params = given if isinstance(given, int) else sum(step.params for step in given.steps)
    ranks = plan.gpus if not plan.inference else plan.tensor * plan.pipeline
    return {
        "per_gpu_bytes": per_gpu,
        "total_bytes": per_gpu * ranks,
        "per_gpu_gb": f"{per_gpu / 1e9:,.4g} GB (10⁹)",
        "params": params,
        "unknown": [part.component for part in found if part.bytes is None],
        "batch": plan.batch,
        "global_batch": None if plan.inference else plan.batch * plan.accumulate * plan.data_parallel,
        "context": None if isinstance(given, int) else given.positions,
        "data_parallel": plan.data_parallel,
        "bytes_per_param": None if plan.inference else plan.convention,
        **{key: getattr(plan, key) for key in ("precision", "optimizer", "checkpoint", "attention", "zero", "gpus")},
        **{key: getattr(plan, key) for key in ("tensor", "pipeline", "sequence_parallel", "accumulate", "quantize")},
        "lora": f"r={plan.lora.rank},targets={','.join(plan.lora.targets)}" if plan.lora else None,
        "inference": plan.inference,
    }


def _why(given: int | Walked) -> str:
    if isinstance(given, int):
        return "they need the layers of a network"
    unknown = activations(given.steps, flash=True).unknown
    names = {step.op: None for step in given.steps if step.name in unknown}
    return f"{', '.join(names)} keep what their library chooses" if names else "they depend on shapes"


def _notes(given: int | Walked, plan: Plan, found: list[Part], summary: dict[str, Any]) -> list[str]:
    missing = [part.component for part in found if part.bytes is None]
    notes = []
    if missing:
        notes.append(f"not in the sum: {', '.join(missing)}, unknown here because {_why(given)}")
    if plan.lora and "activations" not in missing:
        notes.append("activations are those of full training: an upper bound, frozen layers keep less")
    if plan.zero and plan.data_parallel == 1:
        notes.append(f"--zero {plan.zero} partitions over data-parallel ranks, and there is one: say how many --gpus")
    if plan.pipeline > plan.accumulate and not plan.inference:
        notes.append(
            f"{plan.accumulate} micro-batches do not fill {plan.pipeline} pipeline stages: "
            f"from --accumulate {plan.pipeline} on the first stage holds that many"
        )
    if summary["largest_batch"] == 0:
        short = units.binary(summary["per_gpu_bytes"] - summary["capacity_bytes"])
        notes.append(f"not even one sample fits: {short} too much for {summary['fit']} less its reserve")
    for lever, saved in summary["levers"].items():
        notes.append(f"{lever} saves {units.binary(saved)} a GPU")
    return notes


def largest_batch(given: int | Walked, plan: Plan, capacity: int) -> int:
    """The largest micro-batch that fits into `capacity` bytes: 0 where not even one sample does."""
    if isinstance(given, int):
        raise DlkitError("--fit needs the layers: a bare number of parameters has no activations")

    def fits(batch: int) -> bool:
        found = parts(given, plan._replace(batch=batch))
        unknown = [part.component for part in found if part.bytes is None]
        if unknown:
            raise DlkitError(f"--fit cannot tell: {', '.join(unknown)} of this network are not known")
        return sum(part.bytes or 0 for part in found) <= capacity

    if not fits(1):
        return 0
    low, high = 1, 2
    while high < LARGEST_BATCH and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def levers(given: int | Walked, plan: Plan) -> dict[str, int]:
    """What other settings would save on each GPU, most first."""
    now = sum(part.bytes or 0 for part in parts(given, plan))
    saved = {name: now - _total(given, other) for name, other in _alternatives(plan).items()}
    return dict(sorted(((name, by) for name, by in saved.items() if by > 0), key=lambda item: -item[1]))


def _alternatives(plan: Plan) -> dict[str, Plan]:
    """The settings worth trying, one at a time."""
    tried: dict[str, dict[str, Any]] = {}
    if plan.inference:
        tried |= {f"--quantize {kind}": {"quantize": kind} for kind in ("int8", "nf4-double")}
    else:
        tried |= {f"--checkpoint {level}": {"checkpoint": level} for level in ("selective", "full")}
        tried |= {f"--zero {stage}": {"zero": stage} for stage in range(plan.zero + 1, 4)}
        tried |= {"--attention flash": {"attention": "flash"}, "--optimizer adam8bit": {"optimizer": "adam8bit"}}
        tried["--lora r=16,targets=q,v"] = {"lora": plan.lora or Lora(16, ("q", "v"))}
    if plan.precision == "fp32":
        tried["--precision bf16"] = {"precision": "bf16"}
    if plan.gpus == 1 and not plan.inference:
        tried["--gpus 8 --zero 3"] = {"gpus": 8, "zero": 3}
    if plan.batch > 1:
        tried[f"--batch {plan.batch // 2}"] = {"batch": plan.batch // 2}
    return {name: plan._replace(**changes) for name, changes in tried.items()}


def _total(given: int | Walked, plan: Plan) -> int:
    """Bytes on a GPU; as large as can be where the plan does not apply to this network."""
    try:
        return sum(part.bytes or 0 for part in parts(given, plan))
    except DlkitError:
        return 1 << 200
