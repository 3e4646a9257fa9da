"""`train --dry-run`: what a run would be, would take and would need, without making one."""

import time
from itertools import count
from typing import Any

import torch
from torch import nn

from dlkit.core.compute import Counting, exact
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.footprint import Part, Plan, parts, total
from dlkit.core.graph import Graph, Step, walk
from dlkit.core.layers import Shape
from dlkit.core.model import Measured, Walked
from dlkit.core.recipe import Recipe
from dlkit.core.result import Column, Result, Row
from dlkit.nn import live, live_costs, live_memory
from dlkit.nn.device import describe, synchronize
from dlkit.nn.job import Job
from dlkit.nn.objective import evaluate
from dlkit.nn.optimizer import hidden_matrices
from dlkit.nn.own import kind_of
from dlkit.nn.trace import trace
from dlkit.nn.train import begin

WARM, MOST, ENOUGH = 3, 30, 2.0
"""Steps before the clock starts, the most that it times, and the seconds after which it has seen enough."""


def dry_run(job: Job) -> Result:
    """The network layer by layer, and in the summary the costs of a run. Nothing is written."""
    columns = [Column("layer"), Column("op"), Column("output", "shape"), Column("params", "int"), Column("macs", "si")]
    facts = [
        *(
            Column("params", "int"),
            Column("trainable_params", "int", "to train"),
            Column("step_flops", "flops", "a step"),
            Column("memory_bytes", "bytes", "memory"),
        ),
        *(Column("batch_size", "int", "batch"), Column("steps", "int"), Column("seconds", "seconds", "about")),
        *(Column("samples_per_second", "int", "samples/s"), Column("device")),
    ]
    plan = planned(job, job.train.batch_size)
    rows, flops, found, notes = _of_text(job, job.graph, plan) if isinstance(job.graph, Graph) else ([], None, [], [])
    if job.own or job.trained != job.params:
        more, flops, found, notes = _of_module(job, plan)
        rows = rows or more
    found = with_own(found, own_parts(job)) if found else found
    a_step, a_row, an_evaluation = _timed(job)
    total_steps = job.recipe.epochs * len(job.train)
    summary: dict[str, Any] = {
        "network": str(job.graph),
        "params": job.params,
        "trainable_params": job.trained,
        "step_flops": None if flops is None else flops * job.train.batch_size,
        "memory_bytes": total(found) if found else None,
        "memory": {part.component: part.bytes for part in found},
        "batch_size": job.train.batch_size,
        "epochs": job.recipe.epochs,
        "steps": total_steps,
        "seconds": total_steps * a_step + job.recipe.epochs * an_evaluation,
        "samples_per_second": 1 / a_row,
        "device": describe(job.device),
    }
    unknown = [part.component for part in found if part.bytes is None]
    notes += [f"memory is without {', '.join(unknown)}"] if unknown else []
    return Result(columns, rows, summary, "seconds", facts, notes=[*notes, "a dry run: nothing was trained or written"])


Costs = tuple[list[Row], int | None, list[Part], list[str]]
"""Rows of the network, FLOPs of a sample's step, components of memory, and notes; None or none where unknown."""


def _of_text(job: Job, graph: Graph, plan: Plan) -> Costs:
    """By the walk over the graph."""
    steps = walk(graph, job.schema.input_shape)
    count = exact(steps, None, Counting(recompute=plan.checkpoint)).total()
    flops = count.forward + count.backward + count.recompute
    return _rows(steps), flops, parts(Walked(graph, steps, None), plan), []


def _rows(steps: list[Step]) -> list[Row]:
    return [
        {"layer": s.name, "op": s.text, "output": list(s.output), "params": s.params, "macs": s.macs} for s in steps
    ]


def _children(model: nn.Module) -> list[Row]:
    """What is known of a module that was not run: its parts and their parameters."""
    params = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    return [
        {"layer": name, "op": type(child).__name__, "output": None, "params": params[name], "macs": None}
        for name, child in model.named_children()
    ]


