"""The formulas behind the rows of `flops`, with their numbers."""

from collections import Counter
from collections.abc import Sequence

from dlkit.core import explain, explain_sequence
from dlkit.core.compute import Counting, Part, by_step, products
from dlkit.core.graph import Step
from dlkit.core.sequence import Attention, WindowAttention

_SHOWN = 3  # different layers of a component that are written out


def dense(params: int, part: Part) -> str:
    """Of a bare number of parameters: 6·N, and 2·N more where all is recomputed."""
    again = f" + recompute 2·{params}" if part.recompute else ""
    return f"forward 2·{params} + backward 4·{params}{again} = {_train(part)}"


def components(steps: Sequence[Step], how: Counting) -> dict[str, str]:
    """For each component of an exact count, its products written out, equal layers together."""
    terms: dict[str, Counter[str]] = {}
    whole: dict[str, Part] = {}
    for step, parts in zip(steps, by_step(steps, how), strict=True):
        for part in parts:
            whole[part.name] = whole[part.name].plus(part) if part.name in whole else part
            if part.forward:
                terms.setdefault(part.name, Counter())[_term(step, part, how)] += 1
    return {name: parts_formula(terms.get(name, Counter()), part) for name, part in whole.items()}


def layer(step: Step, part: Part, how: Counting) -> str:
    """Of one layer, all of its products together."""
    alone = by_step([step._replace(sources=(-1,))], how._replace(freeze=()))[0]
    terms = Counter(_term(step, each, how) for each in alone if each.forward)
    return parts_formula(terms, part)


def parts_formula(terms: Counter[str], part: Part) -> str:
    """forward 2·(12 × …) = …; backward 2·forward = …"""
    if not part.forward:
        return "no products of matrices"
    shown = [f"{times} × {term}" if times > 1 else term for term, times in list(terms.items())[:_SHOWN]]
    left = sum(list(terms.values())[_SHOWN:])
    more = f" + … ({left} layers more)" if left else ""
    texts = [f"forward 2·({' + '.join(shown)}{more}) = {part.forward}", _backward(part)]
    if part.recompute:
        texts.append(f"recomputed {part.recompute}")
    return "; ".join(texts)


def _backward(part: Part) -> str:
    less = 2 * part.forward - part.backward
    if not less:
        return f"backward 2·forward = {part.backward}"
    return f"backward 2·forward − {less} (gradients that nothing needs) = {part.backward}"


def _term(step: Step, part: Part, how: Counting) -> str:
    """The MACs of a step's part as a product."""
    layer, x = step.layer, step.inputs[0]
    if isinstance(layer, Attention | WindowAttention):
        projections, scores = explain_sequence.attention_macs(layer, x)
        if part.name != "attention scores":
            return projections
        seen = products(layer, x, how.skip_masked)
        return scores if seen == layer.product_macs(x) else f"{scores}·{seen}/{layer.product_macs(x)}"
    return explain.macs(step)


def _train(part: Part) -> int:
    return part.forward + part.backward + part.recompute
