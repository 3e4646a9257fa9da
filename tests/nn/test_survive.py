"""Kills, faults, signals, and starts at the same moment: what a run loses, and what it may never lose."""

import errno
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import Writing, command_line, environment

from dlkit.core import console, signals
from dlkit.core.errors import ExitCode
from dlkit.core.io import write_atomic
from dlkit.core.job import JobOptions
from dlkit.core.keeping import Every
from dlkit.core.recipe import Recipe
from dlkit.core.run import RunDirectory
from dlkit.nn.checkpoint import listed, parse, read
from dlkit.nn.prepare import prepare
from dlkit.nn.train import begin
from dlkit.nn.watch import Watch

TINY = ["iris", "linear:4", "relu", "linear:3", "--batch-size", "32"]


# Promise 1: kill -9 --------------------------------------------------------------------------------------------------


SAVES = """
import sys, torch
from contextlib import nullcontext
from pathlib import Path
from dlkit.core.job import JobOptions
from dlkit.core.recipe import Recipe
from dlkit.core.run import RunDirectory
from dlkit.nn.checkpoint import Checkpoints
from dlkit.nn.prepare import prepare
from dlkit.nn.train import begin, config

def work(job, folder):
    "Take a run up, or begin it, and then save a changing state for ever; a line for each one saved."
    directory = RunDirectory.reopen(folder) if folder.exists() else RunDirectory.create(str(folder), "x")
    state, checkpoints = begin(job), Checkpoints(directory, 2, config(job))
    saved = checkpoints.latest()
    if saved:
        saved.restore(state)
    while True:
        state.step += 1
        for p in state.model.parameters():
            p.data.fill_(state.step)
        state.best_epoch, state.best_weights = state.step, {"w": torch.full((50,), float(state.step))}
        checkpoints.save(state)
        print(state.step, flush=True)

job = prepare(JobOptions("iris", ("linear:64", "linear:3")), Recipe(epochs=9))
begin(job)  # loads what torch loads late
"""
ONCE = SAVES + "work(job, Path(sys.argv[1]))\n"
FORKS = (
    SAVES
    + """
import os
for line in sys.stdin:  # a line in: one more child, its id out; so that only the first pays for its imports
    child = os.fork()
    if child == 0:
        work(job, Path(sys.argv[1]))
    print("child", child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""
)


def script(code: str, *words: str, **pipes) -> subprocess.Popen:
    line = [sys.executable, "-c", code, *words]
    return subprocess.Popen(line, text=True, env=environment(), stdout=subprocess.PIPE, **pipes)


def newest_is_whole(folder: Path, at_least: int) -> int:
    """The step of the newest checkpoint, which is all of one step, as the best weights it speaks of are whole."""
    data = read(listed(folder / "checkpoint")[0])
    assert data is not None
    saved = parse(data)
    found = dict(saved.facts["state"]["dict"])["step"]
    assert found >= at_least
    assert all((v == found).all() for k, v in saved.tensors.items() if k.startswith("model."))
    assert read(folder / "checkpoint" / saved.facts["best"]) is not None
    return found


def newest_step(folder: Path) -> int:
    return int(listed(folder / "checkpoint")[0].name[:9])


def test_killed_while_saving(tmp_path):
    step = 0
    for saves in (3, 5):
        with script(ONCE, str(tmp_path / "run")) as process:
            said = [int(process.stdout.readline()) for _ in range(saves)]
            process.kill()
        assert said[0] == step + 1  # it went on from what the kill before had left, or from a little later
        step = newest_is_whole(tmp_path / "run", said[-1])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_while_saving_two_hundred_times(tmp_path):
    seed, step = random.randrange(10**6), 0
    print("seed", seed)
    rng = random.Random(seed)
    with script(FORKS, str(tmp_path / "run"), stdin=subprocess.PIPE) as process:
        for _ in range(200):
            print(file=process.stdin, flush=True)
            child, saved = 0, step
            for _ in range(1 + rng.randrange(1, 12)):
                line = process.stdout.readline()
                child, saved = (int(line.split()[1]), saved) if line.startswith("child") else (child, int(line))
            time.sleep(rng.random() * 0.006)
            os.kill(child, signal.SIGKILL)
            while process.stdout.readline() != "gone\n":
                pass
            step = newest_is_whole(tmp_path / "run", saved)
        process.stdin.close()
    print("saves", step)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_command_killed_twenty_times_ends_as_the_untroubled_one(tmp_path):
    words = ["train", "digits", "--epochs", "40", "--checkpoint-every", "7"]
    subprocess.run(command_line(*words, "--out", "whole"), check=True, cwd=tmp_path, env=environment())
    rng, kills = random.Random(0), 0
    while True:
        line = command_line(*words, "--resume", "auto", "--out", "job")
        process = subprocess.Popen(line, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
        try:
            assert process.wait(timeout=rng.uniform(1.5, 5.0) if kills < 20 else 600) == 0
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    print("kills", kills)
    assert kills == 20
    for name in ("whole", "job"):
        assert (tmp_path / name / "manifest.json").exists()
    newest = [load_file(listed(tmp_path / name / "checkpoint")[0]) for name in ("whole", "job")]
    assert newest[0].keys() == newest[1].keys()
    assert all(torch.equal(newest[0][k], newest[1][k]) for k in newest[0])
    rows = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "job")]
    losses = [[json.loads(row)["valid_loss"] for row in part] for part in rows]
    assert losses[0] == losses[1]


# Promise 2: faults ---------------------------------------------------------------------------------------------------


class Faults:
    """Fails the n-th call that changes the file system; counts them all."""

    def __init__(self, monkeypatch, n: int, code: int) -> None:
        self.count, self.n, self.code = 0, n, code
        for name in ("open", "mkdir", "replace", "rename", "fsync", "unlink"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name), name))
        monkeypatch.setattr(io, "open", self._open(io.open))

    def strike(self, *where: object) -> None:
        self.count += 1
        if self.count == self.n:
            raise OSError(self.code, os.strerror(self.code), *(w for w in where[:1] if isinstance(w, str)))

    def _failing(self, real, name):
        def call(*args, **named):
            if name != "open" or args[1] & (os.O_WRONLY | os.O_RDWR):
                self.strike(*args)
            return real(*args, **named)

        return call

    def _open(self, real):
        def call(file, mode="r", *args, **named):
            if not set(mode) & set("wax+"):
                return real(file, mode, *args, **named)
            self.strike(file)
            return Writing(real(file, mode, *args, **named), self.strike)

        return call


RUN = [*TINY, "--epochs", "2", "--checkpoint-every", "3", "--resume", "auto", "--out", "job"]


SEEN = ("--tensorboard", "--plot", "curves.png")


def fails_at(inside, tmp_path, n: int, code: int, folder: str, more: tuple[str, ...] = ()) -> bool:
    """Fail the n-th call of a run; the same command, untroubled, then goes on to the end. False: n was not reached."""
    words = [*RUN[:-1], folder, *more]
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, n, code)
        ran = inside("train", *words)
    if faults.count < n:
        assert ran.code == 0, ran
        return False
    # What fails only in tidying up (a lock file, a stale checkpoint) may leave the run itself whole.
    assert ran.code in (0, 73, 74), (n, ran)
    if ran.code:
        lines = [line for line in ran.err.splitlines() if line.startswith("dlkit: error: ")]
        assert len(lines) == 1 and "Traceback" not in ran.err, (n, ran.err)
    for path in (tmp_path / folder / "checkpoint").glob("*.safetensors"):
        assert read(path) is not None, (n, path)
    again = inside("train", *words)
    assert again.code == 0, (n, again)
    assert not list((tmp_path / folder).rglob(".*")), n
    return True


def test_faults_at_some_calls(inside, tmp_path):
    whole = inside("train", *[*RUN[:-1], "whole"])
    assert whole.code == 0
    for n, code in ((1, errno.EACCES), (4, errno.EIO), (11, errno.ENOSPC), (23, errno.EIO), (40, errno.ENOSPC)):
        assert fails_at(inside, tmp_path, n, code, f"job{n}")
        assert same_end(tmp_path / "whole", tmp_path / f"job{n}")


def same_end(one: Path, two: Path) -> bool:
    a, b = (load_file(path / "model.safetensors") for path in (one, two))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("code", "more"), [(errno.ENOSPC, ()), (errno.EIO, ()), (errno.ENOSPC, SEEN)])
def test_faults_at_every_call(inside, tmp_path, code, more):
    assert inside("train", *[*RUN[:-1], "whole"]).code == 0
    n = 1
    while fails_at(inside, tmp_path, n, code, f"job{n}", more):
        assert same_end(tmp_path / "whole", tmp_path / f"job{n}"), n
        n += 1
    print("faults", n - 1)
    assert n > 60


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_disk_of_six_megabytes(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no mounting here")
    try:
        small = [*TINY, "--epochs", "2"]
        large = ["digits", "flatten", "linear:4000", "relu", "linear:10", "--epochs", "2"]
        run = subprocess.run(command_line("train", *small, "--out", "a"), cwd=disk, env=environment(), check=False)
        assert run.returncode == 0
        line = command_line("train", *large, "--out", "b")
        run = subprocess.run(line, cwd=disk, env=environment(), capture_output=True, text=True, check=False)
        assert (run.returncode, run.stdout) == (74, "") and "free, and checkpoints will take" in run.stderr, run
        assert "Traceback" not in run.stderr and not (disk / "b").exists()
        (disk / "filler").write_bytes(b"x" * (5 << 20))  # and where the room goes while it runs
        run = subprocess.run(
            [*line[:-1], "c"], cwd=disk, env=environment(), capture_output=True, text=True, check=False
        )
        assert run.returncode == 74 and run.stderr.count("dlkit: error:") == 1, run
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_too_small_is_refused_before_the_first_step(inside, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10_000))
    ran = inside("train", "digits", "--out", "run")
    assert (ran.code, ran.out) == (74, "") and "9.766 KiB free" in ran.err and "--keep 1" in ran.err
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_named(inside, tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    ran = inside("train", *TINY, "--out", "run")
    assert (ran.code, ran.out) == (74, "") and "run/config.json: No space left on device" in ran.err


def test_what_is_written_is_read_again(tmp_path, monkeypatch):
    """A file system that loses a byte without a word is found out before the old file goes."""
    path = tmp_path / "file"
    write_atomic(path, b"old")
    real = os.fsync

    def loses(handle: int) -> None:
        os.truncate(handle, 2)
        real(handle)

    monkeypatch.setattr(os, "fsync", loses)
    with pytest.raises(OSError, match="reads differently"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


# Promise 11: signals -------------------------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch):
    """Signals, as if one had come: told('stop', SIGTERM), told('save', True)."""

    class Asked(signals._Asked):
        stop, save, deferred = None, False, False

    monkeypatch.setattr(signals, "_Asked", Asked)
    return lambda name, value: setattr(Asked, name, value)


def test_a_stop_skips_the_evaluation_and_the_run_goes_on_exactly(inside, tmp_path, told, monkeypatch):
    assert inside("train", *TINY, "--epochs", "3", "--out", "whole").code == 0
    seen = []

    def stops(self: Watch) -> bool:
        seen.append("evaluation")
        self.code = ExitCode.TERMINATED if len(seen) == 2 else None
        return self.stopped

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "stops", stops)
        ran = inside("train", *TINY, "--epochs", "3", "--out", "run")
    assert ran.code == 143 and "stopped at step 8, in epoch 2 of 3" in ran.err and "--resume run" in ran.err
    assert ran.out.count("\n") == 2 and (tmp_path / "run" / "manifest.json").exists()
    used = inside("eval", "run", TINY[0])
    assert used.code == 0 and "run was stopped in epoch 2" in used.err and "--resume run" in used.err
    assert inside("train", *TINY, "--epochs", "3", "--resume", "run").code == 0
    assert same_end(tmp_path / "whole", tmp_path / "run")
    assert "was stopped" not in inside("eval", "run", TINY[0]).err


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_swallowed_at_the_start_still_stops_the_run(inside, tmp_path, told, signum, code):
    """A library caught the exception while it was being imported: the flag is left."""
    told("stop", signum)
    ran = inside("train", *TINY, "--epochs", "500", "--out", "run")
    assert ran.code == code and "stopped at step 1," in ran.err
    assert listed(tmp_path / "run" / "checkpoint")


def test_a_checkpoint_now(inside, tmp_path, told):
    """SIGUSR1."""
    told("save", True)
    assert inside("train", *TINY, "--epochs", "1", "--out", "run", "--keep", "9").code == 0
    steps = [int(p.name[:9]) for p in listed(tmp_path / "run" / "checkpoint")]
    assert steps == [4, 1, 0]


HANDLERS = """
import os, signal, sys
from dlkit.core import signals
signals.install()
try:
    exec("os.kill(os.getpid(), signal.SIGINT)")  # as in many an import; Python would end by the signal for it
except KeyboardInterrupt:
    pass
signals._Asked.stop = None
try:
    os.kill(os.getpid(), signal.SIGTERM)
    print("not raised")
except signals.Terminated:
    pass
signals._Asked.stop = None
os.kill(os.getpid(), signal.SIGUSR1)
assert signals.take_save() and not signals.take_save()
with signals.deferred():
    os.kill(os.getpid(), signal.SIGINT)
    assert signals.asked() == 130
    print("once", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("twice", flush=True)
"""


def test_an_interrupt_in_an_exec_leaves_the_exit_code(tmp_path):
    """`python -m` ends by the signal itself once a KeyboardInterrupt has passed through an exec, whoever caught it."""
    (tmp_path / "interrupted.py").write_text(HANDLERS.partition("signals._Asked")[0] + "sys.exit(130)\n")
    line = [sys.executable, "-m", "interrupted"]
    assert subprocess.run(line, cwd=tmp_path, env=environment(), timeout=120, check=False).returncode == 130


def test_the_handlers():
    """The first signal raises, or only sets the flag where work ends itself; the second is then as the kernel's own."""
    with script(HANDLERS) as process:
        said, _ = process.communicate(timeout=120)
    assert (process.returncode, said) == (-signal.SIGTERM, "once\n")


def has_handlers(pid: int) -> bool:
    """Whether a process catches SIGTERM already, as Linux says."""
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_fifty_signals_at_random_times(tmp_path):
    """From the first moment of the process on: its exit code is the signal's, and what there is can be gone on with."""
    rng, slowest, begun = random.Random(1), 0.0, 0
    for i in range(50):
        signum, code = rng.choice([(signal.SIGINT, 130), (signal.SIGTERM, 143)])
        words = command_line("train", "digits", "--epochs", "10000", "--out", f"run{i}", "--checkpoint-every", "1")
        with (tmp_path / f"err{i}").open("w+") as err:
            process = subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=err)
            while not has_handlers(process.pid):  # before that it is Python that is starting
                time.sleep(0.005)
            time.sleep(rng.random() * 6)
            sent = time.monotonic()
            process.send_signal(signum)
            assert process.wait(timeout=60) == code, (i, process.returncode)
            slowest = max(slowest, time.monotonic() - sent)
            err.seek(0)
            text = err.read()
        assert text.count("dlkit: error: ") == 1 and "Traceback" not in text, text
        if "stopped at" in text:
            begun += 1
            assert (tmp_path / f"run{i}" / "manifest.json").exists()
            assert all(read(p) is not None for p in listed(tmp_path / f"run{i}" / "checkpoint"))
    print("slowest", round(slowest, 2), "in training", begun)


# Promise 12: one holder ----------------------------------------------------------------------------------------------


STARTS = """
import sys
from contextlib import nullcontext
from pathlib import Path
from dlkit.core.errors import DlkitError
from dlkit.core.run import RunDirectory
folder = Path(sys.argv[1])
print("here", flush=True)
sys.stdin.readline()
try:
    with RunDirectory.reopen(folder) if sys.argv[2] == "True" else RunDirectory.create(str(folder), "x"):
        print("mine", flush=True)
        sys.stdin.readline()
except DlkitError as failure:
    print("refused", int(failure.code), flush=True)
"""


@pytest.mark.parametrize("there", [False, True])
def test_twenty_starts_at_once(tmp_path, there):
    """One of twenty gets the directory, whether it is new or taken up again; the others are refused."""
    if there:
        RunDirectory.create(str(tmp_path / "run"), "x").finish()
    started = [script(STARTS, str(tmp_path / "run"), str(there), stdin=subprocess.PIPE) for _ in range(20)]
    assert [p.stdout.readline() for p in started] == ["here\n"] * 20
    for p in started:
        print(file=p.stdin, flush=True)
    assert sorted(p.stdout.readline() for p in started) == ["mine\n", *["refused 73\n"] * 19]
    for p in started:
        p.communicate(timeout=120)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_commands_at_once(tmp_path):
    words = command_line("train", "digits", "--epochs", "500", "--out", "run")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(words, cwd=tmp_path, env=environment(), **quiet) for _ in range(20)]
    while sum(p.poll() is None for p in started) > 1:
        time.sleep(0.1)
    (holder,) = [p for p in started if p.poll() is None]
    holder.send_signal(signal.SIGTERM)
    assert holder.wait(timeout=60) == 143
    assert sorted(p.returncode for p in started) == [73] * 19 + [143]


