"""The contract that every command keeps: formats, quiet, errors, exit codes, streams. A new command inherits it all."""

import array
import csv
import fcntl
import io
import json
import os
import signal
import subprocess
import termios
import time
from itertools import count
from pathlib import Path

import pytest
from support import command_line, environment, plain

import dlkit

COMMANDS = sorted(p.stem for p in (Path(dlkit.__file__).parent / "commands").glob("[!_]*.py"))

RUN, NEW, HONEST = "RUN", "NEW", "HONEST"
"""In a command line: the directory of a finished run of `train iris`, the stem of a file that is not there yet, and a
table whose column `side` is an honest split."""

QUICK = {
    "convshape": ["3x32x32", "conv:8,k3", "relu", "gap", "linear:10"],
    "models": [],
    "rf": ["conv:8,k3,s2", "relu"],
    "train": ["iris", "--epochs", "2"],
    "lrfind": ["iris", "--steps", "40", "--seeds", "1"],
    "flops": ["70B", "--tokens", "1.4T"],
    "memory": ["7.5B", "--gpus", "64", "--zero", "2"],
    "export": [RUN, f"{NEW}.pt2"],
    "split": ["iris", "--stratify", "target", "--dry-run"],
    "splitcheck": [HONEST, "--split", "side", "--target", "y", "--model", "linear"],
    "eval": [RUN, "iris"],
    "predict": [RUN, "iris"],
    "baseline": ["iris", "--models", "tree", "--tries", "1", "--folds", "2", "--budget", "10m"],
    "cluster": ["iris", "--k", "2:3", "--models", "kmeans", "--bootstrap", "2"],
}
"""One quick, successful invocation of each command."""

TRAINS = ["train", "lrfind"]
READS_DATA = [*TRAINS, "split", "splitcheck", "baseline", "cluster"]

SUMMARY = {
    "convshape": {"input", "output", "params", "macs", "flops", "rf"},
    "models": set(),
    "rf": {"rf", "stride", "padding"},
    "train": {"run", "task", "params", "epochs", "steps", "metric", "best", "seconds", "samples_per_second", "device"},
    "lrfind": {"suggestion", "method", "low", "high", "suggestions"},
    "flops": {
        *("params", "active_params", "tokens", "train_flops", "forward_flops", "backward_flops"),
        *("gpu_hours", "days", "cost"),
    },
    "memory": {"per_gpu_bytes", "total_bytes"},
    "export": {"file", "format", "bytes", "max_difference"},
    "split": {"method", "train_rows", "valid_rows", "test_rows"},
    "splitcheck": {"auc", "auc_low", "auc_high", "p_value", "top_features"},
    "eval": {"accuracy", "balanced_accuracy", "f1_macro", "auc", "log_loss", "brier", "rows"},
    "predict": {"rows"},
    "baseline": {"task", "metric", "best", "score", "score_se", "rows", "features", "folds", "run"},
    "cluster": {"model", "k", "criterion", "silhouette", "bic", "inertia", "clusters", "rows", "run"},
}
ROW = {
    "convshape": {"layer", "op", "output", "params", "macs", "rf", "jump"},
    "models": {"name"},
    "rf": {"layer", "op", "rf", "stride", "padding"},
    "train": {"epoch", "step", "lr", "train_loss", "valid_loss", "accuracy"},
    "lrfind": {"step", "lr", "loss", "smoothed"},
    "flops": {"component", "params", "forward_flops", "backward_flops"},
    "memory": {"component", "bytes"},
    "export": {"tensor", "shape", "type", "holds", "names"},
    "split": {"split", "path", "rows"},
    "splitcheck": {"check", "verdict", "value", "threshold", "detail"},
    "eval": {"class", "rows", "precision", "recall", "f1"},
    "predict": {"sepal length (cm)", "target", "prediction", "p_setosa", "p_versicolor", "p_virginica"},
    "baseline": {"model", "score", "score_se", "fit_seconds", "predict_seconds"},
    "cluster": {"k", "model", "silhouette", "bic", "inertia"},
}
every_command = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture
def quick(request):
    """quick(command) is the command line of QUICK, with a run and a new file put in where it needs them."""
    names = (f"new{i}" for i in count())

    made = {RUN: "finished_run", HONEST: "honest_table"}

    def word(text: str) -> str:
        return str(request.getfixturevalue(made[text])) if text in made else text.replace(NEW, next(names))

    return lambda command: [command, *map(word, QUICK[command])]


