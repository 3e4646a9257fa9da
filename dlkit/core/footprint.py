"""Bytes on each GPU: weights, gradients, optimiser states and activations, in training and in inference.

Sources: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054) for 2 + 2 + 12 bytes a parameter and its partitioning;
Megatron-LM's distributed optimiser for fp32 gradients (18 bytes, or 6 + 12/dp); Korthikanti et al. 2022 (2205.05198)
for activations under tensor and sequence parallelism; Dettmers et al. 2021 (2110.02861) for 8-bit states in blocks of
2,048; Dettmers et al. 2023 (QLoRA, 2305.14314) for 4.5 and, with double quantisation, 4.127 bits a parameter.
A bare number of parameters is taken as evenly split over tensor and pipeline ranks; `ranks` divides a network. Not
counted: CUDA context, workspaces, communication buffers, fragmentation, running statistics, and the loss.
"""

from collections.abc import Collection, Sequence
from math import prod
from typing import NamedTuple

from dlkit.core import ranks, sequence
from dlkit.core.errors import DlkitError
from dlkit.core.graph import Step
from dlkit.core.matrices import Lora, Matrix, resolved_for
from dlkit.core.model import Measured, Walked
from dlkit.core.ranks import Share
from dlkit.core.saved import Activations, Kept, activations, blocks, key_copies

OPTIMIZERS = {"sgd": 0, "momentum": 1, "lion": 1, "adam": 2, "adamw": 2}
"""States of one number a parameter, in fp32; adam8bit, adafactor and muon have rules of their own."""

_BIT = 512
QUANTIZED = {
    "int8": 8 * _BIT,
    "nf4": 4 * _BIT + 32 * _BIT // 64,  # a 32-bit constant for each block of 64
    "nf4-double": 4 * _BIT + 8 * _BIT // 64 + 32 * _BIT // (64 * 256),  # 8-bit constants, and 32 bits for 256 of those
}
"""A parameter's size in 512ths of a bit."""


class Plan(NamedTuple):
    """How a model is trained or served."""

    precision: str = "bf16"
    optimizer: str = "adamw"
    convention: str = "zero"
    batch: int = 1
    checkpoint: str = "none"
    attention: str = "flash"
    zero: int = 0
    gpus: int = 1
    tensor: int = 1
    sequence_parallel: bool = False
    pipeline: int = 1
    accumulate: int = 1
    lora: Lora | None = None
    quantize: str | None = None
    inference: bool = False

    @property
    def data_parallel(self) -> int:
        """GPUs that hold the same shard of the model: what ZeRO divides by, not the world size."""
        return self.gpus // (self.tensor * self.pipeline)

    @property
    def width(self) -> int:
        """Bytes of a weight, and of an element of an activation."""
        return 4 if self.precision == "fp32" else 2


class Part(NamedTuple):
    """One component of a GPU's memory, and how it comes about; None where it is not known."""

    component: str
    bytes: int | None
    formula: str = ""


def parts(model: int | Walked | Measured, plan: Plan) -> list[Part]:
    """What lies on each GPU of the pipeline stage that holds the most."""
    return max(by_stage(model, plan), key=total)


def total(found: Sequence[Part]) -> int:
    """Bytes of all that is known."""
    return sum(part.bytes or 0 for part in found)


def by_stage(model: int | Walked | Measured, plan: Plan) -> list[list[Part]]:
    """What lies on each GPU, for each pipeline stage; of a bare number of parameters for one, as all are alike."""
    if plan.gpus % (plan.tensor * plan.pipeline):
        raise DlkitError(f"{plan.gpus} GPUs do not divide into --tp {plan.tensor} times --pp {plan.pipeline} ranks")
    if isinstance(model, int):
        share = Share(_ceil(model, plan.tensor * plan.pipeline), [], 0, 0)
        return (
            [_serving(None, share, plan)]
            if plan.inference
            else [[*_states(None, share, plan), Part("activations", None)]]
        )
    if isinstance(model, Measured):
        return [_measured(model, plan)]
    shares = ranks.shares(model.steps, plan.tensor, plan.pipeline)
    if plan.inference:
        return [_serving(model, share, plan) for share in shares]
    kept = activations(model.steps, plan.attention == "flash", plan.tensor)
    return [
        [*_states(model, share, plan), *_activations(model, kept, share, stage, plan)]
        for stage, share in enumerate(shares)
    ]


