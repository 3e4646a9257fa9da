"""A data set, a network and a split, made ready for training: where `train` and `lrfind` begin."""

from dataclasses import replace

from dlkit.core.job import JobOptions
from dlkit.core.recipe import Recipe
from dlkit.data import is_text
from dlkit.nn.job import Job, prepare_rows
from dlkit.nn.loader import at_once
from dlkit.nn.ranks import ALONE, Ranks
from dlkit.nn.text import prepare_text


def prepare(options: JobOptions, recipe: Recipe, ranks: Ranks = ALONE, shard: bool = False) -> Job:
    """Read and split the data, fit what it needs on the training side alone, and check that the network fits it."""
    ready = prepare_text if is_text(options.data) else prepare_rows
    job = ready(options, recipe, ranks, shard)
    return replace(job, valid=job.valid.resized(at_once(job.train.batch_size, recipe.accumulate)))
