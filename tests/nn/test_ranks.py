"""Several processes against one: the same losses, every row once, one error, and checkpoints that fit either."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import command_line, environment
from torch import nn

from dlkit.core import peers
from dlkit.core.keeping import Every
from dlkit.nn.loader import Batches
from dlkit.nn.norms import held, hold
from dlkit.nn.ranks import Ranks
from dlkit.nn.spread import SyncedBatchNorm, norms_of, synced
from dlkit.nn.watch import MOST_LOOKS, Watch

CPU = torch.device("cpu")
# No bias before a batch norm: its gradient is nothing but rounding, of which Adam makes whole steps.
NETWORKS = {
    "mlp": "linear:16 relu linear:3",
    "conv": "conv:4,k3,p1,bias=0 bn relu maxpool:k2 flatten linear:16,bias=0 bn relu linear:3",
    "attention": "conv:8,k2,s2 tokens sum(ln attn:2 | ) sum(ln mlp:16 | ) ln select:last linear:3",
}
SHAPES = {"mlp": (4,), "conv": (2, 6, 6), "attention": (2, 6, 6)}


# Without processes ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 17), st.integers(1, 5))
def test_every_row_once_over_the_processes(rows, size, world):
    """Of each batch the processes' parts are the whole; one too small to be shared counts once in all."""
    x, y = np.zeros((rows, 1), np.float32), np.arange(rows)
    counted = np.zeros(rows)
    for rank in range(world):
        data = Batches(x, y, size, CPU, ranks=Ranks(rank, world))
        for batch in data.in_order():
            assert len(batch.targets) >= len(batch.y) > 0
            np.add.at(counted, batch.y.numpy(), batch.part)
    assert counted == pytest.approx(np.ones(rows))


@given(st.integers(2, 60), st.integers(2, 17), st.integers(2, 5), st.integers(1, 3))
def test_the_order_of_rows_is_that_of_one_process(rows, size, world, epoch):
    x, y = np.zeros((rows, 1), np.float32), np.arange(rows)
    parts = [list(Batches(x, y, size, CPU, ranks=Ranks(r, world)).shuffled(epoch)) for r in range(world)]
    for whole, *shares in zip(Batches(x, y, size, CPU).shuffled(epoch), *parts, strict=True):
        assert all(torch.equal(share.targets, whole.y) for share in shares)
        if len(whole.y) >= world:
            assert torch.equal(torch.cat([share.y for share in shares]), whole.y)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batch_norms_of_several_processes_are_what_they_were(device):
    """Names, weights, settings, and that a frozen one keeps its statistics: torch's own conversion forgets that."""
    first, second = nn.BatchNorm2d(3, eps=0.1, momentum=None), nn.BatchNorm1d(4, affine=False)
    hold(first)
    model = nn.Sequential(first, nn.Sequential(nn.Flatten(), second))
    before = model.state_dict()
    made = synced(model, torch.device(device), Ranks(0, 2))
    kind = nn.SyncBatchNorm if device == "cuda" else SyncedBatchNorm
    assert type(made[0]) is type(made[1][1]) is kind and norms_of(made) == [made[0], made[1][1]]
    assert held(made[0]) and not held(made[1][1])
    assert (made[0].eps, made[0].momentum, made[1][1].affine) == (0.1, None, False)
    assert all(
        value is made.state_dict()[name] or torch.equal(value, made.state_dict()[name])
        for name, value in before.items()
    )
    assert made[0].weight is first.weight


class Told(Ranks):
    """Two processes, of which the other says what it is given to say."""

    def __init__(self) -> None:
        super().__init__(0, 2)
        self.other, self.asked = [0.0, 0.0, 0.0], 0

    def largest(self, values):
        self.asked += 1
        return [max(a, b) for a, b in zip(values, self.other, strict=True)]


def test_what_one_process_was_told_all_do():
    ranks = Told()
    watch = Watch(Every(), ranks)
    assert not watch.look(1)
    ranks.other = [143.0, 0.0, 0.0]
    looks = next(i for i in range(2, 2 + 2 * MOST_LOOKS) if watch.look(i))
    assert looks <= MOST_LOOKS + 2 and watch.stopped and watch.code == 143


def test_slow_steps_are_asked_about_each():
    """Half a second at most between two exchanges."""
    ranks = Told()
    ranks.other = [0.0, 0.0, 2.0]
    watch = Watch(Every(), ranks)
    for step in range(1, 6):
        watch.look(step)
    assert ranks.asked == 5


@pytest.mark.parametrize("env", [{"WORLD_SIZE": "4"}, {"WORLD_SIZE": "many", "RANK": "0"}, {"RANK": "3"}])
def test_half_of_what_torchrun_says_is_one_process(monkeypatch, env):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert not peers.several() and peers.rank() == 0


