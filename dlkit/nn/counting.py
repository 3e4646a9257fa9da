"""Multiply-accumulates of one aten op, from the shapes of its tensors; None for an op that is not counted.

The convention is FlopCounterMode's, halved: convolutions and products of matrices. Its own formulas serve where they
are right; attention on the CPU, products with a vector, batched sums and fused recurrent layers, which it counts as
nothing, have theirs here. Bias, normalisation, pooling, activations and other elementwise work are not counted.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


def macs(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int | None:
    """MACs of one call of the overload `func`."""
    packet = func._overloadpacket
    own = _OWN.get(packet)
    if own is not None:
        return own(*args, **kwargs)
    if packet in flop_registry:
        return flop_registry[packet](*args, **kwargs, out_val=out) // 2
    return None


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> int:
    """Scores and the weighted sum of values: N·M·(d + dv) for each head; queries may share keys (N-S024)."""
    *heads, queries, width = query.shape
    return prod(heads) * queries * key.shape[-2] * (width + value.shape[-1])


def _matrix_vector(matrix: torch.Tensor, *_: Any) -> int:
    return matrix.numel()


def _added_matrix_vector(_: torch.Tensor, matrix: torch.Tensor, *__: Any, **___: Any) -> int:
    return matrix.numel()


def _added_product(_: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *__: Any, **___: Any) -> int:
    return a.numel() * b.shape[-1]


def _product(a: torch.Tensor, b: torch.Tensor, *_: Any, **__: Any) -> int:
    return a.numel() * b.shape[-1]


def _linear(x: torch.Tensor, weight: torch.Tensor, *_: Any) -> int:
    return x.numel() * (weight.shape[0] if weight.dim() > 1 else 1)


def _bilinear(a: torch.Tensor, weight: torch.Tensor, b: torch.Tensor, *_: Any) -> int:
    """x₁ᵀWx₂ for each output: one product of every weight with each pair of inputs (bias apart)."""
    return weight.numel() * prod(a.shape) // a.shape[-1]


def _recurrent(x: torch.Tensor, w: torch.Tensor, u: torch.Tensor, *_: Any) -> int:
    """One layer and direction, fused: every position meets the input's and the state's weights."""
    return prod(x.shape[:-1]) * (w.numel() + u.numel())


def _convolution_backward(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *rest: Any, **__: Any) -> int:
    """As many for each gradient as on the way forward, groups divided (torch's own formula does not, for weights)."""
    transposed, wanted = rest[-4], rest[-1]
    forward = (x.numel() if transposed else grad.numel()) * weight.numel() // weight.shape[0]
    return forward * (wanted[0] + wanted[1])


_OWN: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_cudnn_attention: _attention,
    aten._scaled_dot_product_fused_attention_overrideable: _attention,
    aten.convolution_backward: _convolution_backward,
    aten.mv: _matrix_vector,
    aten.dot: _matrix_vector,
    aten.vdot: _matrix_vector,
    aten.addmv: _added_matrix_vector,
    aten.addmv_: _added_matrix_vector,
    aten.addbmm: _added_product,
    aten.addbmm_: _added_product,
    aten.addmm_: _added_product,
    aten.baddbmm_: _added_product,
    aten._addmm_activation: _added_product,
    aten._int_mm: _product,
    aten.linear: _linear,
    aten._trilinear: _bilinear,
    aten.mkldnn_rnn_layer: _recurrent,
}


def counts(packet: Any) -> bool:
    """Whether `macs` has a formula for an op."""
    return packet in _OWN or packet in flop_registry