# Promise 10: values that are not finite ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("step", [1, 6, 12])
def test_non_finite_values_reach_no_file(inside, tmp_path, monkeypatch, where, value, step):
    """Injected in the first step, in the middle, in the last: no file holds one, the step is named, the best stays."""
    from dlkit.nn.step import Stepper

    real, calls = Stepper._backward, []

    def poisoned(self: Stepper, batch, apart: bool) -> torch.Tensor:
        loss = real(self, batch, apart)
        calls.append(1)
        if len(calls) == step:
            if where == "loss":
                return loss + value
            self.parameters[0].grad[0] = value
        return loss

    monkeypatch.setattr(Stepper, "_backward", poisoned)
    ran = inside("train", *TINY, "--epochs", "3", "--checkpoint-every", "1", "--keep", "99", "--out", "run")
    assert ran.code == 70 and f"at step {step} " in ran.err, ran.err
    files = list((tmp_path / "run").rglob("*.safetensors"))
    assert files
    for path in files:
        assert all(torch.isfinite(v).all() for v in load_file(path).values() if v.is_floating_point())
    assert newest_step(tmp_path / "run") == step - 1
    assert (tmp_path / "run" / "model.safetensors").exists() == (step > 4)


# Promise 14: out of memory -------------------------------------------------------------------------------------------


