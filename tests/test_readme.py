"""The README is true: its commands run, as typed, and say what it says they do."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, SHARED, environment

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = re.findall(r"^```sh\n(.*?)^```", README, re.S | re.M)
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)
EXAMPLES = [[line for line in block.splitlines() if line.strip()] for block in SHELL[2:]]
"""The lines of each block, which may build on each other."""
REAL = "|".join(
    "california_housing.csv titanic.csv penguins.csv taxis.csv mnist10k-images-idx3-ubyte.gz hymenoptera "
    "tinyshakespeare.txt".replace(".", r"\.").split()
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the real data at hand, where examples run one after another as a reader types them."""
    folder = tmp_path_factory.mktemp("readme")
    for path in SHARED.glob("*") if SHARED.exists() else ():
        (folder / path.name).symlink_to(path)
    (folder / "bin").mkdir()
    starter = folder / "bin" / "dlkit"
    starter.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dlkit "$@"\n')
    starter.chmod(0o755)
    return folder


def run(line: str, place: Path) -> subprocess.CompletedProcess:
    env = environment(PATH=f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=place, env=env, timeout=240)


def test_the_first_two_blocks_are_the_two_commands():
    assert [block.strip() for block in SHELL[:2]] == [
        "pip install . && dlkit train digits",
        'pip install ".[test]" && pytest',
    ]


@pytest.mark.parametrize("lines", EXAMPLES, ids=lambda lines: lines[0])
def test_examples_run_as_typed(lines, place):
    missing = set()
    for line in lines:
        absent = {name for name in re.findall(REAL, line) if not (place / name).exists()}
        missing |= absent
        if not absent:
            done = run(line, place)
            assert done.returncode == 0, (line, done.stderr)
            assert done.stdout.strip() or ">" in line, line
    if missing:
        pytest.skip(f"not at hand: {', '.join(sorted(missing))}")


def test_the_quick_form_prints_what_is_said(place):
    assert run("dlkit convshape 224 -k 7 -s 2 -p 3", place).stdout == "112\n"


@pytest.mark.parametrize("code", PYTHON)
def test_python(code, capsys):
    exec(compile(code, "README.md", "exec"), {})
    expected = [line.partition("  # ")[2] for line in code.splitlines() if line.startswith("print(")]
    assert capsys.readouterr().out.splitlines() == expected


def test_the_main_job_reaches_97_percent(place):
    """`dlkit train digits`, as the README opens."""
    done = run("dlkit train digits -q --out main", place)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) >= 0.97


def test_every_command_has_its_section():
    for path in (ROOT / "dlkit" / "commands").glob("[!_]*.py"):
        assert f"### {path.stem}:" in README, path.stem
