"""Bytes on each GPU: weights, gradients, optimiser states and activations, in training and in inference.

Sources: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054) for 2 + 2 + 12 bytes a parameter and its partitioning;
Megatron-LM's distributed optimiser for fp32 gradients (18 bytes, or 6 + 12/dp); Korthikanti et al. 2022 (2205.05198)
for activations under tensor and sequence parallelism; Dettmers et al. 2021 (2110.02861) for 8-bit states in blocks of
2,048; Dettmers et al. 2023 (QLoRA, 2305.14314) for 4.5 and, with double quantisation, 4.127 bits a parameter.
Parameters and layers are taken as evenly split over tensor and pipeline ranks. Not counted: CUDA context, workspaces,
communication buffers, fragmentation, and the loss.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from dlkit.core import sequence
from dlkit.core.errors import DlkitError
from dlkit.core.graph import Step
from dlkit.core.matrices import Lora, adapter_params, matrices
from dlkit.core.model import Walked
from dlkit.core.saved import Kept, activations, blocks

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
    """One component of a GPU's memory; None where it is not known."""

    component: str
    bytes: int | None


def parts(model: int | Walked, plan: Plan) -> list[Part]:
    """What lies on each GPU (of the first pipeline stage, which holds the most activations)."""
    if plan.gpus % (plan.tensor * plan.pipeline):
        raise DlkitError(f"{plan.gpus} GPUs do not divide into --tp {plan.tensor} times --pp {plan.pipeline} ranks")
    if plan.tensor > 1 and not isinstance(model, int) and not any(_splits(step) for step in model.steps):
        raise DlkitError("--tp splits attention and feed-forward layers: this network has none")
    if plan.inference:
        return _serving(model, plan)
    return [*_states(model, plan), *_activations(model, plan)]


def _splits(step: Step) -> bool:
    return isinstance(step.layer, sequence.Attention | sequence.Mlp | sequence.GatedMlp | sequence.Moe)


# Weights, gradients, optimiser ---------------------------------------------------------------------


def _params(model: int | Walked) -> int:
    return model if isinstance(model, int) else sum(step.params for step in model.steps)


def _states(model: int | Walked, plan: Plan) -> list[Part]:
    if plan.lora is None:
        if plan.quantize:
            raise DlkitError("quantised weights are not trained: give --lora, or --inference")
        return _trained("", _params(model), None if isinstance(model, int) else model.steps, plan)
    if isinstance(model, int):
        raise DlkitError("--lora needs the layers: give a named model or a network")
    frozen = Part("frozen weights", _sharded(_stored(model, plan), plan, plan.zero >= 3))
    return [frozen, *_trained("adapter ", adapter_params(model.steps, plan.lora), None, plan)]


def _trained(prefix: str, params: int, steps: Sequence[Step] | None, plan: Plan) -> list[Part]:
    mixed = plan.precision in ("bf16", "fp16")
    gradient = 4 if mixed and plan.convention == "megatron" else plan.width
    states = _optimizer(plan.optimizer, params, steps, 2 if plan.precision == "pure-bf16" else 4)
    found = [
        Part(f"{prefix}weights", _sharded(plan.width * params, plan, plan.zero >= 3)),
        Part(f"{prefix}gradients", _sharded(gradient * params, plan, plan.zero >= 2)),
        Part(f"{prefix}optimiser states", None if states is None else _sharded(states, plan, plan.zero >= 1)),
    ]
    master = Part(f"{prefix}fp32 master weights", _sharded(4 * params, plan, plan.zero >= 1))
    return [*found, master] if mixed else found


def _sharded(total: int, plan: Plan, partitioned: bool) -> int:
    """Bytes on one GPU of what model parallelism divides, and ZeRO too where it is partitioned."""
    ranks = plan.tensor * plan.pipeline * (plan.data_parallel if partitioned else 1)
    return _ceil(total, ranks)


def _optimizer(name: str, params: int, steps: Sequence[Step] | None, width: int) -> int | None:
    """Bytes of optimiser states; None where they depend on shapes that are not known."""
    if name in OPTIMIZERS:
        return OPTIMIZERS[name] * width * params
    if name == "adam8bit":
        return 2 * (params + 4 * _ceil(params, 2048))
    if steps is None:
        return None
    found = [(step.op, matrix) for step in steps for matrix in matrices(step)]
    if name == "adafactor":  # a row and a column of second moments for a matrix, all of them for a vector
        vectors = params - sum(matrix.params for _, matrix in found)
        return width * (vectors + sum((m.inputs + m.outputs) * m.times for _, m in found))
    hidden = sum(matrix.params for op, matrix in found if op not in ("embed", "lmhead"))
    return width * (hidden + 2 * (params - hidden))  # Muon for hidden matrices, AdamW for the rest