def assert_error(ran, code: int, *words: str) -> None:
    """One line of error, stdout empty, the right exit code, the words that help, and no traceback."""
    assert (ran.code, ran.out) == (code, ""), ran
    lines = ran.err.splitlines()
    assert sum(line.startswith("dlkit: error: ") for line in lines) == 1, ran.err
    assert "Traceback" not in ran.err
    for word in words:
        assert word in ran.err, ran.err


def test_every_command_is_covered():
    assert set(QUICK) == set(SUMMARY) == set(ROW) == set(COMMANDS)


@every_command
def test_help_teaches(inside, command):
    ran = inside(command, "--help")
    assert ran.code == 0 and ran.err == ""
    assert ran.out.index("Examples:") < ran.out.index("Options:")
    assert f"\n  dlkit {command}" in ran.out
    assert inside(command, "-h").out == ran.out


def test_root_help_lists_commands_with_their_summaries(dlkit):
    ran = dlkit("--help")
    assert ran.code == 0
    for command in COMMANDS:
        module = (Path(dlkit_folder()) / "commands" / f"{command}.py").read_text()
        assert f"  {command} " in ran.out and module.splitlines()[0].strip('"')[:30] in ran.out


def dlkit_folder() -> Path:
    return Path(dlkit.__file__).parent


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(dlkit, flag):
    from dlkit import __version__

    assert dlkit(flag) == (0, f"dlkit {__version__}\n", "")


@every_command
def test_formats_agree(inside, quick, command):
    whole = json.loads(inside(*quick(command), "--json").out)
    assert list(whole) == ["command", "version", "ok", "summary", "rows"]
    assert whole["command"] == command and whole["ok"] is True
    assert SUMMARY[command] <= set(whole["summary"])
    assert whole["rows"] and all(ROW[command] <= set(row) for row in whole["rows"])

    lines = [json.loads(line) for line in inside(*quick(command), "--format", "jsonl").out.splitlines()]
    header, *cells = [line.split("\t") for line in inside(*quick(command), *_tsv(command)).out.splitlines()]
    assert len(lines) == len(cells) == len(whole["rows"])
    assert all(len(row) == len(header) for row in cells)
    names, *records = list(csv.reader(io.StringIO(inside(*quick(command), "--format", "csv").out)))
    assert names == header and len(records) == len(cells)
    # What may differ between two runs of the same command.
    timed = {"seconds", "samples_per_second", "fit_seconds", "predict_seconds", "memory_bytes", "run", "file"}
    same = [i for i, name in enumerate(header) if name not in timed]
    assert [[row[i] for i in same] for row in records] == [[row[i] for i in same] for row in cells]
    for row, line in zip(whole["rows"], lines, strict=True):
        assert {k: v for k, v in row.items() if k not in timed} == {k: v for k, v in line.items() if k not in timed}


def _tsv(command: str) -> list[str]:
    return ["--format", "tsv"]


@every_command
def test_a_pipe_gets_tsv_and_quiet_one_value(inside, quick, command):
    tsv = inside(*quick(command), "--format", "tsv")
    assert inside(*quick(command)).out.splitlines()[0] == tsv.out.splitlines()[0]
    quiet = inside(*quick(command), "-q")
    assert quiet.code == 0 and quiet.err == ""
    assert quiet.out.count("\n") == 1 and "\t" not in quiet.out and quiet.out.strip()


@every_command
@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_gets_a_table(terminal, quick, command, colour):
    ran = terminal(*quick(command), **({} if colour else {"NO_COLOR": "1"}))
    assert ran.code == 0
    assert "─" in ran.out and "\t" not in ran.out
    if not colour:
        assert "\x1b[3" not in ran.out.replace("\x1b[?25", "")