class Short(torch.nn.Module):
    """A network that takes no more than `most` rows at once, as a full device would."""

    def __init__(self, inner: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.inner, self.most = inner, most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > self.most:
            raise torch.OutOfMemoryError(f"no room for {len(x)} rows")
        return self.inner(x)


@pytest.mark.parametrize("most", [1, 2, 5, 16])
@pytest.mark.parametrize("extra", [{}, {"class_weights": "balanced"}, {"clip": 0.5}])
def test_out_of_memory_shrinks_the_micro_batch_alone(tmp_path, capfd, most, extra):
    rng = np.random.default_rng(0)
    path = tmp_path / "d.npz"
    np.savez(path, X=rng.normal(size=(75, 5)).astype(np.float32), y=np.arange(75) % 3)
    job = prepare(JobOptions(str(path), ("linear:9", "relu", "linear:3"), batch_size=24), Recipe(epochs=2, **extra))
    ends = []
    for limit in (10**9, most):
        state = begin(job)
        state.stepper.forward = Short(state.model, limit)
        with console.progress(0) as bar:
            from dlkit.nn.fit import fit

            rows = list(fit(state, job.train, job.valid, job.objective, job.recipe, Watch(), bar))
        ends.append((rows, [p.detach().clone() for p in state.model.parameters()]))
    assert 24 / state.stepper.accumulate <= most
    assert f"parts of {-(-24 // state.stepper.accumulate)}" in capfd.readouterr().err
    for one, other in zip(*(weights for _, weights in ends), strict=True):
        assert (one - other).abs().max() < 1e-6
    for one, other in zip(*(rows for rows, _ in ends), strict=True):
        assert abs(one.train_loss - other.train_loss) < 1e-6 and abs(one.valid_loss - other.valid_loss) < 1e-6


@pytest.mark.parametrize("step", [0, 1, 4])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_batch_norms_record_a_step_that_is_tried_again_once(tmp_path, capfd, step, where):
    """Out of memory behind the batch norms of a step: all is as if it had gone through in smaller parts at once."""
    rng = np.random.default_rng(0)
    path = tmp_path / "d.npz"
    np.savez(path, X=rng.normal(size=(75, 5)).astype(np.float32), y=np.arange(75) % 3)
    network = ("linear:9,bias=0", "bn", "relu", "linear:3")
    job = prepare(JobOptions(str(path), network, batch_size=24), Recipe(epochs=3))
    ends = []

    def full(gradient: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("no room")

    for is_short in (False, True):
        state = begin(job)

        def look(module, inputs, output, state=state, is_short=is_short):
            if module.training and state.step >= step and len(output) > 6 and is_short:
                full(output) if where == "forward" else output.register_hook(full)

        state.model[-1].register_forward_hook(look)
        with console.progress(0) as bar:
            from dlkit.nn.fit import fit

            losses = []
            state.stepper.accumulate = 4 if step == 0 and not is_short else 1
            for epoch in fit(state, job.train, job.valid, job.objective, job.recipe, Watch(Every(steps=1)), bar):
                losses += [epoch.valid_loss] if epoch else []
                if state.step >= step and not is_short:
                    state.stepper.accumulate = 4
        assert state.stepper.accumulate == 4
        ends.append((losses, state.model.state_dict()))
    assert "batch norms see a part at a time" in capfd.readouterr().err
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(value, ends[1][1][name]) for name, value in ends[0][1].items())


def test_batch_norm_of_vectors_keeps_two_rows_where_memory_runs_out(tmp_path, capfd):
    rng = np.random.default_rng(0)
    path = tmp_path / "d.npz"
    np.savez(path, X=rng.normal(size=(75, 5)).astype(np.float32), y=np.arange(75) % 3)
    for most, ends in ((2, False), (1, True)):
        job = prepare(JobOptions(str(path), ("linear:9", "bn", "linear:3"), batch_size=24), Recipe(epochs=1))
        state = begin(job)
        state.stepper.forward = Short(state.model, most)
        with console.progress(0) as bar, pytest.raises(MemoryError) if ends else nullcontext():
            from dlkit.nn.fit import fit

            list(fit(state, job.train, job.valid, job.objective, job.recipe, Watch(), bar))
    assert "now go through in 12 parts of 2" in capfd.readouterr().err


def test_not_even_one_row(inside, monkeypatch):
    from dlkit.nn.step import Stepper

    def full(self, batch, apart):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Stepper, "_backward", full)
    ran = inside("train", *TINY, "--epochs", "1")
    assert (ran.code, ran.out) == (70, "") and "out of memory" in ran.err.splitlines()[-2]