def test_what_would_have_no_effect_is_refused(inside):
    for words, said in (
        (["iris", "--shard"], "--shard"),
        (["iris", "--max-restarts", "2"], "--max-restarts"),
        (["-", "--nproc", "2"], "standard input"),
        (["iris", "--nproc", "100000"], "processors"),
    ):
        ran = inside("train", *words)
        assert (ran.code, ran.out) == (2, "") and said in ran.err


# Two processes -------------------------------------------------------------------------------------------------------


def data(folder, kind: str, rows: int = 106) -> str:
    """21 rows to validate and 85 to train on: neither is divisible by two."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, *SHAPES[kind])).astype(np.float32)
    np.savez(folder / f"{kind}.npz", X=x, y=(x.reshape(rows, -1)[:, :3].argmax(1)))
    return f"{kind}.npz"


def train(folder, *words: str, code: int = 0, launcher: str = "", command: str = "train") -> list[dict]:
    """The rows of a run in processes of its own."""
    line = command_line(command, *words, "--format", "jsonl")
    if launcher:
        line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *line[1:]]
    done = subprocess.run(line, cwd=folder, env=environment(), capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == code, done.stderr
    if not launcher:
        assert "Traceback" not in done.stderr and done.stderr.count("dlkit: error:") == (code != 0), done.stderr
    return [json.loads(row) for row in done.stdout.splitlines()]


def agree(one: list[dict], two: list[dict], within: float = 1e-6) -> None:
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert (a["epoch"], a["step"], a["accuracy"]) == (b["epoch"], b["step"], b["accuracy"])
        for loss in ("train_loss", "valid_loss"):
            assert abs(a[loss] - b[loss]) <= within, (loss, a, b)


def common(folder, kind: str, epochs: int) -> list[str]:
    """Seven steps an epoch: six of 13 rows, one of 7."""
    return [data(folder, kind), *NETWORKS[kind].split(), "--batch-size", "13", "--epochs", str(epochs)]


def test_two_processes_are_one(inside, tmp_path):
    """Through batch norm, and with 21 rows to validate that two cannot share evenly; then the error of one is shown
    once, and one process goes on with what two have made (all else is slow)."""
    words = [*common(tmp_path, "conv", 3), "--schedule", "constant", "--out"]
    two = train(tmp_path, *words, "two", "--nproc", "2")
    one = inside("train", *words, "one", "--format", "jsonl")
    agree([json.loads(row) for row in one.out.splitlines()], two)
    words[words.index("3")] = "4"
    more = inside("train", *words[:-1], "--resume", "two", "--format", "jsonl")
    assert more.code == 0 and json.loads(more.out)["epoch"] == 4, more


@pytest.mark.slow
def test_the_finder_sees_in_two_processes_what_it_sees_in_one(inside, tmp_path):
    """Held-out rows too, which all look at, through batch norm."""
    words = ["digits", *NETWORKS["conv"].replace(":3", ":10").split(), "--seeds", "1", "--steps", "60", "--end", "0.01"]
    two = train(tmp_path, *words, "--nproc", "2", command="lrfind")
    one = [json.loads(row) for row in inside("lrfind", *words, "--format", "jsonl").out.splitlines()]
    assert len(one) == len(two) == 60
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(
    "how",
    [
        [],
        ["--accumulate", "3"],
        ["--class-weights", "balanced", "--clip", "1"],
        ["--label-smoothing", "0.1", "--ema", "0.9"],
        ["--swa", "0.5", "--l1", "0.001"],
        ["--shard"],
        ["--shard", "--ema", "0.9"],
        ["--shard", "--swa", "0.5"],
    ],
    ids=" ".join,
)
def test_a_hundred_steps_agree(inside, tmp_path, kind, how):
    """Promise 5: 105 steps, the loss of each epoch within 1e-6 of one process's."""
    words = [*common(tmp_path, kind, 15), "--lr", "0.001", *(h for h in how if h != "--shard"), "--out"]
    two = train(tmp_path, *words, "two", "--nproc", "2", *(h for h in how if h == "--shard"))
    one = inside("train", *words, "one", "--format", "jsonl")
    one = [json.loads(row) for row in one.out.splitlines()]
    gaps = [abs(a[name] - b[name]) for a, b in zip(one, two, strict=True) for name in ("train_loss", "valid_loss")]
    print("largest", kind, *how, max(gaps))
    agree(one, two)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tied_weights_in_shards(tmp_path, precision):
    (tmp_path / "letters.txt").write_text("abcdefghijklmnopqrstuvwxyz\n" * 60)
    network = ["embed:28,16", "pos", "sum(ln attn:2,causal=1 | )", "ln", "lmhead:28,tie=1"]
    words = ["letters.txt", *network, "--context", "16", "--batch-size", "13", "--epochs", "2", "--out"]
    one = train(tmp_path, *words, "one")
    two = train(tmp_path, *words, "two", "--nproc", "2", "--shard", "--precision", precision)
    for a, b in zip(one, two, strict=True):
        for loss in ("train_loss", "valid_loss"):
            assert a[loss] == pytest.approx(b[loss], rel=1e-6 if precision == "fp32" else 1e-2)
    refused = [*words, "three", "--nproc", "2", "--shard", "--checkpoint-activations"]
    assert train(tmp_path, *refused, code=2) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("shard", [False, True])
