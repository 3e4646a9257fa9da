"""`train` and `lrfind` split as `split` does."""

import json

import pytest


@pytest.fixture
def table(tmp_path):
    lines = [f"{i // 8},{i},{i % 7},{'ab'[i % 2]},{'train' if i < 60 else 'valid'}" for i in range(80)]
    (tmp_path / "x.csv").write_text("\n".join(["who,when,x,y,part", *lines]) + "\n")


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["--group", "who"], (64, 16)),
        (["--time", "when"], (64, 16)),
        (["--time", "when", "--gap", "4"], (60, 16)),
        (["--group", "who", "--time", "when"], (64, 16)),
        (["--split", "part"], (60, 20)),
    ],
)
def test_train_splits_as_told(inside, table, words, rows):
    ran = inside("train", "x.csv", "--target", "y", "--epochs", "1", *words, "--out", "run", "--json")
    summary = json.loads(ran.out)["summary"]
    assert (summary["train_rows"], summary["valid_rows"]) == rows


def test_a_group_is_no_feature(inside, table, tmp_path):
    inside("train", "x.csv", "--target", "y", "--epochs", "1", "--group", "who", "--drop", "part", "--out", "run")
    schema = json.loads((tmp_path / "run" / "schema.json").read_text())
    assert {column["column"] for column in schema["columns"]} == {"x"}  # `when` counts the rows


def test_the_next_command_repeats_the_split(inside, table):
    ran = inside(
        "lrfind", "x.csv", "--target", "y", "--steps", "30", "--seeds", "1", "--group", "who", "--drop", "part"
    )
    assert ran.code == 1 or "--group who" in ran.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["x.csv", "--target", "y", "--group", "y"], 2, "'y' is the target"),
        (["x.csv", "--target", "y", "--group", "whoo"], 2, "did you mean 'who'"),
        (["digits", "--group", "who"], 2, "--group is for tables with named columns"),
        (["x.csv", "--target", "y", "--gap", "7d"], 2, "--time"),
    ],
)
def test_refused(inside, table, words, code, said):
    ran = inside("train", *words)
    assert ran.code == code and ran.out == "" and said in ran.err
