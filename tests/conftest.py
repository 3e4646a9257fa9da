"""Fixtures for the whole suite: the command line as a user runs it, and the real data where it is there."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded: the suite runs in several processes already

import pty
import select
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers
from support import SHARED, Ran, command_line, environment


def pytest_configure(config):
    """The fast suite draws the same random cases every time; the slow one explores."""
    explores = "slow" in config.option.markexpr and "not slow" not in config.option.markexpr
    settings.register_profile("suite", derandomize=not explores, deadline=None, print_blob=True)
    settings.load_profile("suite")
    if not explores:
        # Hypothesis also draws constants out of the modules that are loaded: other cases in another order of tests.
        none = providers.Constants()
        providers._get_local_constants = lambda: none


@pytest.fixture
def dlkit(tmp_path):
    """dlkit(*args, stdin=…, cwd=…, **environment) runs the command line in its own process, in a scratch folder."""

    def run(*args: str, stdin: str = "", cwd: Path = tmp_path, **extra: str) -> Ran:
        done = subprocess.run(
            command_line(*args),
            input=stdin,
            capture_output=True,
            text=True,
            cwd=cwd,
            env=environment(**extra),
            timeout=240,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def inside(tmp_path, monkeypatch, capfd):
    """inside(*args) runs the command line in this process, where torch is loaded once for many tests."""
    from dlkit.cli import run
    from dlkit.core import console

    def ran(*args: str) -> Ran:
        monkeypatch.chdir(tmp_path)
        capfd.readouterr()
        code = int(run(list(args)))
        console.quiet = False
        return Ran(code, *capfd.readouterr())

    return ran


@pytest.fixture
def terminal(tmp_path):
    """terminal(*args, **environment) runs the command line on a terminal; stdout and stderr are one."""

    def run(*args: str, columns: int = 100, **extra: str) -> Ran:
        main, side = pty.openpty()
        env = environment(COLUMNS=str(columns), TERM="xterm-256color", **extra)
        process = subprocess.Popen(command_line(*args), stdin=side, stdout=side, stderr=side, cwd=tmp_path, env=env)
        os.close(side)
        shown = _read_all(main, process)
        os.close(main)
        return Ran(process.wait(), shown.replace("\r\n", "\n"), "")

    return run


def _read_all(handle: int, process: subprocess.Popen) -> str:
    """Everything a terminal shows until its process is gone."""
    data = b""
    while True:
        ready, _, _ = select.select([handle], [], [], 0.2)
        if ready:
            try:
                chunk = os.read(handle, 65536)
            except OSError:  # how Linux says that the other side has closed
                break
            if not chunk:
                break
            data += chunk
        elif process.poll() is not None:
            break
    return data.decode()


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The directory of a finished run of `dlkit train iris`; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    words = command_line("train", "iris", "linear:3", "--epochs", "1", "--out", "run", "-q")
    subprocess.run(words, check=True, capture_output=True, cwd=folder, env=environment(), timeout=240)
    return folder / "run"


@pytest.fixture(scope="session")
def honest_table(tmp_path_factory):
    """A table of 160 rows with nothing but chance in it, of which `side` makes train and valid."""
    import random

    draw = random.Random(3)
    rows = [
        f"{draw.gauss(0, 1):.4f},{draw.gauss(0, 1):.4f},{draw.choice('rgb')},{draw.choice(['no', 'yes'])},"
        f"{'train' if i % 8 < 5 else 'valid'}"
        for i in range(160)
    ]
    path = tmp_path_factory.mktemp("honest") / "honest.csv"
    path.write_text("\n".join(["a,b,colour,y,side", *rows]) + "\n")
    return path


@pytest.fixture
def shared():
    """shared(name) is a real data file; the test is skipped where it is not there."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"the data file {name} is not beside the project")
        return path

    return find
