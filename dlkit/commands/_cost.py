"""Options of the calculators of cost: counts such as 1.4T, sizes such as 80GiB, shares such as 40%."""

from typing import Annotated, Any, Literal

import typer

from dlkit.commands._numbers import not_negative, positive, reader
from dlkit.core import units

_RUN, _COUNT, _MACHINE, _BUDGET = "How much is trained", "What is counted", "Machine and cost", "Compute-optimal sizes"


def _tokens(text: str) -> int | str:
    return text if text == "optimal" else units.count(text)


def said(context: typer.Context) -> frozenset[str]:
    """The options that the user gave, by their long names, defaults told apart from values equal to them."""
    given = (
        p for p in context.command.params if str(context.get_parameter_source(str(p.name))).endswith("COMMANDLINE")
    )
    return frozenset(max(p.opts, key=len) for p in given)


def _pue(text: str) -> float:
    value = units.quantity(text)
    if value < 1:
        raise ValueError(f"must be a number of at least 1, what reaches the devices over what is drawn. Got {text!r}.")
    return value


def _reserve(text: str) -> float:
    value = 0.0 if text.strip("0.%") == "" != text else units.share(text)
    if value == 1:
        raise ValueError(f"must be a share of at least 0 and below 1, such as 0.1 or 10%. Got {text!r} instead.")
    return value


def _option(*names: str, panel: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **more)


count = reader(units.count)

Model = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PARAMS | [SHAPE] NETWORK...",
        help="A number of parameters (70B), or a network: a name (dlkit models), layers, @FILE, - for stdin, "
        "or FILE.py:CLASS.",
        show_default=False,
    ),
]
Tokens = Annotated[
    str | None,
    _option(
        panel=_RUN,
        parser=reader(_tokens),
        metavar="COUNT|optimal",
        help="Tokens of the data, e.g. 1.4T; optimal: D(N).",
    ),
]
Samples = Annotated[
    int | None, _option(panel=_RUN, parser=count, metavar="COUNT", help="Samples of the data, e.g. 1.28M images.")
]
Epochs = Annotated[int, _option(panel=_RUN, parser=count, metavar="COUNT", help="Passes over the data.")]
Recompute = Annotated[
    Literal["none", "selective", "full"],
    _option(panel=_COUNT, help="Activations computed again on the way back: none, attention scores, or all (8·N·D)."),
]
Context = Annotated[
    int | None,
    _option(panel=_RUN, parser=count, metavar="COUNT", help="Tokens of a sample.", show_default="the model's own"),
]
Convention = Annotated[
    Literal["dlkit", "kaplan", "chinchilla", "palm", "megatron", "torchvision", "fvcore"],
    _option(panel=_COUNT, help="Whose way of counting; a note says how it differs."),
]
CausalSkip = Annotated[
    bool,
    _option(
        "--causal-skip",
        panel=_COUNT,
        help="Leave out the scores a causal mask hides (about half), as FlashAttention does.",
    ),
]
Freeze = Annotated[
    list[str] | None,
    _option(
        panel=_COUNT,
        metavar="LAYER",
        help="Not trained: a name (conv1, 'conv?'), or every conv; of a module a child or a parameter. Repeatable.",
    ),
]
Depth = Annotated[
    int | None,
    _option(
        panel=_COUNT,
        min=0,
        help="Rows for each layer (0), or grouped: 1 by block or child, 2 one level down, ….",
        show_default="by component; a module's children",
    ),
]
Explain = Annotated[bool, _option("--explain", panel=_COUNT, help="Show each row's formula with its numbers.")]
Gpu = Annotated[str | None, _option(panel=_MACHINE, metavar="NAME", help="h100, a100, h200, b200, mi300x, tpu-v5p, …")]
Gpus = Annotated[
    int | None,
    _option(panel=_MACHINE, parser=count, metavar="COUNT", help="How many of them; without it days are unknown."),
]
Precision = Annotated[
    Literal["fp32", "tf32", "fp16", "bf16", "fp8"] | None,
    _option(panel=_MACHINE, help="Whose dense peak counts.", show_default="bf16; fp16 on a V100"),
]
Mfu = Annotated[
    float | None,
    _option(panel=_MACHINE, parser=reader(units.share), metavar="SHARE", help="Model FLOPs over peak, e.g. 0.4."),
]
Hfu = Annotated[
    float | None,
    _option(panel=_MACHINE, parser=reader(units.share), metavar="SHARE", help="The same, recomputed FLOPs included."),
]
TokensPerSecond = Annotated[
    float | None,
    _option(
        panel=_MACHINE,
        parser=reader(units.quantity),
        metavar="NUMBER",
        help="Measured, all devices together: gives MFU and HFU.",
    ),
]
GpuHours = Annotated[
    float | None,
    _option(panel=_MACHINE, parser=reader(units.quantity), metavar="NUMBER", help="Measured: gives MFU and HFU."),
]
Price = Annotated[
    float | None,
    _option(panel=_MACHINE, parser=not_negative, metavar="NUMBER", help="Of a GPU-hour, in your currency."),
]
Watts = Annotated[
    float | None,
    _option(
        panel=_MACHINE, parser=positive, metavar="NUMBER", help="Drawn by one device.", show_default="its board power"
    ),
]
Pue = Annotated[
    float | None,
    _option(
        panel=_MACHINE,
        parser=reader(_pue),
        metavar="NUMBER",
        help="Power of the data centre over the devices'.",
        show_default="1",
    ),
]
Carbon = Annotated[
    float | None, _option(panel=_MACHINE, parser=not_negative, metavar="NUMBER", help="kg CO2 for a kWh.")
]
Budget = Annotated[
    str | None,
    _option(
        panel=_BUDGET, metavar="AMOUNT", help="FLOPs (1e24), GPU-hours (10000h) or money ('$1M'): the best N and D."
    ),
]
Approach = Annotated[
    Literal["1", "2", "3", "3-rounded", "refit"],
    _option(panel=_BUDGET, help="Hoffmann et al. 2022, approaches 1 to 3; refit: Besiroglu et al. 2024."),
]

