"""A run cut anywhere and taken up again ends with the same bits: promise 3. And what may not be taken up is refused."""

import hashlib
import json
import random
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from test_contract import assert_error

from dlkit.core import console
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.job import JobOptions
from dlkit.core.recipe import Recipe
from dlkit.core.run import RunDirectory
from dlkit.nn.checkpoint import Checkpoints, header, listed, read
from dlkit.nn.fit import fit
from dlkit.nn.job import Job
from dlkit.nn.prepare import prepare
from dlkit.nn.state import State
from dlkit.nn.train import begin, config
from dlkit.nn.tree import pack
from dlkit.nn.watch import Watch

NETWORKS = {
    "mlp": "linear:16 relu dropout:0.2 linear:3",
    "conv": "conv:4,k3,p1,bias=0 bn relu dropout:0.2 maxpool:k2 flatten linear:3",
    "attention": "conv:8,k2,s2 tokens sum(ln attn:2 dropout:0.2 | ) sum(ln mlp:16 | ) ln select:last linear:3",
}
SHAPES = {"mlp": (4,), "conv": (2, 6, 6), "attention": (2, 6, 6)}
ROWS, BATCH = 53, 8  # 42 to train on: five steps of 8 and one of 2


class StopAt(Watch):
    """A stop at a given step, or at the first look at the evaluation of a given epoch."""

    def __init__(self, step: int, evaluation: int = 0) -> None:
        super().__init__()
        self.step, self.evaluation, self.now = step, evaluation, 0

    def look(self, step: int) -> bool:
        self.now = step
        self.code = ExitCode.TERMINATED if step == self.step else None
        return self.stopped

    def stops(self) -> bool:
        halfway = self.evaluation and self.now == 6 * self.evaluation
        self.code = ExitCode.TERMINATED if halfway else None
        return self.stopped


@pytest.fixture
def make(tmp_path):
    def job(kind: str, labels: int = 0, **said) -> Job:
        rng = np.random.default_rng(3)
        path = tmp_path / f"{kind}.npz"
        y = np.random.default_rng(4).integers(0, 2, (ROWS, labels)) if labels else np.arange(ROWS) % 3
        np.savez(path, X=rng.normal(size=(ROWS, *SHAPES[kind])).astype(np.float32), y=y)
        options = JobOptions(str(path), tuple(NETWORKS[kind].split()), batch_size=BATCH)
        return prepare(options, Recipe(**{"epochs": 3, "lr": 0.01} | said))

    return job


def train(job: Job, state: State, watch: Watch) -> list:
    with console.progress(0) as bar:
        epochs = fit(state, job.train, job.valid, job.objective, job.recipe, watch, bar)
        return [(e.epoch, e.step, e.lr, e.train_loss, e.valid_loss, e.metric) for e in epochs if e]


def digest(state: State) -> str:
    tensors: dict[str, torch.Tensor] = {}
    facts = pack(state.state_dict(), "", tensors)
    whole = hashlib.sha256(json.dumps(facts).encode())
    for name in sorted(tensors):
        whole.update(name.encode() + tensors[name].detach().contiguous().numpy().tobytes())
    return whole.hexdigest()


def cut_and_resumed(job: Job, watches: list[Watch], folder) -> tuple[list, str]:
    """The rows and the digest of a run that each watch stopped in turn, every part by a process as good as new."""
    rows = []
    with RunDirectory.create(str(folder), "x") as directory:
        for i, watch in enumerate([*watches, Watch()]):
            torch.manual_seed(random.randrange(2**31))
            torch.rand(7)
            state = begin(job)
            checkpoints = Checkpoints(directory, 2, config(job))
            if i:
                checkpoints.latest().restore(state)
            rows += train(job, state, watch)
            assert watch.stopped == (i < len(watches))
            checkpoints.save(state)
        return rows, digest(state)


# Six steps an epoch: in its middle, before and at its end, at the start of the next, before the very last batch, twice.
CUTS = [[3], [5], [6], [7], [17], [2, 11]]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_exact(make, tmp_path, kind, cuts):
    job = make(kind)
    whole = begin(job)
    rows = train(job, whole, Watch())
    assert len(rows) == 3
    assert cut_and_resumed(job, [StopAt(cut) for cut in cuts], tmp_path / "run") == (rows, digest(whole))


