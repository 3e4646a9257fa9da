"""Which rows a step that was not finite has to do with."""

import torch
from torch import Tensor

from dlkit.nn.fit import Diverged
from dlkit.nn.job import Job
from dlkit.nn.state import State

MOST = 5


def with_rows(job: Job, state: State, failure: Diverged) -> Diverged:
    """The failure with the rows of its step: those whose own loss is not finite, or all of them where that is none."""
    start = (failure.step - 1) % len(job.train) * job.train.batch_size
    at = job.train.order(failure.epoch)[start : start + job.train.batch_size]
    guilty = at[_not_finite(job, state, at, failure.epoch)]
    chosen = guilty if 0 < len(guilty) < len(at) else at
    names = [job.dataset.where(int(job.split.train[i])) for i in chosen[:MOST]]
    listed = ", ".join(names) + (f" and {len(chosen) - MOST} more" if len(chosen) > MOST else "")
    whose = "its loss is that of" if chosen is guilty else "its rows are"
    return Diverged(failure.step, failure.epoch, failure.lr, failure.peak, f"; {whose} {listed}")


@torch.inference_mode()
def _not_finite(job: Job, state: State, at: Tensor, epoch: int) -> Tensor:
    """For each row whether its loss is not finite under the weights as they are, B bool."""
    was_training = state.model.training
    state.model.eval()
    losses = []
    for part in at.to(job.train.x.device).split(job.valid.batch_size):  # as many as an evaluation has room for
        x, y = (values.to(job.device) for values in job.train.take(part, epoch))
        output = state.model(job.train.normalise(x) if job.train.normalise else x).float()
        losses += [job.objective.total(output[i : i + 1], y[i : i + 1]) for i in range(len(y))]
    state.model.train(was_training)
    return ~torch.isfinite(torch.stack(losses)).cpu()
