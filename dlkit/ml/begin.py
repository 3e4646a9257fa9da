"""How a board begins: what is cheap first, so that a file that is not there is an error at once."""

import multiprocessing as mp
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dlkit.core.contest import Contest
from dlkit.core.result import Result
from dlkit.core.run import RunDirectory
from dlkit.ml.embedding import Embedding, rows_of, told

LARGE_BYTES = 4 << 20
"""A file of so many bytes takes as long to read as the libraries take to load: both at a time."""


def board(contest: Contest, started: float, open_network: Callable[[str], Embedding]) -> Result:
    """Read the data, then load scikit-learn, here and in the server that forks the processes of trials.

    started       when the command began (`time.monotonic`): the budget counts from there
    open_network  what opens the run that `contest.embed` names
    """
    RunDirectory.check_free(contest.out)
    embedding = None
    if contest.embed is not None:
        embedding = open_network(contest.embed)
        contest = told(contest, embedding.run)
    path = Path(contest.data)
    is_large = path.is_file() and path.stat().st_size >= LARGE_BYTES
    if is_large:
        warm_up()
    dataset = rows_of(contest, embedding)
    if not is_large:
        warm_up()
    from dlkit.ml.baseline import answer

    return answer(contest, dataset, started, embedding)


def context() -> Any:
    """Forked from a server with the libraries loaded and no threads; where the system has no such thing, spawned."""
    method = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
    found = mp.get_context(method)
    if method == "forkserver":
        found.set_forkserver_preload(["dlkit.ml.trial"])
    return found


def warm_up() -> None:
    """Start the server, and do not wait for it."""
    if context().get_start_method() == "forkserver":
        from multiprocessing.forkserver import ensure_running

        ensure_running()
