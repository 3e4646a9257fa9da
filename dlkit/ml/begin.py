"""How a board begins: what is cheap first, so that a file that is not there is an error at once."""

import multiprocessing as mp
from pathlib import Path
from typing import Any

from dlkit.core.contest import Contest
from dlkit.core.result import Result

LARGE_BYTES = 4 << 20
"""A file of so many bytes takes as long to read as the libraries take to load: both at a time."""


def board(contest: Contest, started: float) -> Result:
    """Read the data, then load scikit-learn, here and in the server that forks the processes of trials.

    started  when the command began (`time.monotonic`): the budget counts from there
    """
    from dlkit.data import load

    path = Path(contest.data)
    is_large = path.is_file() and path.stat().st_size >= LARGE_BYTES
    if is_large:
        warm_up()
    dataset = load(contest.data, contest.splitting.reading(contest.reading), texts=True)
    if not is_large:
        warm_up()
    from dlkit.ml.baseline import answer

    return answer(contest, dataset, started)


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
