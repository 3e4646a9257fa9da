"""Bytes on each GPU: weights, gradients, optimiser states, activations; or weights and KV cache for inference.

Examples:
  dlkit memory 7.5B --gpus 64 --zero 3
  dlkit memory llama-2-7b --context 2048 --checkpoint full --gpus 8 --zero 2
  dlkit memory llama-3-70b --context 8192 --tp 8 --pp 4 --gpus 64 --zero 1 --accumulate 16
  dlkit memory llama-2-7b --lora r=8,targets=q,v --quantize nf4-double
  dlkit memory llama-2-70b --inference --quantize int8 --batch 8
  dlkit memory resnet50 --batch 256 --precision fp32
  dlkit memory gpt2 --fit h100
  dlkit memory 3x224x224 net.py:Net --batch 32

Mixed precision with Adam is 16 bytes a parameter as ZeRO counts (2 + 2 + 12), 18 as
Megatron does (fp32 gradients). Activations are what autograd keeps of the micro-batch
(with --lora: of full training, an upper bound). The answer is the pipeline stage that
holds the most. Not counted: CUDA context, workspaces, communication buffers, the loss,
fragmentation. GiB is 2^30 bytes, GB 10^9; -q prints bytes, with --fit the micro-batch.
FILE.py:CLASS is a module of your own: it is imported, which runs its code, and run on
torch's meta device. Next: dlkit flops says how long training takes.
"""

import typer

from dlkit.commands import _cost as opt
from dlkit.commands._module import Dtype
from dlkit.core.network import is_module
from dlkit.core.result import Result


def command(
    context_: typer.Context,
    model: opt.Model = None,
    batch: opt.Batch = 1,
    context: opt.Context = None,
    accumulate: opt.Accumulate = 1,
    precision: opt.Weights = "bf16",
    optimizer: opt.Optimizer = "adamw",
    bytes_per_param: opt.BytesPerParam = "zero",
    checkpoint: opt.Checkpoint = "none",
    attention: opt.AttentionKernel = "flash",
    lora: opt.LoraOption = None,
    quantize: opt.Quantize = None,
    inference: opt.Inference = False,
    freeze: opt.FreezeModule = None,
    dtype: Dtype = None,
    explain: opt.Explain = False,
    gpus: opt.WorldSize = 1,
    zero: opt.Zero = 0,
    tp: opt.Tensor = 1,
    sp: opt.Sequence = False,
    pp: opt.Pipeline = 1,
    fit: opt.Fit = None,
    reserve: opt.Reserve = 0.1,
) -> Result:
    from dlkit.core import memory
    from dlkit.core.effect import refuse
    from dlkit.core.footprint import Plan

    words, said, room = model or [], opt.said(context_), memory.Room(fit, reserve)
    plan = Plan(
        *(precision, optimizer, bytes_per_param, batch, checkpoint, attention, zero, gpus, tp, sp, pp, accumulate),
        lora,  # type: ignore[arg-type]  # the option's parser makes it a Lora
        *(quantize, inference),
    )
    if any(map(is_module, words)):
        from dlkit.nn import live_memory

        return live_memory.answer(words, dtype, freeze or [], plan, room, said, explain)
    refuse(said, ["--freeze", "--dtype"], "on what is no module of your own, FILE.py:CLASS")
    return memory.answer(words, plan, context, room, said, explain)
