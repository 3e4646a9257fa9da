"""Where independent fits run: over the processes of this machine, or on a Dask cluster that is already there.

Each fit gets one OpenMP and BLAS thread: with the cores busy, two threads a fit took 182 s where one took 12.
"""

import multiprocessing.resource_tracker
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import joblib
from joblib.externals.loky.backend import resource_tracker
from joblib.externals.loky.process_executor import TerminatedWorkerError
from threadpoolctl import threadpool_limits

from dlkit import __version__
from dlkit.core.errors import DlkitError, ExitCode

T = TypeVar("T")

DASK = "dask://"
FORMS = "local, local:N (processes) or dask://HOST:PORT"
# Processes that import scikit-learn are ready after about this many seconds: less work than that is done here.
START_SECONDS = 2.0
CONNECT_SECONDS = 5


class Engine:
    """Runs functions over jobs and gives the results in the order of the jobs, whatever finishes first.

    processes  how many jobs run at a time, at most: a batch of that size wastes none
    """

    def __init__(self, processes: int, backend: dict[str, Any] | None = None) -> None:
        self.processes, self._backend = processes, backend

    def map(self, function: Callable[..., T], jobs: Iterable[Any], *shared: object) -> Iterator[T]:
        """function(job, *shared) for each job, lazily. Both must be importable from a module, or picklable.

        shared  what every job needs (arrays): sent to each process once. A process may see it as read-only
        """
        todo = list(jobs)
        if self._backend is None:
            done = 0
            # What finishes soon is not worth a process: the first job tells how long the others will take.
            while todo and (self.processes == 1 or self._is_short(done, len(todo))):
                started = time.perf_counter()
                yield limited(function, todo.pop(0), *shared)
                self._seconds, done = time.perf_counter() - started, done + 1
        if todo:
            yield from self._spread(function, todo, shared)

    _seconds = 0.0

    def _is_short(self, done: int, left: int) -> bool:
        return left == 1 or done == 0 or self._seconds * left < START_SECONDS

    def _spread(self, function: Callable[..., T], jobs: Sequence[Any], shared: tuple[object, ...]) -> Iterator[T]:
        calls = (joblib.delayed(limited)(function, job, *shared) for job in jobs)
        settings = self._backend or {"backend": "loky", "inner_max_num_threads": 1}
        try:
            with joblib.parallel_config(**settings):
                with _uninterrupted():
                    results = joblib.Parallel(n_jobs=self.processes, return_as="generator", batch_size=1)(calls)
                yield from results
        except TerminatedWorkerError:
            hint = "most often it is memory that ran out: fewer rows, or --engine local:1"
            raise DlkitError("a process that was fitting a model was killed", hint, ExitCode.INTERNAL) from None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes that start in the block never see Ctrl-C, which a terminal sends to all of them: this one is told, and
    ends them. Here it waits for the end of the block."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    for tracker in (resource_tracker, multiprocessing.resource_tracker):
        tracker.ensure_running()  # their own start would unblock the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def limited(function: Callable[..., T], job: object, *shared: object) -> T:
    """One job with one thread: of OpenMP and BLAS, and of estimators, of which a Dask worker would make more; the order
    in which those add up would change the last digits."""
    with threadpool_limits(1), joblib.parallel_config("sequential"):
        return function(job, *shared)


@contextmanager
def open_engine(where: str = "local") -> Iterator[Engine]:
    """The engine that `--engine` names: local, local:N or dask://HOST:PORT.

    Not one of these: exit code 2. Dask not installed, or no scheduler at that address: 69.
    """
    kind, _, rest = where.partition(":")
    if where.startswith(DASK) and where != DASK:
        with _dask(where.removeprefix(DASK).rstrip("/")) as engine:
            yield engine
    elif where == "local":
        yield Engine(joblib.cpu_count())
    elif kind == "local" and rest.isascii() and rest.isdigit() and int(rest) > 0:
        yield Engine(int(rest))
    else:
        raise DlkitError(f"--engine {where}: there is no such engine", f"known: {FORMS}")


@contextmanager
def _dask(address: str) -> Iterator[Engine]:
    try:
        from distributed import Client
    except ImportError:
        hint = "pip install 'dlkit[dask]'"
        raise DlkitError(f"--engine {DASK}{address} needs Dask", hint, ExitCode.NO_DEPENDENCY) from None
    _knock(address)
    try:
        client = Client(f"tcp://{address}", timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, MemoryError):  # bytes of another protocol, taken for the length of a message
        raise _no_scheduler(address, "what listens there speaks another protocol") from None
    with client:
        yield Engine(_count_threads(client, address), {"backend": "dask", "client": client})


def _knock(address: str) -> None:
    """Whether anything listens there: Dask's own client would take its time and leave a traceback behind."""
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise DlkitError(f"--engine {DASK}{address}: an address is HOST:PORT", f"known: {FORMS}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as failure:
        raise _no_scheduler(address, getattr(failure, "strerror", None) or str(failure)) from None


def _no_scheduler(address: str, reason: str) -> DlkitError:
    message = f"no Dask scheduler answers at {address}: {reason.lower()}"
    return DlkitError(message, "start one: dask scheduler", ExitCode.NO_DEPENDENCY)


def _count_threads(client: Any, address: str) -> int:
    """Threads of the cluster's workers, each of which must have this version of dlkit installed."""
    threads = sum(client.nthreads().values())
    if not threads:
        hint = f"start some: dask worker {address}"
        raise DlkitError(f"the Dask scheduler at {address} has no workers", hint, ExitCode.NO_DEPENDENCY)

    def version() -> str:  # nested, so that it is sent as code: a worker without dlkit could not import it
        import importlib

        try:
            return str(importlib.import_module("dlkit").__version__)
        except ImportError:
            return "none"

    others = set(client.run(version).values()) - {__version__}
    if others:
        hint = f"here it is {__version__}: install the same on each worker"
        message = f"a Dask worker at {address} has another dlkit: {min(others)}"
        raise DlkitError(message, hint, ExitCode.NO_DEPENDENCY)
    return threads