def _stored(model: Walked, plan: Plan) -> int:
    """Bytes of weights that are not trained: matrices but embeddings and head quantised, the rest at full width."""
    params = _params(model)
    if plan.quantize is None:
        return plan.width * params
    small = sum(m.params for step in model.steps for m in matrices(step) if m.name not in ("embed", "head", "conv"))
    return plan.width * (params - small) + _bits(small, plan.quantize)


def _bits(params: int, quantize: str) -> int:
    return _ceil(QUANTIZED[quantize] * params, 8 * _BIT)


# Activations ---------------------------------------------------------------------------------------


def _activations(model: int | Walked, plan: Plan) -> list[Part]:
    """Of the first pipeline stage, which under 1F1B holds as many micro-batches as there are stages."""
    kept = None if isinstance(model, int) else activations(model.steps, plan.attention == "flash")
    if isinstance(model, int) or kept is None or kept.unknown:
        return [Part("activations", None)]
    flight = plan.batch * min(plan.pipeline, plan.accumulate)
    tensors = [_stream(size, plan) for size in kept.stream]
    own = [_own(one, plan) for one in kept.kept]

    def held(shares: int) -> int:
        return _ceil(shares * flight, plan.tensor * plan.pipeline)

    if plan.checkpoint != "full":
        return [Part("activations", held(sum(tensors) + sum(own)))]
    divided = blocks(model.steps)
    if not divided:
        raise DlkitError("--checkpoint full needs blocks: attention layers, or branches that join in sum(…) or cat(…)")
    first, end = divided[0][0], divided[-1][1]
    inputs = sum(_stream(prod(model.steps[start].inputs[0]), plan) for start, _ in divided)
    outside = sum(tensors[:first]) + sum(own[:first]) + sum(tensors[end:]) + sum(own[end:])
    largest = max(sum(tensors[start + 1 : stop]) + sum(own[start:stop]) for start, stop in divided)
    return [
        Part("block inputs", held(inputs)),
        Part("activations outside blocks", held(outside)),
        Part("block being recomputed", _ceil(largest * plan.batch, plan.tensor)),
    ]


def _stream(elements: int, plan: Plan) -> int:
    """Bytes of a tensor between layers, times the tensor-parallel ranks: each has it whole, unless --sp splits it."""
    return plan.width * elements * _copies(plan)


def _own(kept: Kept, plan: Plan) -> int:
    """Bytes that a layer keeps inside, all ranks together; scores only where nothing recomputes them."""
    inner = plan.width * kept.inner + kept.inner_bytes
    if plan.checkpoint != "selective":
        inner += plan.width * kept.scores + kept.score_bytes
    return inner + kept.stream_bytes * _copies(plan)


def _copies(plan: Plan) -> int:
    return 1 if plan.sequence_parallel else plan.tensor


def _ceil(value: int, by: int) -> int:
    return -(-value // by)


# Inference -----------------------------------------------------------------------------------------


def _serving(model: int | Walked, plan: Plan) -> list[Part]:
    """Weights, the keys and values of a full context, and the tensors alive at the widest place of a forward pass."""
    ranks = plan.tensor * plan.pipeline
    if isinstance(model, int):
        total = _bits(model, plan.quantize) if plan.quantize else plan.width * model
        return [Part("weights", _ceil(total, ranks)), Part("KV cache", None), Part("activations", None)]
    parts = [Part("weights", _ceil(_stored(model, plan), ranks))]
    cache = plan.width * plan.batch * cache_elements(model.steps)
    if cache:
        parts.append(Part("KV cache", _ceil(cache, ranks)))
    return [*parts, Part("activations", plan.width * plan.batch * _widest(model.steps))]


def cache_elements(steps: Sequence[Step]) -> int:
    """Keys and values of one sample's context, all causal layers; a window keeps no more than its own."""
    layers = [(step.layer, step.inputs[0]) for step in steps]
    return sum(
        2 * layer.keys(x) * layer.widths(x)[1]
        for layer, x in layers
        if isinstance(layer, sequence.Attention) and (layer.causal or isinstance(layer, sequence.CrossAttention))
    )


def _widest(steps: Sequence[Step]) -> int:
    """Elements of all tensors between layers that are alive at once, at most, in one sample's forward pass."""
    last = {source: i for i, step in enumerate(steps) for source in step.sources}
    alive = prod(steps[0].inputs[0])
    widest = alive
    for i, step in enumerate(steps):
        alive += step.activations
        widest = max(widest, alive)
        ended = {source for source in step.sources if last[source] == i}
        alive -= sum(prod(steps[0].inputs[0]) if source < 0 else steps[source].activations for source in ended)
    return widest