def test_a_checkpoint_fits_any_number_of_processes(tmp_path, first, then, shard):
    words = [*common(tmp_path, "conv", 6), "--schedule", "constant", "--lr", "0.001"]
    whole = train(tmp_path, *words, "--out", "whole")

    def spread(n: int) -> list[str]:
        return ["--nproc", "2", *(["--shard"] if shard else [])] if n == 2 else []

    half = [word if word != "6" else "3" for word in words]
    rows = train(tmp_path, *half, "--out", "run", *spread(first))
    rows += train(tmp_path, *words, "--resume", "run", *spread(then))
    agree(whole, rows)
    if first == then == 2 and not shard:  # and with the same number it is the same to the last bit
        straight = train(tmp_path, *words, "--out", "straight", *spread(2))
        agree(straight, rows, within=0.0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_under_torchrun(tmp_path):
    words = common(tmp_path, "conv", 3)
    agree(train(tmp_path, *words, "--out", "a"), train(tmp_path, *words, "--out", "b", launcher="torchrun"))


def running(folder, *words: str) -> tuple[subprocess.Popen, list[int]]:
    """Two processes under way, their first epoch done; their ids."""
    line = command_line("train", "digits", "--epochs", "1000", "--nproc", "2", "--format", "jsonl", *words)
    pipe = subprocess.PIPE
    process = subprocess.Popen(line, cwd=folder, env=environment(), stdout=pipe, stderr=pipe, text=True)
    assert json.loads(process.stdout.readline())["epoch"] == 1
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
        return process, [int(child) for child in children.read().split()]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
@pytest.mark.parametrize("who", ["launcher", "first", "second"])
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_any_process_stops_all(tmp_path, who, signum, code):
    process, children = running(tmp_path, "--out", "run")
    sent = time.monotonic()
    os.kill({"launcher": process.pid, "first": children[0], "second": children[1]}[who], signum)
    _, err = process.communicate(timeout=120)
    print("stopped after", round(time.monotonic() - sent, 2))
    assert process.returncode == code and err.count("dlkit: error:") == 1 and "--resume run" in err, err
    assert not any(os.path.exists(f"/proc/{child}") for child in children)
    assert (tmp_path / "run" / "manifest.json").exists()
    more = train(tmp_path, "digits", "--epochs", "1000", "--resume", "run", "--patience", "1")
    assert more[0]["epoch"] >= 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
@pytest.mark.parametrize("who", [0, 1])
def test_a_killed_process_ends_all_in_one_line(tmp_path, who):
    process, children = running(tmp_path, "--out", "run")
    os.kill(children[who], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 70 and err.count("dlkit: error:") == 1 and f"process {who} of 2 was killed" in err, err
    assert "Traceback" not in err and not any(os.path.exists(f"/proc/{child}") for child in children)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_killed_launcher_leaves_no_process_behind(tmp_path):
    process, children = running(tmp_path, "--out", "run")
    process.kill()
    process.communicate()
    until = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{child}") for child in children):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
@pytest.mark.parametrize("torchrun", [False, True])
def test_a_killed_process_is_replaced(tmp_path, torchrun):
    """Elastic: started again, they go on from the last checkpoint, to the end that an untroubled run has."""
    words = ["digits", "--epochs", "4", "--checkpoint-every", "10", "--format", "jsonl"]
    whole = train(tmp_path, *words[:-2], "--nproc", "2", "--out", "whole")
    start = ["-m", "torch.distributed.run", "--max-restarts", "2", "--nproc-per-node", "2"] if torchrun else []
    line = [sys.executable, *start, "-m", "dlkit", "train", *words, "--out", "run"]
    line += [] if torchrun else ["--nproc", "2", "--max-restarts", "2"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(line, cwd=tmp_path, env=environment(), stdout=pipe, stderr=pipe, text=True)
    process.stdout.readline()
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
        os.kill(int(children.read().split()[1]), signal.SIGKILL)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0 and "resuming run" in err, err
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    agree(whole, [json.loads(row) for row in lines], within=0.0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_error_of_one_process_is_shown_once(tmp_path):
    words = ["iris", "--epochs", "1", "--nproc", "2"]
    assert train(tmp_path, *words, "--out", "run")
    assert train(tmp_path, *words, "--out", "run", code=73) == []
    assert train(tmp_path, "nosuch.csv", "--nproc", "2", code=66) == []
    assert train(tmp_path, "iris", "linear:7", "--nproc", "2", code=2) == []
    for refused in (["--precision", "fp16"], ["--optimizer", "muon"]):
        assert train(tmp_path, *words, "--shard", *refused, code=2) == []


SHORT = """
import json, sys, numpy as np, torch
from dlkit.core import console
from dlkit.core.job import JobOptions
from dlkit.core.recipe import Recipe
from dlkit.nn.fit import fit
from dlkit.nn.prepare import prepare
from dlkit.nn.ranks import joined
from dlkit.nn.train import begin
from dlkit.nn.watch import Watch

def run(ranks, file, network, step, who, where):
    "Three epochs in which process `who` has no room for more than 3 rows from `step` on; nobody: parts of that size."
    job = prepare(JobOptions(file, tuple(network.split()), batch_size=26), Recipe(epochs=3), ranks)
    state, calls = begin(job), []
    take = type(state.stepper).__call__
    def call(stepper, *args):
        if who is None and state.step == step:
            stepper.accumulate = 8
        return take(stepper, *args)
    state.stepper.__class__ = type("Stepper", (type(state.stepper),), {"__call__": call})

    def full(gradient):
        raise torch.OutOfMemoryError("no room")

    def look(module, inputs, output):
        if module.training and ranks.rank == who and state.step >= step and len(output) > 3:
            calls.append(state.step)
            full(None) if where == "forward" else output.register_hook(full)

    state.model[0].register_forward_hook(look)
    with console.progress(0) as bar:
        epochs = fit(state, job.train, job.valid, job.objective, job.recipe, Watch(ranks=ranks), bar)
        losses = [[e.train_loss, e.valid_loss] for e in epochs]
    assert set(calls) <= {step} and bool(calls) == (ranks.rank == who), calls
    values = torch.cat([v.flatten().double() for v in state.model.state_dict().values()])
    return {"losses": losses, "values": values.tolist(), "accumulate": state.stepper.accumulate}

with joined() as ranks:
    print(json.dumps([run(ranks, *case) for case in json.loads(sys.argv[1])]))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["mlp", "wide", "conv"])
def test_out_of_memory_in_one_process_is_agreed_on(tmp_path, kind):
    """Promise 14 among processes, at any step: all take smaller parts, and the result is that of a run that took them
    by itself from that step on: the losses, the weights, and the statistics of batch norms, recorded once."""
    if kind == "wide":  # more than one bucket of gradients: one is on its way when memory runs out
        file, network = data(tmp_path, "mlp"), "linear:700 relu linear:700 relu linear:3"
    else:
        file, network = data(tmp_path, kind), NETWORKS[kind]
    steps = [0, 1, 5] if kind == "conv" else [0, 5]
    short = [(step, who, where) for step in steps for who in (0, 1) for where in ("forward", "backward")]
    cases = [(file, network, *case) for case in [*((step, None, "") for step in steps), *short]]
    started = []
    for rank in range(2):
        env = environment(RANK=str(rank), WORLD_SIZE="2", DLKIT_STORE=str(tmp_path / "store"), GLOO_SOCKET_IFNAME="lo")
        line = [sys.executable, "-c", SHORT, json.dumps(cases)]
        started.append(subprocess.Popen(line, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True))
    ends = [json.loads(p.communicate(timeout=800)[0]) for p in started]
    assert [p.returncode for p in started] == [0, 0]
    plain, largest = dict(zip(steps, ends[0], strict=False)), 0.0
    for (step, who, where), one, other in zip(short, ends[0][len(steps) :], ends[1][len(steps) :], strict=True):
        assert one["accumulate"] == other["accumulate"] == 8 and one["losses"] == other["losses"], (step, who, where)
        apart = [np.abs(np.subtract(one[part], plain[step][part])).max() for part in ("losses", "values")]
        assert max(apart) < 1e-6 and np.allclose(one["values"], other["values"], atol=1e-7), (step, who, where, apart)
        largest = max(largest, *apart)
    print("largest", largest)


@pytest.mark.gpu
@pytest.mark.parametrize("how", [[], ["--shard"], ["--shard", "--precision", "bf16", "--checkpoint-activations"]])
def test_devices_agree_with_one(tmp_path, how):
    """NCCL, where there are two devices."""
    if torch.cuda.device_count() < 2:
        pytest.skip("one device")
    words = [*common(tmp_path, "conv", 3), "--device", "cuda", "--schedule", "constant", "--out"]
    within = 5e-2 if "bf16" in how else 1e-4
    two = train(tmp_path, *words, "two", "--nproc", "2", *how)
    for a, b in zip(train(tmp_path, *words, "one"), two, strict=True):
        assert abs(a["train_loss"] - b["train_loss"]) < within