# Weights, gradients, optimiser ---------------------------------------------------------------------


def _states(model: Walked | None, share: Share, plan: Plan) -> list[Part]:
    if plan.lora is None:
        if plan.quantize:
            raise DlkitError("quantised weights are not trained: give --lora, or --inference")
        return trained("", share.params, share.matrices if model else None, plan)
    if model is None:
        raise DlkitError("--lora needs the layers: give a named model or a network")
    adapters = [("linear", matrix) for matrix in _adapters(share, resolved_for(plan.lora, model.steps))]
    params = sum(matrix.params for _, matrix in adapters)
    frozen = _part("frozen weights", *_stored(share, plan), plan, plan.zero >= 3)
    return [frozen, *trained("adapter ", params, adapters, plan)]


def _adapters(share: Share, lora: Lora) -> list[Matrix]:
    """A and B of each chosen matrix, with the rank's share of its inputs or outputs."""
    chosen = [matrix for _, matrix in share.matrices if matrix.name in lora.targets]
    return [
        half
        for name, inputs, outputs, times in chosen
        for half in (Matrix(name, inputs, lora.rank, times), Matrix(name, lora.rank, outputs, times))
    ]


def trained(prefix: str, params: int, matrices: list[tuple[str, Matrix]] | None, plan: Plan) -> list[Part]:
    """Weights that learn, and what learning them takes."""
    mixed = plan.precision in ("bf16", "fp16")
    gradient = 4 if mixed and plan.convention == "megatron" else plan.width
    states = _optimizer(plan.optimizer, params, matrices, 2 if plan.precision == "pure-bf16" else 4)
    found = [
        _part(f"{prefix}weights", plan.width * params, f"{plan.width} B · {params}", plan, plan.zero >= 3),
        _part(f"{prefix}gradients", gradient * params, f"{gradient} B · {params}", plan, plan.zero >= 2),
        _part(f"{prefix}optimiser states", states, _states_formula(states, params, plan), plan, plan.zero >= 1),
    ]
    master = _part(f"{prefix}fp32 master weights", 4 * params, f"4 B · {params}", plan, plan.zero >= 1)
    return [*found, master] if mixed else found


def _part(name: str, bytes: int | None, formula: str, plan: Plan, partitioned: bool) -> Part:
    """A component of a rank, which ZeRO divides among data-parallel ranks where it is partitioned."""
    by = plan.data_parallel if partitioned else 1
    if bytes is None:
        return Part(name, None)
    held = _ceil(bytes, by)
    return Part(name, held, f"{formula}{f' / {by}' if by > 1 else ''} = {held}")


def _states_formula(states: int | None, params: int, plan: Plan) -> str:
    width = 2 if plan.precision == "pure-bf16" else 4
    if plan.optimizer in OPTIMIZERS:
        return f"{OPTIMIZERS[plan.optimizer] * width} B · {params}"
    if plan.optimizer == "adam8bit":
        return f"2 · ({params} + 4 · ⌈{params}/2048⌉)"
    rule = {"adafactor": "rows + columns of matrices, all of vectors", "muon": "one a hidden weight, two of the rest"}
    return f"{width} B · {(states or 0) // width} ({rule[plan.optimizer]})"