@every_command
def test_usage_errors(inside, quick, command):
    words = [*quick(command), "--no-such-option"]
    assert_error(inside(*words), 2, "--no-such-option", f"dlkit {command} --help")
    ran = inside(*words, "--json")
    assert ran.code == 2 and ran.out == ""
    assert_error(inside(*quick(command), "--format"), 2, "--format", f"dlkit {command} --help")
    body = json.loads(ran.err)
    assert body["error"]["code"] == 2 and "--no-such-option" in body["error"]["message"]
    assert set(body["error"]) == {"code", "message", "hint"}


@every_command
def test_an_option_of_one_value_is_taken_once(inside, quick, command):
    """The last one would win without a word; a flag may be said twice, and help is given whatever is wrong."""
    words = [*quick(command), "--format", "csv", "--format=tsv"]
    assert_error(inside(*words), 2, "--format is given twice")
    assert inside(*words, "--help").code == 0


def test_options_by_other_names_are_the_same_option(inside):
    assert_error(inside("convshape", "224", "-k", "7", "--kernel-size", "3"), 2, "--kernel-size is given twice")
    assert_error(inside("train", "iris", "--nesterov", "--no-nesterov"), 2, "--nesterov/--no-nesterov is given twice")
    assert inside("convshape", "3x9x9", "relu", "-q", "--quiet").out == "3x9x9\n"


COLUMNS = ("--numeric", "--categorical", "--datetime", "--text", "--id", "--drop", "--target", "--group", "--time")


@pytest.mark.parametrize("option", COLUMNS)
def test_a_column_that_is_not_there_is_named_with_its_option(inside, tmp_path, option):
    """A group's column is an identifier too; several by comma are not one."""
    (tmp_path / "x.csv").write_text("age,size,y\n" + "1,2,0\n2,3,1\n" * 20)
    target = [] if option == "--target" else ["--target", "y"]
    for command in ("train", "baseline"):
        ran = inside(command, "x.csv", *target, option, "agge")
        assert_error(ran, 2, f"{option}: x.csv has no column 'agge'", "did you mean 'age'?")
    ran = inside("train", "x.csv", *target, option, "age,size")
    hint = f"{option} takes one" if option in ("--group", "--time") else f"at a time: {option} age {option} size"
    assert_error(ran, 2, hint)


def test_a_number_that_is_not_whole(inside):
    assert_error(inside("train", "iris", "--epochs", "1.5"), 2, "'1.5' is not a whole number")


def test_a_file_that_is_meant_as_a_network(inside):
    for command in (["train", "iris"], ["convshape", "3x9x9"]):
        assert_error(inside(*command, "net.py"), 2, "'net.py' names no class", "net.py:CLASS")
        assert_error(inside(*command, "net.dlk"), 2, "@net.dlk")


def test_an_unknown_command_names_the_nearest(dlkit):
    assert_error(dlkit("convshpae"), 2, "convshape")


@every_command
def test_dev_full_is_an_io_error(quick, command, tmp_path):
    with open("/dev/full", "w") as full:
        words = command_line(*quick(command))
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment())
    assert done.returncode == 74, done.stderr
    assert "No space left" in done.stderr and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@every_command
def test_a_closed_pipe_is_silent(quick, command, tmp_path):
    """A short command ends with 141; `train` and `baseline` finish their runs: a reader who leaves ends neither."""
    read, write = os.pipe()
    os.close(read)
    words = command_line(*quick(command))
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment())
    os.close(write)
    assert done.returncode == (0 if command in ("train", "baseline") else 141)
    assert not [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    if done.returncode == 0:
        name = "iris-mlp-1" if command == "train" else "iris-baseline-1"
        assert (tmp_path / "runs" / name / "manifest.json").exists()


def wait_until_read(pipe) -> None:
    """Wait until the reader of a pipe has taken all that was written to it: then it waits for more."""
    waiting, left = array.array("i", [1]), 3000
    while waiting[0] and left:
        fcntl.ioctl(pipe, termios.FIONREAD, waiting)
        time.sleep(0.02)
        left -= 1
    assert left, "nobody reads"


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_while_waiting_for_input(tmp_path, signum, code):
    words, pipe = command_line("convshape", "3x8x8", "-"), subprocess.PIPE
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, env=environment())
    process.stdin.write("conv")
    process.stdin.flush()
    wait_until_read(process.stdin)
    process.send_signal(signum)
    process.wait(timeout=240)  # its stdin stays open: it is the signal that ends it
    with process:
        assert process.stdout.read() == ""
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == code


