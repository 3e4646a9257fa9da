"""Where trials run: each in a process of its own that is killed when it outruns its time, or on a Dask cluster.

Both have the same four methods: `free` slots, `start` a trial with its seconds, `wait` for outcomes until a moment of
`time.monotonic`, `stop` whatever still runs.
"""

import multiprocessing as mp
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from dlkit.ml import persist
from dlkit.ml.begin import context
from dlkit.ml.engine import Engine
from dlkit.ml.trial import Data, Outcome, Stored, Trial, finish, run

LOOK_SECONDS = 0.2
"""How often the memory of what runs is looked at."""


@dataclass(eq=False)
class _Running:
    trial: Trial
    process: Any
    connection: Connection
    started: float
    deadline: float


class Processes:
    """The processes of this machine, one trial each."""

    def __init__(self, data: Stored, count: int, memory: int | None = None) -> None:
        """memory  bytes that all trials together may hold: beyond that the largest is killed"""
        self.data, self.count, self.memory = data, count, memory
        self._context = context()
        self._running: list[_Running] = []

    def free(self) -> int:
        return self.count - len(self._running)

    def busy(self) -> bool:
        return bool(self._running)

    def start(self, trial: Trial, seconds: float) -> None:
        self.submit(trial, seconds, run, trial, self.data)

    def submit(self, trial: Trial, seconds: float, function: Callable[..., Any], *arguments: Any) -> None:
        """`function(*arguments)` as the work of a trial; both must be importable or picklable."""
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(theirs, function, arguments), daemon=True)
        process.start()
        theirs.close()
        now = time.monotonic()
        self._running.append(_Running(trial, process, ours, now, now + seconds))

    def wait(self, until: float) -> list[tuple[Trial, Outcome]]:
        """What is done, at least one trial of those that run, unless `until` comes first."""
        while self._running:
            done: list[tuple[_Running, Outcome]] = []
            for look in (lambda: self._ready(until), self._overdue, self._too_large):
                found = look()
                for one, _ in found:
                    self._end(one)  # at once: what has an outcome must not be given another
                done += found
            if done or time.monotonic() >= until:
                return [(one.trial, outcome) for one, outcome in done]
        return []

    def stop(self) -> None:
        """Kill what still runs."""
        for one in list(self._running):
            self._end(one)

    def _ready(self, until: float) -> list[tuple[_Running, Outcome]]:
        """What has something to say, or has died, by the next deadline or look."""
        next_deadline = min(until, min(one.deadline for one in self._running))
        seconds = max(min(next_deadline - time.monotonic(), LOOK_SECONDS), 0)
        ready = wait([one.connection for one in self._running], seconds)
        return [(one, self._collect(one)) for one in self._running if one.connection in ready]

    def _collect(self, one: _Running) -> Outcome:
        try:
            return one.connection.recv()  # type: ignore[no-any-return]
        except (EOFError, OSError):  # before it said anything, or within a word
            one.process.join()
            code = one.process.exitcode or 0
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return Outcome(problem=f"its process died ({name}){': out of memory?' if code == -signal.SIGKILL else ''}")

    def _overdue(self) -> list[tuple[_Running, Outcome]]:
        now = time.monotonic()
        late = [one for one in self._running if now >= one.deadline and not one.connection.poll()]
        return [(one, outran(now - one.started)) for one in late]

    def _too_large(self) -> list[tuple[_Running, Outcome]]:
        if self.memory is None or not self._running:
            return []
        held = {one: _held(one.process.pid) for one in self._running}
        if sum(held.values()) <= self.memory:
            return []
        largest = max(held, key=lambda one: held[one])
        problem = f"killed: it held {held[largest] / 2**30:.1f} GiB of memory, more than is free"
        return [(largest, Outcome(problem=problem))]

    def _end(self, one: _Running) -> None:
        self._running.remove(one)
        one.process.kill()
        one.process.join()
        one.process.close()
        one.connection.close()


OUTRAN = "killed after"


def outran(seconds: float) -> Outcome:
    return Outcome(fit_seconds=seconds, problem=f"{OUTRAN} {seconds:.1f} s")


def _held(pid: int) -> int:
    """Bytes of a process that nobody else has: what is mapped from a file is shared. 0 where the system is silent."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def _work(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """In the process of a trial."""
    _obey()
    connection.send(function(*arguments))


def _obey() -> None:
    """Ctrl-C is the parent's to answer, and a parent that is gone ends its children."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Finisher:
    """The process of the final fit, which stands by with all it needs: when it is called there is no time to load."""

    def __init__(self, data: Stored, path: Path) -> None:
        self._connection, theirs = context().Pipe()
        self._process = context().Process(target=_stand_by, args=(theirs, data, path), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Finisher":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()

    def finish(self, trial: Trial, seconds: float) -> Outcome:
        """Fit on all rows and write the model's file, or be killed."""
        try:
            self._connection.send(trial)
            if self._connection.poll(seconds):
                return self._connection.recv()  # type: ignore[no-any-return]
        except (EOFError, OSError):
            return Outcome(problem="its process died: out of memory?")
        return outran(seconds)


def _stand_by(connection: Connection, data: Stored, path: Path) -> None:
    _obey()
    persist.get_ready()
    try:
        connection.send(finish(connection.recv(), data, path))
    except EOFError:  # not needed after all
        return


class Cluster:
    """A Dask cluster, through joblib: trials go out in batches. What outruns its time is abandoned, not killed."""

    def __init__(self, data: Data, engine: Engine) -> None:
        self.data, self.engine = data, engine
        self.count = 2 * engine.processes
        self._next: list[tuple[Trial, float]] = []
        self._out: dict[Trial, float] = {}
        self._results: queue.Queue[tuple[Trial, Outcome] | BaseException] = queue.Queue()

    def free(self) -> int:
        return 0 if self._out else self.count - len(self._next)

    def busy(self) -> bool:
        return bool(self._out or self._next)

    def start(self, trial: Trial, seconds: float) -> None:
        self._next.append((trial, time.monotonic() + seconds))

    def wait(self, until: float) -> list[tuple[Trial, Outcome]]:
        if not self._out:
            self._send()
        limit = min(until, max(self._out.values()))
        try:
            first = self._results.get(timeout=max(limit - time.monotonic(), 0.01))
        except queue.Empty:
            late, self._out = list(self._out), {}
            self._results = queue.Queue()  # what may still come is nobody's
            return [(trial, Outcome(problem="abandoned: over its share of the budget")) for trial in late]
        if isinstance(first, BaseException):
            raise first
        self._out.pop(first[0], None)
        return [first]

    def stop(self) -> None:
        self._next, self._out = [], {}

    def _send(self) -> None:
        trials = [trial for trial, _ in self._next]
        self._out, self._next = dict(self._next), []
        threading.Thread(target=self._map, args=(trials, self._results), daemon=True).start()

    def _map(self, trials: list[Trial], results: "queue.Queue[tuple[Trial, Outcome] | BaseException]") -> None:
        try:
            for trial, outcome in zip(trials, self.engine.map(run, trials, self.data), strict=True):
                results.put((trial, outcome))
        except Exception as failure:  # noqa: BLE001  handed to the thread that waits
            results.put(failure)
