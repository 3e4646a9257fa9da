"""The server that forks the processes of trials: it loads the libraries while this process still reads the data."""

import multiprocessing as mp
from typing import Any


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