def _optimizer(name: str, params: int, matrices: list[tuple[str, Matrix]] | None, width: int) -> int | None:
    """Bytes of optimiser states; None where they depend on shapes that are not known."""
    if name in OPTIMIZERS:
        return OPTIMIZERS[name] * width * params
    if name == "adam8bit":
        return 2 * (params + 4 * _ceil(params, 2048))
    if matrices is None:
        return None
    if name == "adafactor":  # a row and a column of second moments for a matrix, all of them for a vector
        vectors = params - sum(matrix.params for _, matrix in matrices)
        return width * (vectors + sum((m.inputs + m.outputs) * m.times for _, m in matrices))
    hidden = sum(matrix.params for op, matrix in matrices if op not in ("embed", "lmhead"))
    return width * (hidden + 2 * (params - hidden))  # Muon for hidden matrices, AdamW for the rest


def _stored(share: Share, plan: Plan) -> tuple[int, str]:
    """Bytes of weights that are not trained, and how: matrices but embeddings and head quantised, the rest whole."""
    if plan.quantize is None:
        return plan.width * share.params, f"{plan.width} B · {share.params}"
    if not share.matrices:
        return _bits(share.params, plan.quantize), f"{_bits_each(plan.quantize)} bits · {share.params} / 8"
    small = sum(m.params for _, m in share.matrices if m.name not in ("embed", "head", "conv"))
    rest = share.params - small
    formula = f"{_bits_each(plan.quantize)} bits · {small} / 8 + {plan.width} B · {rest}"
    return plan.width * rest + _bits(small, plan.quantize), formula


def _bits(params: int, quantize: str) -> int:
    return _ceil(QUANTIZED[quantize] * params, 8 * _BIT)


def _bits_each(quantize: str) -> str:
    return f"{QUANTIZED[quantize] / _BIT:.10g}"


def _measured(model: Measured, plan: Plan) -> list[Part]:
    """A user's module: frozen parameters have weights alone; activations are those that torch kept."""
    frozen = model.params - model.trained
    found = [] if plan.inference else trained("", model.trained, model.matrices, plan)
    if plan.inference:
        found = [_part("weights", plan.width * model.params, f"{plan.width} B · {model.params}", plan, False)]
    elif frozen:
        found.append(_part("frozen weights", plan.width * frozen, f"{plan.width} B · {frozen}", plan, plan.zero >= 3))
    if model.buffers:
        found.append(Part("buffers", model.buffers, f"as they are: {model.buffers}"))
    if plan.inference or model.each is None or model.fixed is None:
        return [*found, Part("activations", None)]
    held = plan.batch * model.each + model.fixed
    return [*found, Part("activations", held, f"{plan.batch} · {model.each} + {model.fixed} = {held}")]


# Activations ---------------------------------------------------------------------------------------


def _activations(model: Walked, kept: Activations, share: Share, stage: int, plan: Plan) -> list[Part]:
    """Of one pipeline stage, which under 1F1B holds as many micro-batches as there are stages from it on."""
    if kept.unknown:
        return [Part("activations", None)]
    flight = min(plan.pipeline - stage, plan.accumulate)
    if plan.checkpoint != "full":
        return [_held("activations", _kept(kept, plan, share.start, share.end), flight, plan)]
    divided = [(start, end) for start, end in blocks(model.steps) if share.start <= start < share.end]
    if not divided:
        raise DlkitError("--checkpoint full needs blocks: attention layers, or branches that join in sum(…) or cat(…)")
    first, end = divided[0][0], divided[-1][1]
    inputs = {kept.roots[start] for start, _ in divided}
    before, after = (_kept(kept, plan, a, b, inputs) for a, b in ((share.start, first), (end, share.end)))
    largest = max((_kept(kept, plan, start, stop, inputs) for start, stop in divided), key=lambda bytes: sum(bytes))
    checkpoints = plan.width * sum(kept.sizes[root] for root in inputs) * _copies(plan)
    return [
        _held("block inputs", (checkpoints, 0), flight, plan),
        _held("activations outside blocks", (before[0] + after[0], before[1] + after[1]), flight, plan),
        _held("block being recomputed", largest, 1, plan),
    ]


