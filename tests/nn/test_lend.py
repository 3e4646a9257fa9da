"""`eval` and `predict` by two processes: the bytes of one, one error, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Ran, command_line, environment

from dlkit.nn.lend import shares


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 9))
def test_whole_batches_and_every_row_once(rows, batch_size, world):
    bounds = shares(rows, batch_size, world)
    assert bounds[0] == 0 and bounds[-1] == rows and bounds == sorted(bounds) and bounds[1] > 0
    assert all(bound % batch_size == 0 or bound == rows for bound in bounds)
    batches = [-(-(b - a) // batch_size) for a, b in pairwise(bounds)]
    assert max(batches) - min(batches) <= 1


@pytest.fixture
def both(tmp_path):
    """What a command says as one process, which two say in the same bytes."""

    def ran(*words: str, torchrun: bool = False) -> Ran:
        start = ["-m", "torch.distributed.run", "--nproc-per-node", "2"] if torchrun else []
        two = [sys.executable, *start, *command_line(*words)[1:], *([] if torchrun else ["--nproc", "2"])]
        one, other = (
            subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, timeout=240, check=False)
            for line in (command_line(*words), two)
        )
        assert one.stdout == other.stdout and (torchrun or one.returncode == other.returncode), other
        assert torchrun or one.stderr == other.stderr, (one.stderr, other.stderr)
        return Ran(one.returncode, one.stdout.decode(), one.stderr.decode())

    return ran


def test_two_processes_say_what_one_does(inside, dlkit, finished_run):
    """150 rows are two batches, one for each process."""
    one = inside("predict", str(finished_run), "iris")
    assert (one.code, one.out.count("\n")) == (0, 151)
    assert dlkit("predict", str(finished_run), "iris", "--nproc", "2") == one


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval", "--predictions", "x.csv", "--truth", "y"], "--nproc is for runs"),
        (["predict", "writer", "--generate", "9"], "--nproc has no effect on --generate"),
        (["predict", "run", "-"], "standard input"),
    ],
)
def test_what_one_process_does_is_refused(inside, words, said):
    ran = inside(*words, "--nproc", "2")
    assert (ran.code, ran.out) == (2, "") and said in ran.err


@pytest.fixture
def runs(inside, tmp_path):
    """A network on many rows, one on images with batch norm, a regression, a text, and a baseline."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4001, 5)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", X=x, y=(x[:, 0] > x[:, 1]).astype(int))
    np.savez(tmp_path / "values.npz", X=x, y=x[:, 0] - 2 * x[:, 1])
    np.savez(tmp_path / "images.npz", X=rng.integers(0, 255, (703, 3, 8, 8), dtype=np.uint8), y=rng.integers(0, 3, 703))
    deep = rng.integers(0, 60000, (300, 1, 8, 8)).astype(np.uint16)  # a type that gloo does not know
    np.savez(tmp_path / "deep.npz", X=deep, y=np.arange(300) % 2)
    said = [f"{' '.join(rng.choice(['good', 'bad', 'film'], 1 + i % 5))},{i % 2}" for i in range(300)]
    (tmp_path / "words.csv").write_text("said,y\n" + "\n".join(said) + "\n")
    (tmp_path / "letters.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    long = "\n".join(f"{i % 7},{i % 11},{'abc'[i % 3]}" for i in range(900_000))
    (tmp_path / "long.csv").write_text("p,q,y\n" + long + "\n")
    (tmp_path / "short.csv").write_text("p,q,y\n" + long[: long.index("\n", 5000)] + "\n")
    assert inside("train", "rows.npz", "--epochs", "1", "--batch-size", "32", "--out", "net").code == 0
    assert inside("train", "values.npz", "--epochs", "1", "--batch-size", "32", "--out", "values").code == 0
    conv = ["conv:4,k3", "bn", "relu", "gap", "linear:3"]
    assert inside("train", "images.npz", *conv, "--epochs", "1", "--out", "images").code == 0
    gpt = ["embed:29,16", "pos", "sum(ln attn:2,causal=1 | )", "ln", "lmhead:29,tie=1"]
    text = ["--context", "16", "--batch-size", "8", "--epochs", "1"]
    assert inside("train", "letters.txt", *gpt, *text, "--out", "writer").code == 0
    assert inside("train", "short.csv", "--target", "y", "--epochs", "1", "--out", "table").code == 0
    small = ["--epochs", "1", "--batch-size", "32"]
    assert inside("train", "deep.npz", *small, "--out", "deep").code == 0
    assert inside("train", "words.csv", "--target", "y", "--text", "said", *small, "--out", "words").code == 0
    told = ["--models", "logistic", "--tries", "1", "--budget", "60s"]
    assert inside("baseline", "rows.npz", *told, "--out", "base").code == 0
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_kind_of_run(both, runs):
    for words in (
        ["predict", "net", "rows.npz", "--format", "jsonl"],
        ["predict", "net", "net", "base", "rows.npz"],  # twice the same network is two, and a baseline goes with them
        ["predict", "images", "images.npz", "--tta", "flip,vflip", "--json"],
        ["predict", "deep", "deep.npz"],
        ["predict", "words", "words.csv"],
        ["predict", "table", "long.csv"],  # of several pieces
        ["eval", "net", "rows.npz", "--json"],
        ["eval", "net", "base", "rows.npz", "--weights", "2,1", "--json"],
        ["eval", "values", "values.npz", "--rows", "valid"],
        ["eval", "writer", "letters.txt", "--json"],
    ):
        assert both(*words).code == 0, words
    assert both("predict", "net", "rows.npz", torchrun=True).code == 0
    assert both("eval", "base", "rows.npz", torchrun=True).code == 0  # the first process's work alone
    for form in ("csv", "jsonl.gz", "parquet"):
        one = both("predict", "net", "rows.npz", "--out", f"out.{form}")
        assert one.code == 0 and (runs / f"out.{form}").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_error_for_all(both, runs, dlkit):
    for words, code in (
        (["predict", "net", "images.npz"], 65),
        (["eval", "net", "nosuch.csv"], 66),
        (["predict", "nosuch", "rows.npz"], 66),
        (["predict", "net", "rows.npz", "--out", "nowhere/x.csv"], 73),
    ):
        ran = both(*words)
        assert ran.code == code and ran.err.count("dlkit: error:") == 1 and ran.out == "", ran
    rows = (runs / "long.csv").read_text()
    (runs / "bad.csv").write_text(rows + "x,1,a\n")  # in the last piece
    ran = both("predict", "table", "bad.csv", "--out", "bad.parquet")
    assert ran.code == 65 and "'x'" in ran.err and not (runs / "bad.parquet").exists()
    assert not [path for path in runs.iterdir() if path.name.startswith(".")]
    refused = dlkit("predict", "base", "rows.npz", "--nproc", "2")
    assert refused.code == 2 and "run of baseline" in refused.err


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_reader_who_leaves_a_signal_and_a_kill(runs):
    line = command_line("predict", "table", "long.csv", "--nproc", "2")
    for what in ("reader", "signal", "kill"):
        pipe = subprocess.PIPE
        with subprocess.Popen(line, cwd=runs, env=environment(), stdout=pipe, stderr=pipe, text=True) as process:
            process.stdout.readline()  # the others wait for more, and so does this one for its reader
            with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
                ids = [int(child) for child in children.read().split()]
            if what == "reader":
                process.stdout.close()
            elif what == "signal":
                process.send_signal(signal.SIGTERM)
            else:
                os.kill(ids[1], signal.SIGKILL)
            if what != "reader":
                process.stdout.read()
            err = process.stderr.read()
            assert process.wait(timeout=60) == {"reader": 141, "signal": 143, "kill": 70}[what], (what, err)
            assert err.count("dlkit: error:") == (what != "reader") and "Traceback" not in err, (what, err)
            until = time.monotonic() + 20
            while any(Path(f"/proc/{child}").exists() for child in ids):
                assert time.monotonic() < until
                time.sleep(0.05)
