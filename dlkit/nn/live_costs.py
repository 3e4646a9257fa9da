"""`flops` of a module of the user's own: forward and backward counts of its children, by running both on meta."""

from collections import Counter
from collections.abc import Container, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import nn

from dlkit.core import costs
from dlkit.core.compute import Count, Counting, Part
from dlkit.core.costs import Amount, Counted
from dlkit.core.effect import refuse
from dlkit.core.errors import DlkitError, nearest
from dlkit.core.hardware import Job
from dlkit.core.layers import Shape
from dlkit.core.result import Result
from dlkit.nn import live
from dlkit.nn.memory import FAILURES, Saved, saved
from dlkit.nn.passes import Passes, passes
from dlkit.nn.trace import BATCHES, input_dtype, on_meta, plain, sample

IN_THE_LANGUAGE = "for a module of your own, which is counted as it runs"


class Measured(NamedTuple):
    """One sample through a module. Counts are of MACs, by inner module; `saved` is None where it cannot be said."""

    module: nn.Module
    forward: dict[str, int]
    backward: dict[str, int]
    saved: Saved | None
    uncounted: Counter[str]
    training: bool
    positions: int | None


def flops(
    words: list[str],
    dtype: str | None,
    amount: Amount,
    how: Counting,
    job: Job,
    depth: int | None,
    said: Container[str],
) -> Result:
    """The answer of `flops` for SHAPE MODULE."""
    refuse(said, ["--context"], IN_THE_LANGUAGE, "its context is the input's shape: dlkit flops 1024 net.py:GPT")
    refuse(said, ["--recompute", "--convention", "--causal-skip", "--explain"], IN_THE_LANGUAGE)
    found = live.run(words, dtype, lambda module, shape, kind: measured(module, shape, kind, how.freeze))
    answer = costs.result(_counted(found, depth), amount, how, "dlkit", job, said)
    answer.summary["uncounted"] = dict(found.uncounted)
    answer.summary["activation_bytes"] = _whole(found.saved)
    answer.notes += notes(found)
    return answer


def notes(found: Measured) -> list[str]:
    """That code was run, what is not counted, and how the module was run."""
    lines = [live.RAN]
    if found.uncounted:
        listed = ", ".join(f"{name} {times}" for name, times in found.uncounted.most_common())
        lines.append(f"no FLOPs are counted for: {listed}")
    if not found.training:
        lines.append("its forward fails in training mode: counted in evaluation mode")
    return lines


def measured(module: nn.Module, shape: Shape, dtype: torch.dtype | None, freeze: Sequence[str] = ()) -> Measured:
    """Run `module` forward and backward with batches of 2 and 3, what belongs to a sample being the difference."""
    module = on_meta(module)
    freeze_parameters(module, freeze)
    dtype = dtype or input_dtype(module)
    samples = [sample(batch, shape, dtype) for batch in BATCHES]
    runs, training = _runs(module, samples)
    two, three = runs
    return Measured(
        module,
        _of_one(two.forward, three.forward),
        _of_one(two.backward, three.backward),
        saved(module, samples) if training else None,
        _plain(two.uncounted),
        training,
        shape[0] if dtype == torch.int64 and len(shape) == 1 else None,
    )


def _runs(module: nn.Module, samples: list[torch.Tensor]) -> tuple[list[Passes], bool]:
    try:
        return [passes(module.train(), each) for each in samples], True
    except FAILURES:
        return [passes(module.eval(), each) for each in samples], False


def _of_one(two: Counter[str], three: Counter[str]) -> dict[str, int]:
    return {path: 2 * two[path] - three[path] for path in [*two, *(set(three) - set(two))]}


def _plain(uncounted: Counter[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, times in uncounted.items():
        found[plain(name)] += times
    return found


def freeze_parameters(module: nn.Module, patterns: Sequence[str]) -> None:
    """Take the gradient from the parameters under each child, or with each name, that matches a pattern."""
    names = dict(module.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        hits = [name for name in names if any(fnmatchcase(path, pattern) for path in _paths(name))]
        if not hits:
            known = list(dict.fromkeys(path for name in names for path in _paths(name)))
            raise DlkitError(f"--freeze {pattern!r} matches no child and no parameter: {nearest(pattern, known)}")
        for name in hits:
            names[name].requires_grad_(False)


def _paths(name: str) -> list[str]:
    """A parameter's name and the paths of the modules that it is in: layer1.0.weight, layer1, layer1.0."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


# Rows -----------------------------------------------------------------------------------------------


def _counted(found: Measured, depth: int | None) -> Counted:
    owned = _owned(found.module)
    keys = _groups(list(dict.fromkeys([*found.forward, *found.backward, *owned, *_kept(found.saved)])), depth)
    parts: dict[str, Part] = {}
    extra: dict[str, dict[str, Any]] = {}
    for path, key in keys.items():
        params, frozen = owned.get(path, (0, 0))
        title = _title(key, found.module)
        part = Part(title, params, params, 2 * found.forward.get(path, 0), 2 * found.backward.get(path, 0))
        parts[title] = parts[title].plus(part) if title in parts else part
        row = extra.setdefault(title, {"frozen_params": 0, "activation_bytes": None if found.saved is None else 0})
        row["frozen_params"] += frozen
        if found.saved is not None:
            row["activation_bytes"] += _kept(found.saved).get(path, 0)
    params, frozen = (sum(values) for values in zip(*owned.values(), strict=True)) if owned else (0, 0)
    extra["total"] = {"frozen_params": frozen, "activation_bytes": _whole(found.saved)}
    count = Count(list(parts.values()), "sample", found.positions)
    return Counted(count, params, params, frozen, extra=extra)


def _kept(found: Saved | None) -> dict[str, int]:
    """Bytes of a batch of one, by inner module."""
    return {} if found is None else {path: found.each[path] + found.fixed[path] for path in found.each}


def _whole(found: Saved | None) -> int | None:
    return None if found is None else sum(_kept(found).values())


def _owned(module: nn.Module) -> dict[str, tuple[int, int]]:
    """The parameters of each inner module, shared ones with the first, and how many of them are frozen."""
    found: dict[str, tuple[int, int]] = {}
    for name, parameter in module.named_parameters():
        path = name.rpartition(".")[0]
        params, frozen = found.get(path, (0, 0))
        found[path] = params + parameter.numel(), frozen + parameter.numel() * (not parameter.requires_grad)
    return found


def _groups(paths: list[str], depth: int | None) -> dict[str, str]:
    """The child that each path is counted with: `depth` levels down, 0 for all; unless given, the first that divide."""
    deepest = max((path.count(".") + 1 for path in paths), default=1)
    if depth is None:
        levels = range(1, deepest + 1)
        depth = next((level for level in levels if len({_cut(path, level) for path in paths}) > 1), deepest)
    return {path: _cut(path, depth or deepest) for path in paths}


def _cut(path: str, depth: int) -> str:
    return ".".join(path.split(".")[:depth])


def _title(path: str, module: nn.Module) -> str:
    """A child by its path and class; what the module's own forward does by the module's class."""
    if not path:
        return f"({type(module).__name__}'s own forward)"
    return f"{path}: {type(module.get_submodule(path)).__name__}"
