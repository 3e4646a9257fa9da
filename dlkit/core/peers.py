"""One of several processes of a run, as the environment says: torchrun's variables, or those of `train --nproc`."""

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from dlkit.core.errors import DlkitError

REPORT, PARENT = "DLKIT_REPORT", "DLKIT_PARENT"
"""A file for the first error of any process, and a pipe that closes when the launcher is gone."""


claim: Callable[[], bool] | None = None
"""Set once the processes have met: true in the first that asks, which is the one to show its error."""


def _alone() -> None:
    """Nobody to take leave of."""


leave: Callable[[], None] = _alone
"""Takes leave of the other processes, once there are any, when this one has answered."""


class Echo(DlkitError):
    """What the first process says, in the others: it ends them, with the same exit code and without a word."""


argv: list[str] = []
"""The command line, for the processes to be started with."""


def several() -> bool:
    """Whether this process is one of several: torchrun and `--nproc` say both its number and how many there are."""
    world, rank = os.environ.get("WORLD_SIZE", ""), os.environ.get("RANK", "")
    return world.isdecimal() and rank.isdecimal() and int(world) > 1


def under_torchrun() -> bool:
    return several() and REPORT not in os.environ


def rank() -> int:
    """This process's number; 0 where it is alone."""
    return int(os.environ["RANK"]) if several() else 0


def restarted() -> bool:
    """Whether the processes were started again after one of them was killed."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def speaks() -> bool:
    """Whether this process shows its error itself: the first that has one, under torchrun. To be asked once."""
    if REPORT in os.environ:
        return False
    return claim() if claim else os.environ.get("LOCAL_RANK", "0") == "0"


def watch_parent() -> None:
    """Ask this process to stop, as SIGTERM does, when its launcher dies without a word."""
    end = os.environ.get(PARENT)
    if end:
        threading.Thread(target=_wait_for_end, args=(int(end),), daemon=True).start()


def _wait_for_end(pipe: int) -> None:
    if os.read(pipe, 1) == b"":
        os.kill(os.getpid(), signal.SIGTERM)


def report(failure: DlkitError) -> None:
    """Leave an error for the launcher, if there is one, unless another was first: the rest follows from that."""
    if REPORT not in os.environ:
        return
    body = {"message": failure.message, "hint": failure.hint, "code": int(failure.code), "context": failure.context}
    path = Path(os.environ[REPORT])
    own = path.with_name(f"{path.name}.{os.getpid()}")
    own.write_text(json.dumps(body), encoding="utf-8")
    try:
        os.link(own, path)  # whole or not at all, and only the first
    except FileExistsError:
        return
