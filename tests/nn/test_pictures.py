"""What a run and a range test look like: pictures with --plot, TensorBoard's files with --tensorboard."""

import json
import shutil
import statistics
import sys

import numpy as np
import pytest
from support import plain

from dlkit.data import figure

SHORT = ["lrfind", "iris", "linear:3", "--steps", "60"]
TRAIN = ["train", "iris", "linear:3", "--epochs", "3"]


@pytest.fixture
def drawn(monkeypatch):
    """The figures as they are written."""
    found, real = [], figure.write
    monkeypatch.setattr(figure, "write", lambda path, picture: found.append(picture) or real(path, picture))
    return found


def line(axes, label):
    return next(one for one in axes.get_lines() if one.get_label() == label)


@pytest.mark.parametrize("command", [TRAIN, SHORT])
@pytest.mark.parametrize(("name", "head"), [("p.png", b"\x89PNG"), ("p.SVG", b"<?xml"), ("p.pdf", b"%PDF")])
def test_a_picture_is_of_its_suffix(inside, tmp_path, command, name, head):
    assert inside(*command, "--plot", name, "-q").code == 0
    assert (tmp_path / name).read_bytes().startswith(head)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name] + ["runs"] * (command is TRAIN))


def test_the_curves_are_those_of_the_run(inside, drawn):
    rows = json.loads(inside(*TRAIN, "--plot", "p.png", "--json").out)["rows"]
    losses, metric, rate = drawn[0].axes
    for axes, label, key in ((losses, "train", "train_loss"), (losses, "validation", "valid_loss"),
                             (metric, "validation", "accuracy"), (rate, "lr", "lr")):  # fmt: skip
        assert list(line(axes, label).get_ydata()) == [row[key] for row in rows]
        assert list(line(axes, label).get_xdata()) == [1, 2, 3]
    best = max(rows, key=lambda row: (row["accuracy"], -row["epoch"]))
    assert metric.get_title() == f"accuracy: best {best['accuracy']:.5g} in epoch {best['epoch']}"