@pytest.mark.parametrize("command", READS_DATA)
class TestBadInput:
    """Files that are not there, or not what they seem."""

    def test_missing_file_names_the_nearest(self, inside, command, tmp_path):
        (tmp_path / "titanic.csv").write_text("a,b\n1,2\n")
        assert_error(inside(command, "titanik.csv", "--target", "a"), 66, "titanik.csv", "titanic.csv")

    def test_empty_file(self, inside, command, tmp_path):
        (tmp_path / "x.csv").write_text("")
        assert_error(inside(command, "x.csv", "--target", "a"), 65, "x.csv")

    def test_directory_without_images(self, inside, command, tmp_path):
        (tmp_path / "folder").mkdir()
        assert_error(inside(command, "folder"), 65, "folder")

    def test_binary_as_csv(self, inside, command, tmp_path):
        (tmp_path / "x.csv").write_bytes(bytes(range(256)) * 10)
        assert_error(inside(command, "x.csv", "--target", "a"), 65, "x.csv")

    def test_ragged_row(self, inside, command, tmp_path):
        (tmp_path / "x.csv").write_text("a,b\n1,2\n1,2,3\n")
        assert_error(inside(command, "x.csv", "--target", "a"), 65, "x.csv", "line 3", "3")

    @pytest.mark.parametrize("header", ["a,a", "a,"])
    def test_bad_headers(self, inside, command, tmp_path, header):
        (tmp_path / "x.csv").write_text(f"{header}\n1,2\n")
        assert_error(inside(command, "x.csv", "--target", "a"), 65, "x.csv")

    def test_unknown_target_names_the_nearest(self, inside, command, tmp_path):
        (tmp_path / "x.csv").write_text("age,survived\n" + "1,0\n2,1\n" * 20)
        assert_error(inside(command, "x.csv", "--target", "survivd"), 2, "survivd", "survived")

    def test_nothing_is_left_behind(self, inside, command, tmp_path):
        (tmp_path / "x.csv").write_text("age,alive\n1,2\n3\n")
        inside(command, "x.csv", "--target", "alive")
        assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


@pytest.mark.parametrize("command", TRAINS)
class TestBadJob:
    """Data that cannot be learned from, networks that do not fit it."""

    def test_target_of_one_class(self, inside, command, tmp_path):
        (tmp_path / "x.csv").write_text("age,alive\n" + "1,no\n2,no\n" * 20)
        assert_error(inside(command, "x.csv", "--target", "alive"), 65, "alive")

    def test_missing_target_values_throughout(self, inside, command, tmp_path):
        (tmp_path / "x.csv").write_text("age,alive\n" + "1,\n2,\n" * 20)
        assert_error(inside(command, "x.csv", "--target", "alive"), 65, "alive")

    def test_nothing_to_learn_from(self, inside, command, tmp_path):
        (tmp_path / "x.csv").write_text("age,alive\n" + ",no\n,yes\n" * 20)
        assert_error(inside(command, "x.csv", "--target", "alive"), 65, "x.csv")

    def test_unknown_layer(self, inside, command):
        assert_error(inside(command, "digits", "cnov:8", "gap", "linear:10"), 2, "cnov", "'conv'", "^^^^")

    def test_shape_that_collapses(self, inside, command):
        assert_error(inside(command, "digits", "conv:8,k9", "gap", "linear:10"), 2, "conv1", "1x8x8", "9")

    def test_network_that_does_not_fit_the_classes(self, inside, command):
        assert_error(inside(command, "digits", "flatten", "linear:7"), 2, "7", "10 classes", "linear:10")
        assert_error(inside(command, "digits", "conv:10,k3"), 2, "10x6x6", "gap")

    def test_nothing_is_left_behind(self, inside, command, tmp_path):
        inside(command, "digits", "flatten", "linear:7")
        assert not list(tmp_path.iterdir())

    def test_no_such_device(self, inside, command):
        assert_error(inside(command, "iris", "--device", "cpu:1"), 69, "--device cpu:1")
        assert_error(inside(command, "iris", "--device", "cuda:99"), 69, "cuda:99")
        assert_error(inside(command, "iris", "--device", "gpu"), 2, "gpu")


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1", "fast"])
def test_learning_rate_refused_by_name(inside, value):
    assert_error(inside("train", "iris", "--lr", value), 2, "--lr", repr(value))


