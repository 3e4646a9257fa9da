"""`--batch-size auto`: the most rows of a step that memory holds."""

from collections.abc import Callable
from dataclasses import replace

import torch

from dlkit.core import console
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.footprint import parts, total
from dlkit.core.machine import free_bytes
from dlkit.core.units import binary
from dlkit.nn.device import release, seed_step, synchronize
from dlkit.nn.estimate import counted, own_parts, planned, with_own
from dlkit.nn.job import Job
from dlkit.nn.loader import Batches, at_once
from dlkit.nn.objective import evaluate
from dlkit.nn.schedule import Rates
from dlkit.nn.step import Stepper, is_out_of_memory

ROOM, SHARE = 0.95, 0.5
"""Of the free memory, what a step may take that was tried, and what one may that was only estimated: the estimate has
neither the loss nor what an operation needs while it runs, and was a third too low for a small GPT."""
FINE = 8
"""The answer is no more than an eighth below the first that does not fit."""
FEW_STEPS = 16
"""Steps an epoch below which it is said that there are few."""


def settle(job: Job) -> Job:
    """The job with the largest batch that fits, and a note on why that is so; `batch_found` says it too.

    On a GPU steps are taken, and an evaluation of four times a micro-batch's rows; elsewhere memory that is
    overdrawn ends other programs, so that there the estimate of `dlkit memory` is held against what is free.
    """
    if not job.ranks.alone:
        raise DlkitError("--batch-size auto is for one process", "find the size with one, and give N times that to N")
    size, why = _tried(job) if job.device.type == "cuda" else _estimated(job)
    found = replace(job.with_batch(size), batch_found=why)
    console.note(f"--batch-size {size}: {why}{_few(found.train, job.train)}")
    return found


def _few(found: Batches, usual: Batches) -> str:
    """What a large batch takes from the training, where it is much."""
    steps = len(found)
    if steps >= FEW_STEPS or steps >= len(usual):
        return ""
    return (
        f"; an epoch is {steps} step{'s' * (steps > 1)}, with --batch-size {usual.batch_size} it would be {len(usual)}"
    )


def largest(fits: Callable[[int], bool], first: int, most: int) -> tuple[int, int | None]:
    """The largest batch that was found to fit, and the smallest that was found not to: doubled from `first` on, up to
    `most`, then halved between the two until they are an eighth apart. Where not even the first fits: 0."""
    size, beyond, rows = 0, None, first
    while size < most and beyond is None:
        rows = min(rows, most)
        if fits(rows):
            size, rows = rows, 2 * rows
        else:
            beyond = rows
    while size and beyond and beyond - size > max(size // FINE, 1):
        middle = (size + beyond) // 2
        if middle - middle % 8 > size:
            middle -= middle % 8  # what matrix units like
        if fits(middle):
            size = middle
        else:
            beyond = middle
    return size, beyond


def _first(job: Job) -> int:
    """The smallest batch to try: batch norm has no variance in a micro-batch of one row."""
    return min(2 * job.recipe.accumulate, job.train.rows)


def _none(job: Job, of: str) -> DlkitError:
    message = f"--batch-size auto: not even {_first(job)} rows a step fit in {of}"
    return DlkitError(message, "try --precision bf16, --checkpoint-activations or a smaller network", ExitCode.NO)


# By trying -----------------------------------------------------------------------------------------------------------


class _Step(Stepper):
    """A step that ends where memory runs out, as training does not: it would go on in smaller parts."""

    def _halve(self, rows: int, most: int, device: torch.device) -> None:
        raise MemoryError


class Trial:
    """Steps of a network that is thrown away, with a rate of 0. `peaks`: bytes allocated at most, by batch size."""

    def __init__(self, job: Job, room: float) -> None:
        self.job, self.room = job, room
        self.step = _Step(job.model(job.options.seed), job.objective, job.recipe)
        self.peaks: dict[int, int] = {}

    def fits(self, rows: int) -> bool:
        """Whether two steps and an evaluation find room: moments and averages are there from the second step on."""
        cuda = self.job.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.job.device)
        ran = self._runs(self.job.with_batch(rows))
        self.peaks[rows] = torch.cuda.max_memory_allocated(self.job.device) if cuda else 0
        self.step.clear()
        release(self.job.device)
        return ran and self.peaks[rows] <= self.room

    def _runs(self, job: Job) -> bool:
        try:
            self.step.model.train()
            for _ in range(2):
                batch = next(iter(job.train.shuffled(0)))
                seed_step(job.device, 0)
                self.step(batch, Rates(0.0))
            evaluate(self.step.judged, job.valid.head(job.valid.batch_size), job.objective)
            synchronize(job.device)
        except (RuntimeError, MemoryError) as failure:
            if not is_out_of_memory(failure):
                raise
        else:
            return True
        return False  # outside of the handler: the exception's traceback holds the activations


def _tried(job: Job) -> tuple[int, str]:
    """(batch size, why) by steps on the GPU."""
    free, _ = torch.cuda.mem_get_info(job.device)
    held = torch.cuda.memory_allocated(job.device)
    whole = free + torch.cuda.memory_reserved(job.device)
    trial = Trial(job, ROOM * whole)
    size, beyond = largest(trial.fits, _first(job), job.train.rows)
    if not size:
        raise _none(job, f"the {binary(whole - held)} that are free on {job.device}")
    peak = trial.peaks[size]
    del trial
    release(job.device)
    what = f"a step of {beyond:,} rows does not fit" if beyond else f"all {size:,} training rows fit in one step"
    return size, f"{what}; at most {binary(peak)} of {binary(whole)} are taken"


# By estimating -------------------------------------------------------------------------------------------------------


def _estimated(job: Job) -> tuple[int, str]:
    """(batch size, why) by the calculators' count against the free memory of this machine."""
    free = free_bytes()
    if free is None:
        raise _unknown("how much memory is free is not known on this machine")
    taken = estimate(job)
    size, beyond = largest(lambda rows: taken(rows) <= SHARE * free, _first(job), job.train.rows)
    if not size:
        raise _none(job, f"{SHARE:.0%} of the {binary(free)} that are free")
    what = f"all {size:,} training rows fit in one step"
    if beyond:
        what = f"a step of {beyond:,} rows would take more than {SHARE:.0%} of what is free"
    return size, f"{what}; it takes about {binary(taken(size))} of {binary(free)}"


def estimate(job: Job) -> Callable[[int], int]:
    """Bytes of a step by its rows; or of the evaluation of four micro-batches' worth, where that is known and more."""
    model, own = counted(job), own_parts(job)

    def taken(rows: int) -> int:
        found = with_own(parts(model, planned(job, rows)), own)
        unknown = [part.component for part in found if part.bytes is None]
        if unknown:
            raise _unknown(f"the {unknown[0]} of this network are not known")
        there = sum(part.bytes or 0 for part in found if part.component in ("optimiser states", "averaged weights"))
        evaluated = planned(job, rows)._replace(inference=True, batch=at_once(rows, job.recipe.accumulate))
        return max(total(found), there + total(parts(model, evaluated)))

    return taken


def _unknown(why: str) -> DlkitError:
    return DlkitError(f"--batch-size auto: {why}", "give a number, such as --batch-size 128")
