"""`memory` of a module of the user's own: its parameters, and the activations that autograd keeps of it on meta."""

from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from dlkit.core import memory
from dlkit.core.effect import refuse
from dlkit.core.footprint import Plan
from dlkit.core.layers import Shape
from dlkit.core.matrices import Matrix
from dlkit.core.memory import Room
from dlkit.core.model import Measured
from dlkit.core.result import Result
from dlkit.nn import live
from dlkit.nn.live_costs import IN_THE_LANGUAGE, freeze_parameters
from dlkit.nn.memory import Saved, saved
from dlkit.nn.trace import BATCHES, input_dtype, on_meta, sample

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "pure-bf16": torch.bfloat16}
_OF_THE_LANGUAGE = ("--checkpoint", "--lora", "--quantize", "--tp", "--pp", "--sp", "--context")


def answer(
    words: list[str],
    dtype: str | None,
    freeze: Sequence[str],
    plan: Plan,
    room: Room,
    said: Container[str],
    explain: bool,
) -> Result:
    """The answer of `memory` for SHAPE MODULE."""
    refuse(said, _OF_THE_LANGUAGE, IN_THE_LANGUAGE)
    found = memory.result(
        live.run(words, dtype, lambda module, shape, kind: measured(module, shape, kind, freeze, plan)),
        plan,
        room,
        said,
        explain,
    )
    found.notes.append(live.RAN)
    return found


class Flash(TorchFunctionMode):
    """Attention as a fused kernel, which meta tensors would not get: queries, keys, values, output, one sum a row."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return _fused(*args, **(kwargs or {}))


def _fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """scaled_dot_product_attention by the fused kernel; where it does not apply, as torch does it."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if query.dim() != 4 or query.shape[-1] != value.shape[-1] or not query.requires_grad:
        return scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    return kernel(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


def measured(module: nn.Module, shape: Shape, dtype: torch.dtype | None, freeze: Sequence[str], plan: Plan) -> Measured:
    """`module` in the plan's precision, run forward with batches of 2 and 3."""
    module = on_meta(module)
    freeze_parameters(module, freeze)
    whole = input_dtype(module) if dtype is None else dtype
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in module.buffers())
    module = module.to(_TYPES[plan.precision])
    x = _TYPES[plan.precision] if whole.is_floating_point else whole
    kept = None if plan.inference else _kept(module, [sample(batch, shape, x) for batch in BATCHES], plan)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return Measured(
        params=sum(parameter.numel() for parameter in module.parameters()),
        trained=sum(parameter.numel() for parameter in trained),
        matrices=_matrices(module),
        buffers=buffers,
        each=None if kept is None else sum(kept.each.values()),
        fixed=None if kept is None else sum(kept.fixed.values()),
        positions=shape[0] if whole == torch.int64 and len(shape) == 1 else None,
    )


def _kept(module: nn.Module, samples: list[torch.Tensor], plan: Plan) -> Saved | None:
    """What training keeps; None where only training fails. What fails in evaluation mode as well is raised."""
    with Flash() if plan.attention == "flash" else sdpa_kernel(SDPBackend.MATH):
        kept = saved(module, samples)
        if kept is None:
            module.eval()(samples[0])
    return kept


def _matrices(module: nn.Module) -> list[tuple[str, Matrix]]:
    """Trained parameters of two dimensions and more, as the matrices that factored optimisers see; embeddings named."""
    tables = {id(inner.weight) for inner in module.modules() if isinstance(inner, nn.Embedding)}
    return [
        (
            "embed" if id(parameter) in tables else "linear",
            Matrix(name, parameter.numel() // len(parameter), len(parameter)),
        )
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.dim() > 1
    ]