def test_an_existing_run_directory_is_refused(inside, tmp_path):
    (tmp_path / "here").mkdir()
    assert_error(inside("train", "iris", "--out", "here"), 73, "here", "exists")
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("command", ["train", "baseline", "cluster"])
def test_a_run_directory_that_is_there_is_noticed_before_the_data_is_read(inside, tmp_path, command):
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "file").write_text("")
    for out, word in (("here", "exists"), ("link", "exists"), ("file/run", "not a directory")):
        assert_error(inside(command, "nowhere.csv", "--out", out), 73, out, word)
    assert_error(inside(command, "nowhere.csv", "--out", "new/run"), 66, "nowhere.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "here", "link"]


def test_a_run_directory_that_cannot_be_made(inside, tmp_path):
    (tmp_path / "file").write_text("")
    assert_error(inside("train", "iris", "--out", "file/run"), 73, "file/run")


def test_hostile_names_reach_no_terminal(terminal, dlkit, tmp_path):
    """[/] is markup to Rich, ESC a command to the terminal, U+202E turns text around: a table shows them as text."""
    name = "[/]\x1b[31m\u202e"
    (tmp_path / "x.csv").write_text(f"{name},y\n" + "1,a\n2,b\n" * 20)
    shown = terminal("train", "x.csv", "--target", name, "--task", "classification", "--epochs", "1")
    assert "\x1b[31m\u202e" not in shown.out and "\u202e" not in shown.out
    asked = dlkit("train", "x.csv", "--target", "nme")
    assert_error(asked, 2)
    assert "\x1b" not in asked.err and "\u202e" not in asked.err


def test_nothing_moves_off_a_terminal(dlkit):
    ran = dlkit("train", "iris", "--epochs", "2")
    assert "\r" not in ran.err and "\x1b" not in ran.err and "━" not in ran.err


def test_the_table_is_human_and_the_pipe_exact(terminal, dlkit):
    words = ["convshape", "resnet50"]
    assert "25,557,032" in plain(terminal(*words).out)
    assert "25557032" in dlkit(*words, "--json").out


def test_stdin_is_a_network(dlkit):
    ran = dlkit("convshape", "3x32x32", "-", "-q", stdin="conv:8,k3 # a comment\nrelu\n")
    assert ran == (0, "8x30x30\n", "")


def test_an_encoding_that_lacks_the_signs_gets_escapes(tmp_path):
    env = environment(PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    words = command_line("convshape", "3x32x32", "conv:8,k3", "--format", "table")
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0 and "\\xd7" in done.stdout, done.stderr


def test_work_that_fails_at_once_leaves_stdout_empty(inside):
    ran = inside("train", "diabetes", "--optimizer", "sgd", "--lr", "1e30", "--schedule", "constant")
    assert_error(ran, 70, "diverged")


def test_batch_norm_of_one_row_is_refused(inside):
    assert_error(inside("train", "iris", "linear:8", "bn", "linear:3", "--batch-size", "1"), 2, "bn1", "--batch-size 2")
    assert inside("train", "iris", "linear:3", "--batch-size", "1", "--epochs", "1").code == 0


@pytest.mark.parametrize("stream", ["0", "1", "2"])
def test_a_closed_stream_is_as_dev_null(tmp_path, stream):
    line = f"{' '.join(command_line('convshape', '3x8x8', 'relu'))} {stream}>&-"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert (done.returncode, done.stderr) == (0, "")


def test_endless_text_is_refused(dlkit):
    assert_error(dlkit("convshape", "3x8x8", "@/dev/zero"), 65, "/dev/zero")
