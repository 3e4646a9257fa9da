"""The parameters and MACs of a sequence layer as formulas with their numbers; `explain` adds the results."""

from math import prod

from dlkit.core.columns import Columns
from dlkit.core.graph import Step
from dlkit.core.layers import Shape
from dlkit.core.sequence import (
    Attention,
    CrossAttention,
    Embed,
    GatedMlp,
    LmHead,
    Mlp,
    Moe,
    PatchMerge,
    Positions,
    Recurrent,
    Segments,
    WindowAttention,
)


def params(step: Step) -> str:
    """For example "2·768·(768 + 768) + 768 + 2·768 + 768"; empty where there is no formula."""
    layer, x = step.layer, step.inputs[0]
    match layer:
        case Embed():
            return f"{layer.num_embeddings}·{layer.embedding_dim}"
        case Positions():
            return f"{layer.max_length or x[0]}·{x[1]}"
        case Segments():
            return f"{layer.types}·{x[1]}"
        case Attention():
            return _attention_params(layer, x)
        case Mlp() | GatedMlp():
            times = _matrices(layer)
            biases = f" + {f'{times - 1}·' if times > 2 else ''}{layer.hidden} + {x[-1]}" if layer.bias else ""
            return f"{times}·{x[-1]}·{layer.hidden}{biases}"
        case Moe():
            return f"{x[-1]}·{layer.experts} + {layer.experts}·{_expert(layer, x)}"
        case LmHead():
            own = [f"{layer.vocab}·{x[-1]}"] * (not layer.tie) + [str(layer.vocab)] * layer.bias
            return " + ".join(own)
        case Recurrent():
            return _recurrent(layer, x, f" + 2·{layer.num_layers}" if layer.bias else "")
        case WindowAttention():
            return f"4·{x[2]}·({x[2]}{' + 1' * layer.bias}) + (2·{layer.window} − 1)²·{layer.heads}"
        case Columns():
            numbers, categories = layer.split(x)
            return f"{layer.embedding_dim}·({len(numbers)}·({layer.bins} + 1) + {sum(map(len, categories))})"
        case PatchMerge():
            return f"4·{x[2]}·2·{x[2]} + 2·4·{x[2]}"
    return ""


def macs(step: Step) -> str:
    """For example "1024·2·768·(768 + 768) + 2·1024·1024·768"; empty where there is no formula."""
    layer, x, y = step.layer, step.inputs[0], step.output
    match layer:
        case Attention():
            return " + ".join(attention_macs(layer, x))
        case Mlp() | GatedMlp():
            return f"{prod(x[:-1])}·{_matrices(layer)}·{x[-1]}·{layer.hidden}"
        case Moe():
            return f"{prod(x[:-1])}·({x[-1]}·{layer.experts} + {layer.top}·{_expert(layer, x)})"
        case LmHead():
            return f"{prod(x)}·{layer.vocab}"
        case Recurrent():
            return f"{x[0]}·{_recurrent(layer, x)}"
        case WindowAttention():
            return f"{layer.padded(x)}·(4·{x[2]}² + 2·{layer.window}²·{x[2]})"
        case Columns():
            numbers, categories = layer.split(x)
            tables = f"{sum(map(len, categories))}·{len(categories)}"
            return f"{layer.embedding_dim}·({len(numbers)}·{layer.bins} + {tables})"
        case PatchMerge():
            return f"{prod(y[:2])}·4·{x[2]}·2·{x[2]}"
    return ""


def _attention_params(layer: Attention, x: Shape) -> str:
    query, keys = layer.widths(x)
    parts = [f"2·{x[1]}·({query} + {keys})"]
    if layer.bias:
        parts.append(f"{query} + 2·{keys}")
    if layer.bias if layer.out_bias is None else layer.out_bias:
        parts.append(str(x[1]))
    if layer.qk_norm:
        parts.append(f"2·{query // layer.heads}")
    if layer.relative and not layer.tie:
        parts.append(f"{layer.relative}·{layer.heads}")
    return " + ".join(parts)


def attention_macs(layer: Attention | WindowAttention, x: Shape) -> tuple[str, str]:
    """The projections, and the products of scores and values."""
    if isinstance(layer, WindowAttention):
        return f"{layer.padded(x)}·4·{x[2]}²", f"{layer.padded(x)}·2·{layer.window}²·{x[2]}"
    (query, keys), length = layer.widths(x), layer.shape(x)[0]
    if isinstance(layer, CrossAttention):
        projections = f"2·{x[1]}·({length}·{query} + {layer.memory}·{keys})"
    else:
        projections = f"{length}·2·{x[1]}·({query} + {keys})"
    return projections, f"2·{length}·{layer.keys(x)}·{query}"


def _matrices(layer: Mlp | GatedMlp) -> int:
    return 3 if isinstance(layer, GatedMlp) else 2


def _expert(layer: Moe, x: Shape) -> str:
    return f"{2 + layer.gated}·{x[-1]}·{layer.hidden}"


def _recurrent(layer: Recurrent, x: Shape, biases: str = "") -> str:
    hidden, depth = layer.hidden_size, layer.num_layers
    both = "·2" if layer.bidirectional else ""
    deeper = f" + {depth - 1}·{hidden}{both}" if depth > 1 else ""
    return f"{layer.gates}·{hidden}{both}·({x[1]}{deeper} + {depth}·{hidden}{biases})"
