"""Each fit in a process of its own: what outruns its time or outgrows the memory is killed, what dies is named."""

import os
import signal
import time
from pathlib import Path

import pytest

from dlkit.ml.pool import Finisher, Processes
from dlkit.ml.trial import Outcome, Trial

TRIAL = Trial("tree", {}, 0)
LONG = 120.0


@pytest.fixture
def processes():
    made = []

    def make(count: int = 1, memory: int | None = None) -> Processes:
        made.append(Processes(None, count, memory))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def outcome(one: Processes) -> Outcome:
    return one.wait(time.monotonic() + LONG)[0][1]


def test_what_a_trial_gives_comes_back(processes):
    one = processes()
    one.submit(TRIAL, LONG, Outcome, 0.75)
    assert one.busy() and one.free() == 0
    assert one.wait(time.monotonic() + LONG) == [(TRIAL, Outcome(0.75))]
    assert not one.busy() and one.free() == 1


def test_a_trial_that_never_ends_is_killed(processes):
    one = processes()
    one.submit(TRIAL, 0.2, time.sleep, LONG)
    process = one._running[0].process
    pid = process.pid
    assert "killed after" in outcome(one).problem
    assert not Path(f"/proc/{pid}").exists() or not Path("/proc").exists()


def test_waiting_ends_when_it_should_and_what_runs_is_stopped(processes):
    one = processes()
    one.submit(TRIAL, LONG, time.sleep, LONG)
    assert one.wait(time.monotonic()) == [] and one.busy()
    one.stop()
    assert not one.busy()


def test_a_process_that_dies_says_how(processes):
    one = processes()
    one.submit(TRIAL, LONG, signal.raise_signal, signal.SIGKILL)
    problem = outcome(one).problem
    assert "SIGKILL" in problem and "memory" in problem
    one.submit(TRIAL, LONG, os._exit, 3)
    assert "exit code 3" in outcome(one).problem


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of another process is read from /proc")
def test_the_largest_is_killed_where_all_together_outgrow_the_memory(processes):
    one = processes(2, memory=400 << 20)
    hungry = Trial("forest", {}, 0)
    one.submit(TRIAL, LONG, time.sleep, LONG)
    one.submit(hungry, LONG, eval, "(bytearray(350 << 20), __import__('time').sleep(120))")
    (trial, found), *_ = one.wait(time.monotonic() + LONG)
    assert trial == hungry and "GiB" in found.problem
    assert len(one._running) == 1


@pytest.mark.parametrize("late", [{"memory": 0}, {"deadline": 0.0}], ids=lambda late: next(iter(late)))
def test_what_is_done_is_neither_late_nor_too_large_besides(processes, late):
    """Its process still holds memory, and its time may end, while its answer is read: there is one outcome alone."""
    if "memory" in late and not Path("/proc/self/statm").exists():
        pytest.skip("the memory of another process is read from /proc")
    one = processes()
    told = "__import__('dlkit.ml.trial', fromlist=['trial']).Outcome(0.5)"
    lingering = f"__import__('threading').Thread(target=__import__('time').sleep, args=({LONG},)).start()"
    one.submit(TRIAL, LONG, eval, f"({lingering}, {told})[1]")
    assert one._running[0].connection.poll(LONG)
    vars(one if "memory" in late else one._running[0]).update(late)
    assert one.wait(time.monotonic() + LONG) == [(TRIAL, Outcome(0.5))]


def test_a_finisher_that_cannot_fit_says_why(tmp_path):
    with Finisher(None, tmp_path / "model") as finisher:
        found = finisher.finish(TRIAL, LONG)  # it was given no data
    assert "NoneType" in found.problem


def test_a_finisher_whose_process_dies_says_so(tmp_path):
    with Finisher(None, tmp_path / "model") as finisher:
        finisher._process.kill()
        finisher._process.join()
        assert "died" in finisher.finish(TRIAL, LONG).problem


def test_a_finisher_that_is_too_slow_is_killed(tmp_path):
    with Finisher(None, tmp_path / "model") as finisher:
        assert "killed after" in finisher.finish(TRIAL, 0.0).problem
        process = finisher._process
    assert process.exitcode is not None