RECIPES = [
    {"optimizer": "sgd"},
    {"optimizer": "muon", "schedule": "plateau"},
    {"optimizer": "rmsprop", "schedule": "cosine", "clip": 0.5, "l1": 1e-4},
    {"ema": 0.9, "accumulate": 3},
    {"swa": 0.5},
    {"precision": "bf16", "accumulate": 2},
    {"precision": "fp16"},
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: "-".join(map(str, r.values())))
def test_exact_with_every_part_of_the_state(make, tmp_path, recipe):
    """Moments, loss scale, averages, the plateau's memory; cut in a step's middle and while an epoch is judged."""
    job = make("attention" if recipe.get("optimizer") == "muon" else "conv", **recipe)  # Muon is for hidden matrices
    whole = begin(job)
    rows = train(job, whole, Watch())
    cuts = [StopAt(4), StopAt(0, evaluation=2), StopAt(13)]
    assert cut_and_resumed(job, cuts, tmp_path / "run") == (rows, digest(whole))


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        ("mlp", {"class_weights": "balanced", "label_smoothing": 0.1}),
        ("conv", {"augment": "flip,mixup:0.4"}),
        ("conv", {"loss": "focal", "accumulate": 3, "ema": 0.9}),
    ],
)
def test_exact_with_several_labels(make, tmp_path, kind, recipe):
    job = make(kind, labels=3, **recipe)
    assert job.objective.task == "multi-label"
    whole = begin(job)
    rows = train(job, whole, Watch())
    cuts = [StopAt(4), StopAt(0, evaluation=2), StopAt(13)]
    assert cut_and_resumed(job, cuts, tmp_path / "run") == (rows, digest(whole))


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("recipe", [{}, *RECIPES], ids=lambda r: "-".join(map(str, r.values())))
def test_exact_at_every_step(make, tmp_path, kind, recipe):
    job = make(kind, **recipe)
    whole = begin(job)
    rows = train(job, whole, Watch())
    for step in range(1, 18):
        found = cut_and_resumed(job, [StopAt(step)], tmp_path / f"run{step}")
        assert found == (rows, digest(whole)), step
    for epoch in (1, 2, 3):
        found = cut_and_resumed(job, [StopAt(0, evaluation=epoch)], tmp_path / f"eval{epoch}")
        assert found == (rows, digest(whole)), epoch


# From the command line -----------------------------------------------------------------------------------------------