# memory --------------------------------------------------------------------------------------------

_SAVE, _PARALLEL, _FIT = "What is stored", "Parallelism", "Fitting"


def _lora(text: str) -> Any:
    from dlkit.core.matrices import parse_lora

    return parse_lora(text)


_COUNTED: dict[str, Any] = {"parser": count, "metavar": "COUNT"}
Batch = Annotated[int, _option(panel=_RUN, help="Micro-batch: samples at a time on one GPU.", **_COUNTED)]
Accumulate = Annotated[
    int, _option(panel=_RUN, help="Micro-batches a step: a larger batch without more activations.", **_COUNTED)
]
Weights = Annotated[
    Literal["fp32", "bf16", "fp16", "pure-bf16"],
    _option("--precision", panel=_SAVE, help="bf16 and fp16 are mixed, with fp32 master weights; pure-bf16 has none."),
]
Optimizer = Annotated[
    Literal["adamw", "adam", "adam8bit", "sgd", "momentum", "lion", "adafactor", "muon"],
    _option(panel=_SAVE, help="Whose states: 8 bytes a parameter for adam, 4 for momentum and lion, 2 for adam8bit."),
]
BytesPerParam = Annotated[
    Literal["zero", "megatron"],
    _option(panel=_SAVE, help="zero: 16-bit gradients, 16 bytes in all; megatron: fp32 gradients, 18."),
]
Checkpoint = Annotated[
    Literal["none", "selective", "full"],
    _option(panel=_SAVE, help="Recomputed on the way back: nothing, attention scores, or each block from its input."),
]
AttentionKernel = Annotated[
    Literal["flash", "plain"], _option("--attention", panel=_SAVE, help="flash stores no scores; plain does.")
]
LoraOption = Annotated[
    str | None,
    _option(
        "--lora",
        panel=_SAVE,
        parser=reader(_lora),
        metavar="r=R,alpha=A,targets=q,v",
        help="Train adapters alone, as train does; alpha changes no byte.",
    ),
]
Quantize = Annotated[
    Literal["int8", "nf4", "nf4-double"] | None,
    _option(panel=_SAVE, help="Frozen weights: 8, 4.5 or 4.127 bits (QLoRA); embeddings, head and norms stay."),
]
Inference = Annotated[
    bool, _option("--inference", panel=_SAVE, help="Weights, KV cache of the whole context, live tensors; no training.")
]
FreezeModule = Annotated[
    list[str] | None,
    _option("--freeze", panel=_SAVE, metavar="NAME", help="A child or a parameter of a module that is not trained."),
]
WorldSize = Annotated[
    int, _option("--gpus", panel=_PARALLEL, help="All of them; data parallel what tp·pp leave.", **_COUNTED)
]
Zero = Annotated[
    int,
    _option(
        panel=_PARALLEL, min=0, max=3, help="Partitioned over data parallel: 1 states, 2 gradients, 3 weights (FSDP)."
    ),
]
Tensor = Annotated[int, _option("--tp", panel=_PARALLEL, help="Tensor-parallel ranks.", **_COUNTED)]
Sequence = Annotated[bool, _option("--sp", panel=_PARALLEL, help="Sequence parallelism with it: norms split as well.")]
Pipeline = Annotated[int, _option("--pp", panel=_PARALLEL, help="Pipeline stages (1F1B).", **_COUNTED)]
Fit = Annotated[
    str | None,
    _option(
        panel=_FIT, metavar="NAME|SIZE", help="The largest micro-batch on h100, a100, … or in 24GiB; exit 1 if none."
    ),
]
Reserve = Annotated[
    float,
    _option(panel=_FIT, parser=reader(_reserve), metavar="SHARE", help="Of it kept free for what is not counted."),
]