def _of_module(job: Job, plan: Plan) -> Costs:
    """By running the very module forward and backward on the meta device: what is frozen, or adapters, count as they
    are. Recomputation is another forward pass. One that needs numbers cannot be run there."""
    try:
        with live.users_code("costs are not known", ExitCode.USAGE):
            run = live_costs.measured(*_fresh(job))
            held = parts(live_memory.measured(*_fresh(job), (), plan), plan)
            rows = _rows(trace(*_fresh(job)).steps) if job.own else []
    except DlkitError as failure:
        return _children(_fresh(job)[0]), None, [], [failure.message, *([failure.hint] if failure.hint else [])]
    again = job.recipe.checkpoint_activations
    flops = 2 * ((1 + again) * sum(run.forward.values()) + sum(run.backward.values()))
    return rows, flops, held, []


def _fresh(job: Job) -> tuple[nn.Module, Shape, torch.dtype]:
    """A network of the job's, and what a sample of its input is."""
    dtype = torch.float32 if kind_of(job.schema) == "numbers" else torch.int64
    return job.model(job.options.seed).cpu(), job.schema.input_shape, dtype


def counted(job: Job) -> Walked | Measured:
    """What the footprint counts: the graph; the module itself where it is the user's own or does not learn as a whole.
    One that cannot be run on the meta device: exit code 2."""
    if isinstance(job.graph, Graph) and job.trained == job.params:
        return Walked(job.graph, walk(job.graph, job.schema.input_shape), None)
    with live.users_code("memory is not known", ExitCode.USAGE):
        return live_memory.measured(*_fresh(job), (), planned(job, 1))


def planned(job: Job, rows: int) -> Plan:
    """The footprint's plan of a step of so many rows."""
    recipe = job.recipe
    precision = "fp32" if recipe.precision == "tf32" else recipe.precision
    states = _states(recipe)
    checkpoint = "full" if recipe.checkpoint_activations else "none"
    micro = -(-rows // recipe.accumulate)
    return Plan(precision=precision, optimizer=states, batch=micro, checkpoint=checkpoint)


def _states(recipe: Recipe) -> str:
    """The footprint's optimiser that keeps as many numbers for a parameter."""
    if recipe.optimizer == "sgd":
        return "sgd" if recipe.momentum == 0 else "momentum"
    if recipe.optimizer == "rmsprop":
        return "adam" if recipe.momentum else "momentum"
    return recipe.optimizer


def own_parts(job: Job) -> dict[str, int]:
    """Bytes of components that are training's own affair: of an average of the weights, and of states where Muon and
    AdamW share the weights."""
    if job.recipe.optimizer != "muon" and job.recipe.ema is None and job.recipe.swa is None:
        return {}
    model = _fresh(job)[0]
    trained = [p for p in model.parameters() if p.requires_grad]
    found = {}
    if job.recipe.optimizer == "muon":
        inside = hidden_matrices(model)
        found["optimiser states"] = sum(p.nbytes * (1 if id(p) in inside else 2) for p in trained)
    if job.recipe.ema is not None or job.recipe.swa is not None:
        found["averaged weights"] = sum(p.nbytes for p in model.parameters())
    return found


def with_own(found: list[Part], own: dict[str, int]) -> list[Part]:
    """The footprint's components with what is training's own in their place, or behind them."""
    known = [part._replace(bytes=own.get(part.component, part.bytes)) for part in found]
    return known + [Part(name, size) for name, size in own.items() if name not in {part.component for part in found}]


def _timed(job: Job) -> tuple[float, float, float]:
    """Seconds of a step, of a row in it and of an evaluation, on a network that is thrown away."""
    state = begin(job)
    state.model.train()
    seen, rows, started = 0, 0, time.perf_counter()
    batches = (batch for epoch in count(1) for batch in job.train.shuffled(epoch))
    for i, batch in enumerate(batches, 1):
        state.stepper(batch, state.plan(i - 1))
        if i == WARM:
            synchronize(job.device)
            seen, rows, started = 0, 0, time.perf_counter()
            continue
        seen, rows = seen + 1, rows + len(batch.y)
        if seen == MOST or time.perf_counter() - started > ENOUGH:
            break
    synchronize(job.device)
    taken = time.perf_counter() - started
    started = time.perf_counter()
    evaluate(state.stepper.judged, job.valid, job.objective)
    synchronize(job.device)
    return taken / seen, taken / rows, time.perf_counter() - started
