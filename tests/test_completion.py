"""The tab key, as bash asks for it."""

import subprocess
import sys

import pytest
from support import environment


def offered(tmp_path, line: str) -> list[str]:
    """What the completion offers for the last word of `line` (empty where it ends in a blank)."""
    words = line.split(" ")
    env = environment(_DLKIT_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    done = subprocess.run(
        [sys.executable, "-c", "from dlkit.cli import main; main()"],
        capture_output=True, text=True, env=env, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("dlkit conv", {"convshape"}),
        ("dlkit ", {"convshape", "lrfind", "models", "split", "train"}),
        ("dlkit train --opt", {"--optimizer"}),
        ("dlkit train --optimizer ", {"adamw", "sgd"}),
        ("dlkit models resnet5", {"resnet50"}),
        ("dlkit train digits max", {"maxpool"}),
        ("dlkit lrfind digits resnet15", {"resnet152"}),
        ("dlkit train x.csv --target ", {"age", "alive", "fare"}),
        ("dlkit train x.csv --target a", {"age", "alive"}),
        ("dlkit train x.csv --drop f", {"fare"}),
        ("dlkit train missing.csv --target a", set()),
        ("dlkit split x.csv --group a", {"age", "alive"}),
        ("dlkit splitcheck x.csv y.csv --time f", {"fare"}),
        ("dlkit split x.csv --st", {"--stratify"}),
        ("dlkit split --delimiter ; y.csv --time a", {"age"}),
        ("dlkit split z.jsonl --hash ", {"age", "fare"}),
        ("dlkit eval ", {"runs/x-mlp-1", "mine", "x.csv"}),
        ("dlkit predict runs/x", {"runs/x-mlp-1"}),
        ("dlkit eval m", {"mine"}),
        ("dlkit eval --predictions x.csv --truth al", {"alive"}),
        ("dlkit cluster x.csv --drop a", {"age", "alive"}),
    ],
)
def test_completion(tmp_path, line, expected):
    (tmp_path / "x.csv").write_text("age,alive,fare\n1,2,3\n")
    (tmp_path / "y.csv").write_text("age;fare\n1;3\n")
    for run in ("runs/x-mlp-1", "mine"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "manifest.json").write_text("{}")
    (tmp_path / "runs" / "unfinished").mkdir()
    (tmp_path / "z.jsonl").write_text('{"age": 1, "fare": 3}\n')
    got = set(offered(tmp_path, line))
    assert expected <= got
    assert all(word.startswith(line.split(" ")[-1]) for word in got)
    assert got or not expected


def test_a_binary_file_offers_nothing(tmp_path):
    (tmp_path / "x.csv").write_bytes(bytes(range(256)))
    assert offered(tmp_path, "dlkit train x.csv --target ") == []


def test_the_script_names_the_command(tmp_path):
    env = environment(_DLKIT_COMPLETE="source_bash")
    words = [sys.executable, "-c", "from dlkit.cli import main; main()"]
    script = subprocess.run(words, capture_output=True, text=True, env=env, cwd=tmp_path).stdout
    assert "complete -o default" in script and "dlkit" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