def trained(inside, *words: str) -> dict:
    ran = inside("train", *words, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def ends(run) -> tuple[list, dict]:
    """What metrics.jsonl says but times, and the tensors of the newest checkpoint and of the best weights."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if "second" not in k} for row in lines]
    files = [listed(run / "checkpoint")[0], run / "model.safetensors"]
    return rows, {f"{i}{k}": v.numpy().tobytes() for i, path in enumerate(files) for k, v in load_file(path).items()}


IRIS = ["iris", "linear:8", "relu", "linear:3", "--epochs", "4", "--batch-size", "32"]


def rolled_back(run, to) -> None:
    """The directory as kill -9 soon after an early checkpoint leaves it: no manifest, a torn file, a torn line."""
    shutil.copytree(run, to)
    for path in listed(to / "checkpoint")[:-1]:
        path.unlink()
    (to / "manifest.json").unlink()
    (to / "model.safetensors").unlink()
    (to / "checkpoint" / ".000000004-000001-ab.safetensors.x1y2z3").write_bytes(b"torn")
    with (to / "metrics.jsonl").open("a") as log:
        log.write('{"epoch": 5, "st')


def test_a_killed_run_ends_as_the_untroubled_one(inside, tmp_path):
    trained(inside, *IRIS, "--out", "whole", "--checkpoint-every", "6", "--keep", "9")
    rolled_back(tmp_path / "whole", tmp_path / "killed")
    assert len(listed(tmp_path / "killed" / "checkpoint")) == 1
    again = trained(inside, *IRIS, "--resume", "killed")
    assert again["summary"]["epochs"] == 4
    assert ends(tmp_path / "killed") == ends(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob(".*"))
    assert inside("train", *IRIS, "--resume", "killed", "-q").out.strip() == str(again["summary"]["best"])


def test_auto_takes_up_what_this_command_began(inside, tmp_path):
    trained(inside, *IRIS, "--checkpoint-every", "6", "--keep", "9")
    runs = tmp_path / "runs"
    first = runs / "iris-net-1"
    shutil.move(first, tmp_path / "whole")
    rolled_back(tmp_path / "whole", first)
    # Another rate is another command: it begins a run of its own and leaves the first alone.
    assert trained(inside, *IRIS, "--resume", "auto", "--lr", "0.1")["summary"]["run"].endswith("iris-net-2")
    assert trained(inside, *IRIS, "--resume", "auto")["summary"]["run"].endswith("iris-net-1")
    assert ends(first) == ends(tmp_path / "whole")
    assert trained(inside, *IRIS, "--resume", "auto")["summary"]["run"].endswith("iris-net-3")
    # With --out the directory itself is the job: begun, gone on with, or done.
    for _ in range(2):
        assert trained(inside, *IRIS, "--resume", "auto", "--out", "job")["summary"]["epochs"] == 4
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    ran = inside("train", *IRIS, "--resume", "auto", "--out", "mine")
    assert (ran.code, ran.out) == (73, "") and "thesis.tex" in ran.err


def test_more_epochs_are_harmless(inside, tmp_path):
    trained(inside, *IRIS, "--out", "run", "--schedule", "constant")
    more = [word if word != "4" else "6" for word in IRIS]
    answer = trained(inside, *more, "--resume", "run", "--schedule", "constant", "--patience", "9")
    assert [row["epoch"] for row in answer["rows"]] == [5, 6]
    trained(inside, *more, "--out", "straight", "--schedule", "constant")
    assert ends(tmp_path / "run")[1].keys() == ends(tmp_path / "straight")[1].keys()
    assert ends(tmp_path / "run") == ends(tmp_path / "straight")


def test_what_is_looked_at_is_harmless(inside, tmp_path):
    """--watch may be said anew: it measures, and changes no bit."""
    trained(inside, *IRIS, "--out", "whole", "--checkpoint-every", "6", "--keep", "9")
    rolled_back(tmp_path / "whole", tmp_path / "run")
    again = trained(inside, *IRIS, "--watch", "--resume", "run")
    assert all(row["layers"] for row in again["rows"])
    (whole, tensors), (watched, same) = (ends(tmp_path / name) for name in ("whole", "run"))
    assert same == tensors and [{k: v for k, v in row.items() if k != "layers"} for row in watched] == whole


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["iris", "linear:9", "relu", "linear:3"], ["network", "linear:8", "linear:9"]),
        (["wine", "linear:8", "relu", "linear:3"], ["data", "fingerprint"]),
        ([*IRIS[:4], "--lr", "0.5"], ["--lr", "0.003", "0.5"]),
        ([*IRIS[:4], "--seed", "1"], ["--seed", "0", "1"]),
        ([*IRIS[:4], "--optimizer", "sgd"], ["--optimizer", "adamw", "sgd"]),
    ],
)
def test_what_differs_is_refused_by_name(inside, tmp_path, words, said):
    trained(inside, *IRIS, "--out", "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    ran = inside("train", *words, "--batch-size", "32", "--resume", "run")
    assert (ran.code, ran.out) == (2, ""), ran
    for word in said:
        assert word in ran.err.splitlines()[-2], ran.err
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_changed_rows_are_refused(inside, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("a,y\n" + "".join(f"{i / 7:.3f},{'no' if i % 3 else 'yes'}\n" for i in range(40)))
    words = ["t.csv", "--target", "y", "--epochs", "1"]
    trained(inside, *words, "--out", "run")
    table.write_text(table.read_text().replace("\n2.429,", "\n2.428,"))
    ran = inside("train", *words, "--resume", "run")
    assert ran.code == 2 and "data" in ran.err


def test_nothing_to_resume(inside, tmp_path):
    for words in (IRIS, []):
        ran = inside("train", *words, "--resume", "nowhere")
        assert_error(ran, 66)
        assert "nowhere: no such run directory" in ran.err
    (tmp_path / "empty").mkdir()
    for words in (IRIS, []):
        ran = inside("train", *words, "--resume", "empty")
        assert (ran.code, ran.out) == (66, "") and "no checkpoint" in ran.err


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(inside, tmp_path):
    """Promise 8: a flipped bit anywhere; with nothing whole left, the run is refused."""
    trained(inside, *IRIS, "--out", "whole", "--checkpoint-every", "6")
    run = tmp_path / "whole"
    newest, older = listed(run / "checkpoint")
    rng = random.Random(0)
    flip(newest, rng)
    again = inside("train", *IRIS, "--resume", "whole", "--json", "--checkpoint-every", "6")
    assert again.code == 0 and newest.name in again.err and "damaged" in again.err
    for path in listed(run / "checkpoint"):
        flip(path, rng)
    ran = inside("train", *IRIS, "--resume", "whole")
    assert (ran.code, ran.out) == (65, "")
    assert older


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_flipped_bit_makes_a_checkpoint_none(inside, tmp_path, count):
    trained(inside, *IRIS, "--out", "run")
    newest = listed(tmp_path / "run" / "checkpoint")[0]
    whole, rng = newest.read_bytes(), random.Random(0)
    for _ in range(count):
        flip(newest, rng)
        assert read(newest) is None
        newest.write_bytes(whole)
    assert read(newest) == whole


def test_what_somebody_else_wrote_is_no_checkpoint(inside, tmp_path):
    """Whole by its name, but of another kind, or of another network: refused or passed over, without running code."""
    trained(inside, *IRIS, "--out", "run")
    newest = listed(tmp_path / "run" / "checkpoint")[0]
    good = header(newest) | {"best": None, "aliases": {}}
    for facts, code in (
        (None, 0),
        ({}, 0),
        (good | {"best": "../../../etc/passwd"}, 0),
        (good | {"state": 5}, 65),
        (good | {"state": {"dict": [["model", {"tensor": "w"}]]}}, 65),
        (good | {"state": {"tensor": "nothing"}}, 65),
        (good | {"config": {"fingerprint": "another"}}, 2),
    ):
        data = save({"w": torch.zeros(3)}, None if facts is None else {"dlkit": json.dumps(facts)})
        forged = newest.with_name(f"{10**8:09d}-000099-{hashlib.sha256(data).hexdigest()}.safetensors")
        forged.write_bytes(data)
        ran = inside("train", *IRIS, "--resume", "run")
        assert ran.code == code and "internal error" not in ran.err, (facts, ran)
        forged.unlink(missing_ok=True)


def flip(path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_first_checkpoint_is_as_large_as_the_last(inside, tmp_path, optimizer):
    """Moments at zero and all: a disk that has room for it has room for the run; and they change nothing."""
    trained(inside, *IRIS, "--optimizer", optimizer, "--out", "run")
    last, first = listed(tmp_path / "run" / "checkpoint")
    sizes = [sum(v.numel() for v in load_file(path).values()) for path in (first, last)]
    assert first.name.startswith("000000000") and sizes[0] == sizes[1]
    job = prepare(JobOptions("iris", ("linear:4", "linear:3")), Recipe(epochs=2, optimizer=optimizer))
    plain, roomy = begin(job), begin(job)
    roomy.stepper.make_room()
    assert train(job, plain, Watch()) == train(job, roomy, Watch()) and digest(plain) == digest(roomy)


def test_a_run_says_what_it_was_told(inside, tmp_path):
    """--resume alone; what is said anew must be harmless; without either there is no data."""
    trained(inside, *IRIS, "--out", "run", "--seed", "3", "--target", "target")
    rows = trained(inside, "--resume", "run", "--epochs", "6")["rows"]
    assert [row["epoch"] for row in rows] == [5, 6]
    ran = inside("train", "--resume", "run", "--seed", "4")
    assert ran.code == 2 and "--seed was 3, it is 4" in ran.err
    for words in ([], ["--resume", "auto"]):
        ran = inside("train", *words)
        assert (ran.code, ran.out) == (2, "") and "DATA" in ran.err
    (tmp_path / "run" / "config.json").write_text("[]")
    assert inside("train", "--resume", "run").code == 65
    assert inside("train", "--resume", "nowhere").code == 66


def test_what_is_left_unsaid_beside_the_data_is_as_the_run_was_told(inside):
    trained(inside, *IRIS, "--out", "run", "--lr", "0.01")
    assert [row["epoch"] for row in trained(inside, "iris", "--resume", "run", "--epochs", "5")["rows"]] == [5]
    assert [row["epoch"] for row in trained(inside, *IRIS[1:4], "--resume", "run", "--epochs", "6")["rows"]] == [6]


def test_a_run_goes_on_from_any_folder(dlkit, tmp_path):
    """The table, the network's file and the run that it began with were named from another one."""
    rows = "".join(f"{i / 7:.3f},{i % 5},{'no' if i % 3 else 'yes'}\n" for i in range(40))
    (tmp_path / "t.csv").write_text(f"a,b,y\n{rows}")
    (tmp_path / "net.dlk").write_text("linear:8\nrelu linear:2")
    (tmp_path / "elsewhere").mkdir()
    words = ["train", "t.csv", "--target", "y", "--epochs", "1", "-q"]
    assert dlkit(*words, "@net.dlk", "--out", "first").code == 0
    assert dlkit(*words, "--init-from", "first", "--lora", "r=2", "--out", "second").code == 0
    for run in ("first", "second"):
        ran = dlkit("train", "--resume", f"../{run}", "--epochs", "2", "-q", cwd=tmp_path / "elsewhere")
        assert ran.code == 0, ran.err
    ran = dlkit("train", "--resume", "../second", "--init-from", "../second", cwd=tmp_path / "elsewhere")
    assert_error(ran, 2)
    assert "--init-from was first, it is second" in ran.err
    (tmp_path / "first").rename(tmp_path / "elsewhere" / "first")
    ran = dlkit("train", "--resume", "second", "--epochs", "3")
    assert_error(ran, 66)
    assert "first, the run that it began with, is not there" in ran.err
    words = ["train", "--resume", "second", "--init-from", "elsewhere/first", "--epochs", "3", "-q"]
    assert dlkit(*words).code == 0


def test_epochs_that_are_done(inside, tmp_path):
    """Fewer than there are behind it are refused; as many are no error, since a job may be run again, and are said."""
    trained(inside, *IRIS, "--out", "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    ran = inside("train", "--resume", "run", "--epochs", "3")
    assert_error(ran, 2)
    assert "4 epochs of it are done, and --epochs is 3" in ran.err and "--epochs 5" in ran.err
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before
    ran = inside("train", "--resume", "run")
    assert ran.code == 0 and "nothing is left to train" in ran.err


def test_another_directory_or_a_file_is_no_run_to_resume(inside, tmp_path):
    trained(inside, *IRIS, "--out", "run")
    ran = inside("train", "--resume", "run", "--epochs", "5", "--out", "other")
    assert_error(ran, 2)
    assert "--out has no effect" in ran.err and not (tmp_path / "other").exists()
    (tmp_path / "file").write_text("")
    for words in (IRIS, []):
        ran = inside("train", *words, "--resume", "file")
        assert_error(ran, 65)
        assert "file: a file, where the directory of a run is needed" in ran.err
    (tmp_path / "run" / "config.json").write_text('{"command": "cluster"}')
    ran = inside("train", "--resume", "run")
    assert_error(ran, 2)
    assert "a run of cluster" in ran.err
    (tmp_path / "run" / "config.json").unlink()
    ran = inside("train", "--resume", "run")
    assert_error(ran, 66)
    assert "run/config.json: no such file" in ran.err


def test_another_target_is_named_before_what_follows_from_it(inside, tmp_path):
    table = "a,b,c\n" + "".join(
        f"{i / 7:.3f},{'no' if i % 3 else 'yes'},{'xyz'[i % 3] if i % 9 else ''}\n" for i in range(60)
    )
    (tmp_path / "t.csv").write_text(table)
    trained(inside, "t.csv", "--target", "b", "--epochs", "1", "--out", "run")
    ran = inside("train", "t.csv", "--target", "c", "--resume", "run")
    assert_error(ran, 2)
    assert "--target was b, it is c" in ran.err.splitlines()[-2]
    ran = inside("train", "t.csv", "--target", "c", "--init-from", "run")
    assert_error(ran, 2)
    assert "the network of --init-from run does not fit: " in ran.err and "NETWORK" in ran.err.splitlines()[-1]


def test_only_the_newest_are_kept(inside, tmp_path):
    trained(inside, *IRIS, "--out", "run", "--checkpoint-every", "1", "--keep", "3")
    kept = listed(tmp_path / "run" / "checkpoint")
    assert [int(p.name[:9]) for p in kept] == [16, 16, 15] and len(list(kept[0].parent.glob("best-*"))) >= 1
    for newer, older in pairwise(kept):
        assert newer.name > older.name or newer.name[:16] == older.name[:16]


def test_a_run_in_use_is_refused(inside, tmp_path):
    """Promise 12, at its smallest: the lock is the kernel's, so a holder that died holds nothing."""
    trained(inside, *IRIS, "--out", "run")
    with RunDirectory.reopen(tmp_path / "run"):
        ran = inside("train", *IRIS, "--resume", "run")
        assert (ran.code, ran.out) == (73, "") and "in use by process" in ran.err
        with pytest.raises(DlkitError):
            RunDirectory.reopen(tmp_path / "run")
    assert inside("train", *IRIS, "--resume", "run").code == 0


@pytest.mark.parametrize("value", ["0", "0s", "5y", "-3", "soon", "1e40d"])
def test_intervals_refused_by_name(inside, value):
    ran = inside("train", "iris", "--checkpoint-every", value)
    assert (ran.code, ran.out) == (2, "") and "--checkpoint-every" in ran.err and repr(value) in ran.err
