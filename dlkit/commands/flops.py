"""Training compute, time and cost: 6·N·D for a number of parameters, exact counts for a network.

Examples:
  dlkit flops 70B --tokens 1.4T
  dlkit flops llama-2-7b --tokens 2T
  dlkit flops gpt2 --context 512 --convention palm
  dlkit flops resnet50 --samples 1.28M --epochs 90
  dlkit flops resnet50 --depth 1
  dlkit flops 70B --tokens 1.4T --gpu h100 --gpus 1024 --mfu 0.4 --price 2.5
  dlkit flops --budget 1e24
  dlkit flops 405B --tokens 15.6T --gpu h100 --gpu-hours 30.84M --json | jq .summary.mfu
  dlkit flops 3x224x224 net.py:Net --freeze encoder

A FLOP is one addition or multiplication: a multiply-accumulate counts 2. Counted are
matrix products and convolutions; not softmax, norms, activations, look-ups, optimiser.
6·N·D leaves attention scores out; a network's are counted in full, masked ones too. No
--tokens or --samples: the counts are of one token or sample, and -q prints the forward
pass. In a pipe a run's hours, cost and energy are columns, by each row's share of the
FLOPs. Peaks are dense. FILE.py:CLASS is a module of your own: it is imported, which runs
its code, and run forward and backward on torch's meta device. Next: dlkit memory.
"""

import typer

from dlkit.commands import _cost as opt
from dlkit.commands._module import Dtype
from dlkit.core.network import is_module
from dlkit.core.result import Result


def command(
    context_: typer.Context,
    model: opt.Model = None,
    tokens: opt.Tokens = None,
    samples: opt.Samples = None,
    epochs: opt.Epochs = 1,
    context: opt.Context = None,
    recompute: opt.Recompute = "none",
    convention: opt.Convention = "dlkit",
    causal_skip: opt.CausalSkip = False,
    freeze: opt.Freeze = None,
    depth: opt.Depth = None,
    explain: opt.Explain = False,
    dtype: Dtype = None,
    gpu: opt.Gpu = None,
    gpus: opt.Gpus = None,
    precision: opt.Precision = None,
    mfu: opt.Mfu = None,
    hfu: opt.Hfu = None,
    tokens_per_second: opt.TokensPerSecond = None,
    gpu_hours: opt.GpuHours = None,
    price: opt.Price = None,
    watts: opt.Watts = None,
    pue: opt.Pue = None,
    carbon: opt.Carbon = None,
    budget: opt.Budget = None,
    approach: opt.Approach = "2",
) -> Result:
    from dlkit.core import costs
    from dlkit.core.compute import Counting
    from dlkit.core.hardware import Job

    said = opt.said(context_)
    job = Job(gpu, gpus, precision, mfu, hfu, tokens_per_second, gpu_hours, price, watts, pue, carbon)
    if budget is not None:
        if model or tokens or samples:
            raise typer.BadParameter(
                "asks for the best model: give no model, --tokens or --samples", param_hint="--budget"
            )
        return costs.sizes(budget, approach, job, said)
    amount = costs.Amount(tokens, samples, epochs, context, approach)
    how = Counting(recompute, causal_skip, tuple(freeze or ()))
    if any(map(is_module, model or [])):
        from dlkit.nn import live_costs

        return live_costs.flops(model or [], dtype, amount, how, job, depth, said)
    return costs.answer(model or [], amount, how, convention, job, costs.View(depth, explain), said)
