"""Jobs give the same results in the same order wherever they run, with one thread each."""

import os
import signal
import socket
import sys

import numpy as np
import pytest

from dlkit.core.errors import DlkitError
from dlkit.ml import engine as engines
from dlkit.ml.engine import Engine, open_engine


def make_jobs():
    """Functions made here are sent to other processes as code; this module cannot be imported there."""

    def score(seed: int, x: np.ndarray, y: np.ndarray) -> float:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_score

        folds = StratifiedKFold(3, shuffle=True, random_state=seed)
        return float(cross_val_score(LogisticRegression(), x, y, cv=folds).mean())

    def threads(_: int) -> set[int]:
        import sklearn.ensemble  # noqa: F401  loads OpenMP
        from threadpoolctl import threadpool_info

        return {pool["num_threads"] for pool in threadpool_info()}

    def process(seconds: float) -> int:
        import os
        import time

        time.sleep(seconds)
        return os.getpid()

    def blocks_interrupts(_: int) -> bool:
        import signal

        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

    return score, threads, process, blocks_interrupts


score, threads, process, blocks_interrupts = make_jobs()


def table() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(200, 4))
    return x, (x[:, 0] > 0).astype(int)


def test_short_work_is_done_here_lazily_and_in_order(monkeypatch):
    monkeypatch.setattr(engines, "START_SECONDS", float("inf"))
    x, y = table()
    results = Engine(2).map(score, range(3), x, y)
    assert next(results) == score(0, x, y)
    assert list(results) == [score(1, x, y), score(2, x, y)]
    assert set(Engine(2).map(process, [0.0] * 3)) == {os.getpid()}
    assert list(Engine(2).map(score, [], x, y)) == []


def test_one_thread_each():
    assert list(Engine(1).map(threads, [0])) == [{1}]


@pytest.mark.parametrize(
    "where", ["", "locl", "local:0", "local:x", "local:-1", "dask://", "dask://host", "dask://h:x"]
)
def test_an_engine_that_is_none_is_refused(where):
    with pytest.raises(DlkitError) as caught, open_engine(where):
        pass
    assert caught.value.code == 2 and "dask://HOST:PORT" in caught.value.hint


def test_no_scheduler_is_said_at_once():
    with socket.socket() as bound:  # bound and not listening: nothing answers, and nobody else can take the port
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(DlkitError) as caught, open_engine(f"dask://{address}"):
            pass
    assert caught.value.code == 69 and address in caught.value.message


def test_without_dask_installed_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(DlkitError) as caught, open_engine("dask://127.0.0.1:8786"):
        pass
    assert caught.value.code == 69 and "dlkit[dask]" in caught.value.hint


@pytest.mark.slow
def test_processes_give_what_this_one_gives(monkeypatch):
    monkeypatch.setattr(engines, "START_SECONDS", 0.0)
    x, y = table()
    with open_engine("local:2") as two:
        assert list(two.map(score, range(6), x, y)) == [score(seed, x, y) for seed in range(6)]
        assert list(two.map(threads, range(4))) == [{1}] * 4
        assert list(two.map(blocks_interrupts, range(4)))[1:] == [True] * 3
        pids = list(two.map(process, [0.5] * 4))
        assert pids[0] == os.getpid() and os.getpid() not in pids[1:]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_cluster_gives_what_this_process_gives():
    """A scheduler with two worker processes, as `dask scheduler` and `dask worker` start them."""
    from distributed import LocalCluster

    x, y = table()
    x = np.tile(x, (20, 1))  # large enough to be sent once and shared
    y = np.tile(y, 20)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        open_engine(f"dask://{cluster.scheduler_address.removeprefix('tcp://')}") as there,
    ):
        assert there.processes == 2
        assert list(there.map(score, range(4), x, y)) == [score(seed, x, y) for seed in range(4)]
        assert list(there.map(threads, range(2))) == [{1}] * 2
        assert os.getpid() not in there.map(process, [0.5] * 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("large", [False, True])
def test_a_killed_worker_is_survived(large):
    """Its fits are done again by others, and the arrays that it was sent with them."""
    from distributed import LocalCluster

    def slow(job: int, x: np.ndarray) -> float:
        import time

        time.sleep(1.0)
        return job + float(x.sum())

    x = np.ones(2_000_000 if large else 10)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        open_engine(f"dask://{cluster.scheduler_address.removeprefix('tcp://')}") as there,
    ):
        results = there.map(slow, range(8), x)
        first = next(results)
        victim = next(iter(cluster.workers.values()))  # the nanny of a worker process, as `dask worker` starts it
        os.kill(victim.process.process.pid, signal.SIGKILL)
        assert [first, *results] == [job + x.sum() for job in range(8)]