@pytest.mark.gpu
def test_a_device_that_really_runs_out(tmp_path):
    """With room for less than a whole batch the run goes on in smaller parts, to the same end."""
    rng = np.random.default_rng(0)
    path = tmp_path / "d.npz"
    np.savez(path, X=rng.normal(size=(4200, 64)).astype(np.float32), y=np.arange(4200) % 3)
    network = ("linear:16384", "relu", "linear:16384,bias=0", "relu", "linear:3")
    job = prepare(JobOptions(str(path), network, batch_size=2048, device="cuda"), Recipe(epochs=1))
    ends = []
    for room in (1.0, None):
        torch.cuda.empty_cache()
        state = begin(job)
        state.stepper.make_room()
        if room is None:  # the weights, gradients and moments that are there, and a little for activations
            used = torch.cuda.memory_allocated() + (1 << 30) + (150 << 20)
            torch.cuda.set_per_process_memory_fraction(used / torch.cuda.get_device_properties(0).total_memory)
        with console.progress(0) as bar:
            from dlkit.nn.fit import fit

            ends += list(fit(state, job.train, job.valid, job.objective, job.recipe, Watch(), bar))
        accumulate = state.stepper.accumulate
        del state
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert accumulate > 1
    assert abs(ends[0].train_loss - ends[1].train_loss) < 1e-4


@pytest.mark.gpu
def test_resumed_on_a_device(inside, tmp_path):
    words = ["train", "digits", "--device", "cuda", "--epochs", "3", "--schedule", "constant"]
    assert inside(*words, "--out", "whole").code == 0
    assert inside(*words[:-4], "--epochs", "2", "--schedule", "constant", "--out", "run").code == 0
    assert inside(*words, "--resume", "run").code == 0
    last = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("whole", "run")]
    assert last[0]["train_loss"] == pytest.approx(last[1]["train_loss"], rel=0.05)