def test_a_regression_says_what_its_numbers_are_of(inside, drawn, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    rows = "\n".join(f"{a},{b}" for a, b in zip(x, 7 * x + rng.normal(size=200), strict=True))
    (tmp_path / "t.csv").write_text(f"a,price in $$ \x1b\n{rows}\n")
    words = ["t.csv", "linear:1", "--target", "price in $$ \x1b", "--epochs", "2", "--plot", "p.png"]
    assert inside("train", *words).code == 0
    losses, metric, _ = drawn[0].axes
    assert losses.get_ylabel() == "mean squared error\n(price in $$ \\x1b, standardised)"
    assert metric.get_ylabel() == "rmse\n(in the unit of price in $$ \\x1b)"


def test_signs_that_the_font_lacks_are_said_once(inside, tmp_path):
    (tmp_path / "t.csv").write_text("a,价格\n" + "\n".join(f"{i % 7},{i / 7}" for i in range(60)))
    ran = inside("train", "t.csv", "linear:1", "--target", "价格", "--epochs", "1", "--plot", "p.png", "--json")
    assert ran.code == 0 and ran.err.count("boxes") == 1 and "Warning" not in ran.err


def test_the_sweeps_and_what_the_rules_read_off_them(inside, drawn):
    words = [*SHORT, "--rule", "consensus", "--seeds", "2", "--verify", "1", "--plot", "p.png", "--json"]
    answer = json.loads(inside(*words).out)
    above, below = drawn[0].axes
    one, two = (line(above, f"sweep {i}, smoothed") for i in (1, 2))
    both = zip(one.get_ydata(), two.get_ydata(), strict=False)  # the curve of the answer is their mean
    assert [statistics.fmean(pair) for pair in both] == pytest.approx([row["smoothed"] for row in answer["rows"]])
    assert above.get_xscale() == "log" and below.get_xscale() == "log"
    for name, lr in answer["summary"]["suggestions"].items():
        assert list(line(above, f"{name} {lr:.2g}").get_xdata()) == [lr]
    assert any(label.get_label().startswith("consensus ") for label in above.get_lines())
    best = answer["summary"]["suggestion"]
    assert line(above, f"suggestion {best:.2g}").get_xdata()[0] == best
    runs = {run["lr"]: run["valid_loss"] for run in answer["summary"]["verified"]}
    assert dict(zip(*below.get_lines()[0].get_data(), strict=True)) == runs


def test_sweeps_without_a_minimum_are_drawn_too(inside, drawn, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", X=rng.normal(size=(4000, 3)), y=rng.integers(0, 2, 4000))
    assert inside("lrfind", "noise.npz", "linear:2", "--plot", "p.png").code == 1
    assert "no clear minimum" in drawn[0].axes[0].get_title() and (tmp_path / "p.png").stat().st_size


@pytest.mark.parametrize("command", [TRAIN, SHORT])
@pytest.mark.parametrize(
    ("name", "code", "word"), [("p.bmp", 2, ".png"), ("no/p.png", 73, "no"), ("there.png", 73, "already exists")]
)
def test_a_picture_that_cannot_be_written_is_refused_before_the_work(inside, tmp_path, command, name, code, word):
    (tmp_path / "there.png").write_bytes(b"mine")
    ran = inside(*command, "--plot", name)
    assert (ran.code, ran.out) == (code, "") and word in ran.err and ran.err.count("\n") <= 2
    assert [p.name for p in tmp_path.iterdir()] == ["there.png"]
    assert (tmp_path / "there.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("words", "modules", "extra"),
    [
        ([*TRAIN, "--plot", "p.png"], ["matplotlib", "matplotlib.figure"], "plot"),
        ([*SHORT, "--plot", "p.png"], ["matplotlib", "matplotlib.figure"], "plot"),
        ([*TRAIN, "--tensorboard"], ["tensorboard.summary.writer.record_writer"], "tensorboard"),
    ],
)
def test_an_extra_that_is_not_there_is_named_before_the_work(inside, tmp_path, monkeypatch, words, modules, extra):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    ran = inside(*words)
    assert (ran.code, ran.out) == (69, "") and f"dlkit[{extra}]" in ran.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--plot", "p.png"], ["--tensorboard"]])
def test_nothing_is_to_be_seen_of_a_dry_run(inside, tmp_path, words):
    ran = inside(*TRAIN, "--dry-run", *words)
    assert (ran.code, ran.out) == (2, "") and words[0] in ran.err
    assert not list(tmp_path.iterdir())


def shown(folder):
    """Tag -> [(step, value)], as TensorBoard reads the files of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_shows(folder, rows):
    found = shown(folder)
    for tag, key in (
        ("loss/train", "train_loss"),
        ("loss/valid", "valid_loss"),
        ("accuracy", "accuracy"),
        ("lr", "lr"),
    ):
        assert [step for step, _ in found[tag]] == [row["step"] for row in rows]
        assert [value for _, value in found[tag]] == pytest.approx([row[key] for row in rows], rel=1e-6)


def logged(run):
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_reads_what_was_logged(inside, tmp_path):
    assert inside(*TRAIN, "--watch", "--tensorboard", "--out", "run").code == 0
    run = tmp_path / "run"
    assert_shows(run / "tensorboard", logged(run))
    grads = [layer["grad_norm"] for row in logged(run) for layer in row["layers"] if layer["layer"] == "linear1"]
    assert [value for _, value in shown(run / "tensorboard")["grad_norm/linear1"]] == pytest.approx(grads, rel=1e-6)
    names = json.loads((run / "manifest.json").read_text())["sha256"]
    assert [name for name in names if name.startswith("tensorboard/events.out.tfevents.")]
    assert inside("eval", "run", "iris").code == 0


def test_a_resumed_run_shows_each_step_once(inside, tmp_path):
    """Longer, twice: with what was logged after the checkpoint that it goes on from, and with half a record at the end
    of the file, as a crash leaves them."""
    run = tmp_path / "run"
    words = ["train", "iris", "linear:3", "--schedule", "constant", "--tensorboard"]
    assert inside(*words, "--epochs", "2", "--out", "run").code == 0
    shutil.copytree(run / "checkpoint", tmp_path / "before")
    assert inside("train", "--resume", "run", "--epochs", "4").code == 0  # where there are such files they go on
    assert_shows(run / "tensorboard", logged(run))
    shutil.rmtree(run / "checkpoint")
    shutil.copytree(tmp_path / "before", run / "checkpoint")
    last = max((run / "tensorboard").iterdir())
    last.write_bytes(last.read_bytes()[:-5])
    assert inside("train", "--resume", "run", "--epochs", "5", "--tensorboard").code == 0
    assert [row["epoch"] for row in logged(run)] == [1, 2, 3, 4, 5]
    assert_shows(run / "tensorboard", logged(run))
    assert len(list((run / "tensorboard").iterdir())) == 3


def test_what_was_seen_too_late_is_seen_from_the_first_epoch_on(inside, drawn, tmp_path):
    """A run that is taken up shows its earlier epochs, and draws over the picture that it left."""
    words = ["train", "iris", "linear:3", "--schedule", "constant"]
    assert inside(*words, "--epochs", "2", "--plot", "p.png", "--out", "run").code == 0
    assert inside("train", "--resume", "run", "--epochs", "4", "--plot", "p.png", "--tensorboard").code == 0
    assert [len(line(picture.axes[0], "train").get_xdata()) for picture in drawn] == [2, 4]
    assert_shows(tmp_path / "run" / "tensorboard", logged(tmp_path / "run"))


@pytest.mark.parametrize(
    ("width", "left_out"), [(100, set()), (60, {"lr", "samples/s"}), (44, {"step", "lr", "samples/s"})]
)
def test_rows_stand_under_their_headings_at_any_width(terminal, width, left_out):
    """What a narrow terminal has no room for is left out whole, the loss and the metric never."""
    lines = plain(terminal(*TRAIN, columns=width).out).splitlines()
    heading = next(text for text in lines if "epoch" in text and "valid loss" in text)
    rows = [text for text in lines if text.rstrip().endswith(("%", *"0123456789")) and text.strip()[0] in "123"]
    names = ["epoch", "step", "lr", "train loss", "valid loss", "accuracy", "samples/s"]
    kept = [name for name in names if name not in left_out]
    assert [name for name in names if name in heading] == kept
    for text in (heading, *rows):
        assert len(text.rstrip()) <= width
    ends = [heading.index(name) + len(name) for name in kept]
    for row, epoch in zip(rows, "123", strict=True):
        cells = [row[start:end].strip() for start, end in zip([0, *ends], ends, strict=False)]
        assert all(cells) and cells[0] == epoch and cells[kept.index("accuracy")].endswith(" %")
        assert not row[ends[-1] :].strip()
