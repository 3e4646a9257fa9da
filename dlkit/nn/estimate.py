"""`train --dry-run`: what a run would be, would take and would need, without making one."""

import time
from itertools import count
from typing import Any

from dlkit.core.compute import Counting, exact
from dlkit.core.footprint import Plan, parts, total
from dlkit.core.graph import walk
from dlkit.core.model import Walked
from dlkit.core.result import Column, Result
from dlkit.nn.device import describe, synchronize
from dlkit.nn.job import Job
from dlkit.nn.objective import evaluate
from dlkit.nn.train import begin

WARM, MOST, ENOUGH = 3, 30, 2.0
"""Steps before the clock starts, the most that it times, and the seconds after which it has seen enough."""
_STATES = {"rmsprop": "momentum", "adam": "adam", "adamw": "adamw", "muon": "muon"}


def dry_run(job: Job) -> Result:
    """The network layer by layer, and in the summary the costs of a run. Nothing is written."""
    steps = walk(job.graph, job.schema.input_shape)
    columns = [Column("layer"), Column("op"), Column("output", "shape"), Column("params", "int"), Column("macs", "si")]
    rows = [
        {"layer": s.name, "op": s.text, "output": list(s.output), "params": s.params, "macs": s.macs} for s in steps
    ]
    facts = [
        *(Column("params", "int"), Column("step_flops", "flops", "a step"), Column("memory_bytes", "bytes", "memory")),
        *(Column("batch_size", "int", "batch"), Column("steps", "int"), Column("seconds", "seconds", "about")),
        *(Column("samples_per_second", "int", "samples/s"), Column("device")),
    ]
    recompute = "full" if job.recipe.checkpoint_activations else "none"
    compute = exact(steps, None, Counting(recompute=recompute)).total()
    plan = _plan(job)
    found = parts(Walked(job.graph, steps, None), plan)
    a_step, an_evaluation = _timed(job)
    total_steps = job.recipe.epochs * len(job.train)
    summary: dict[str, Any] = {
        "network": str(job.graph),
        "params": job.params,
        "step_flops": (compute.forward + compute.backward + compute.recompute) * job.train.batch_size,
        "memory_bytes": total(found),
        "memory": {part.component: part.bytes for part in found},
        "batch_size": job.train.batch_size,
        "epochs": job.recipe.epochs,
        "steps": total_steps,
        "seconds": total_steps * a_step + job.recipe.epochs * an_evaluation,
        "samples_per_second": job.train.batch_size / a_step,
        "device": describe(job.device),
    }
    unknown = [part.component for part in found if part.bytes is None]
    notes = [f"memory is without {', '.join(unknown)}"] if unknown else []
    return Result(columns, rows, summary, "seconds", facts, notes=[*notes, "a dry run: nothing was trained or written"])


def _plan(job: Job) -> Plan:
    recipe = job.recipe
    precision = "fp32" if recipe.precision == "tf32" else recipe.precision
    states = ("sgd" if recipe.momentum == 0 else "momentum") if recipe.optimizer == "sgd" else _STATES[recipe.optimizer]
    checkpoint = "full" if recipe.checkpoint_activations else "none"
    micro = -(-job.train.batch_size // recipe.accumulate)
    return Plan(precision=precision, optimizer=states, batch=micro, checkpoint=checkpoint)


def _timed(job: Job) -> tuple[float, float]:
    """Seconds of a step and of an evaluation, on a network that is thrown away."""
    state = begin(job)
    state.model.train()
    seen, started = 0, time.perf_counter()
    batches = (batch for epoch in count(1) for batch in job.train.shuffled(epoch))
    for i, batch in enumerate(batches, 1):
        state.stepper(batch, state.plan(i - 1))
        if i == WARM:
            synchronize(job.device)
            seen, started = 0, time.perf_counter()
            continue
        seen += 1
        if seen == MOST or time.perf_counter() - started > ENOUGH:
            break
    synchronize(job.device)
    a_step = (time.perf_counter() - started) / seen
    started = time.perf_counter()
    evaluate(state.stepper.judged, job.valid, job.objective)
    synchronize(job.device)
    return a_step, time.perf_counter() - started