def _kept(kept: Activations, plan: Plan, start: int, end: int, without: Collection[int] = ()) -> tuple[int, int]:
    """Bytes of the steps [start, end), all tensor-parallel ranks together: of one sample, and once for a batch."""
    tensors = plan.width * kept.stream(start, end, without) * _copies(plan)
    own = kept.kept[start:end]
    return tensors + sum(_own(one, plan) for one in own), _copies(plan) * sum(one.batch_bytes for one in own)


def _held(name: str, bytes: tuple[int, int], flight: int, plan: Plan) -> Part:
    """A component of `flight` micro-batches on one rank, from the bytes of a sample and of a batch."""
    each, fixed = bytes
    held = _ceil((each * plan.batch + fixed) * flight, plan.tensor)
    formula = f"{plan.batch} · {each}" + (f" + {fixed}" if fixed else "")
    formula = f"({formula}) · {flight} micro-batches" if flight > 1 else formula
    formula = f"({formula})" if fixed and plan.tensor > 1 and flight == 1 else formula
    return Part(name, held, f"{formula}{f' / {plan.tensor}' if plan.tensor > 1 else ''} = {held}")


def _own(kept: Kept, plan: Plan) -> int:
    """Bytes that a layer keeps inside, all ranks together; scores only where nothing recomputes them."""
    inner = plan.width * kept.inner + kept.inner_bytes
    if plan.checkpoint != "selective":
        inner += plan.width * kept.scores + kept.score_bytes
    return inner + kept.stream_bytes * _copies(plan)


def _copies(plan: Plan) -> int:
    """Of a tensor between layers: each tensor-parallel rank has it whole, unless --sp splits it."""
    return 1 if plan.sequence_parallel else plan.tensor


def _ceil(value: int, by: int) -> int:
    return -(-value // by)


# Inference -----------------------------------------------------------------------------------------


def _serving(model: Walked | None, share: Share, plan: Plan) -> list[Part]:
    """Weights, the keys and values of a full context, and the tensors alive at the widest place of a forward pass."""
    weights = _part("weights", *_stored(share, plan), plan, False)
    if model is None:
        return [weights, Part("KV cache", None), Part("activations", None)]
    found = [weights]
    elements = cache_elements(model.steps[share.start : share.end], plan.tensor)
    cache = plan.width * plan.batch * elements
    if cache:
        found.append(Part("KV cache", cache, f"{plan.width} B · {plan.batch} · {elements} = {cache}"))
    widest = max(_alive(model.steps)[share.start : share.end])
    alive = plan.width * plan.batch * widest
    return [*found, Part("activations", alive, f"{plan.width} B · {plan.batch} · {widest} = {alive}")]


def cache_elements(steps: Sequence[Step], tensor: int = 1) -> int:
    """Keys and values of one sample's context on one rank, all causal layers; a window keeps no more than its own."""
    layers = [(step.layer, step.inputs[0]) for step in steps]
    return sum(
        2 * layer.keys(x) * layer.widths(x)[1] * key_copies(layer, tensor) // tensor
        for layer, x in layers
        if isinstance(layer, sequence.Attention) and (layer.causal or isinstance(layer, sequence.CrossAttention))
    )


def _alive(steps: Sequence[Step]) -> list[int]:
    """Elements of all tensors between layers that are alive while each step runs, in one sample's forward pass."""
    last = {source: i for i, step in enumerate(steps) for source in step.sources}
    alive = prod(steps[0].inputs[0])
    found = []
    for i, step in enumerate(steps):
        alive += step.activations
        found.append(alive)
        ended = {source for source in step.sources if last[source] == i}
        alive -= sum(prod(steps[0].inputs[0]) if source < 0 else steps[source].activations for source in ended)
    return found
