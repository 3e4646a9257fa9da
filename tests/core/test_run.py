"""A run directory is opened whole and undamaged, or not at all."""

import json
import random

import pytest

from dlkit.core.errors import DlkitError
from dlkit.core.run import RunDirectory, open_run


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory.create(str(tmp_path / "run"), "x")
    directory.write_json("config.json", {"command": "train", "fingerprint": "f"})
    directory.write_json("schema.json", {"format": 1})
    directory.write("checkpoint/last.safetensors", bytes(range(256)) * 8)
    directory.log({"epoch": 1})
    directory.finish()
    return directory.path


def refused(path, code, *words):
    with pytest.raises(DlkitError) as caught:
        open_run(path)
    assert caught.value.code == code
    for word in words:
        assert word in caught.value.message


def test_what_is_read(run):
    opened = open_run(run)
    assert (opened.command, opened.config["fingerprint"], opened.schema) == ("train", "f", {"format": 1})
    assert opened.read("checkpoint/last.safetensors") == bytes(range(256)) * 8
    with pytest.raises(DlkitError, match=r"without model\.safetensors"):
        opened.read("model.safetensors")


def test_files_beside_the_run_are_no_matter(run):
    (run / "predictions.csv").write_text("mine")
    assert open_run(run).command == "train"


def test_a_file_changed_after_opening_is_not_used(run):
    opened = open_run(run)
    (run / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(DlkitError, match=r"metrics\.jsonl: damaged"):
        opened.read("metrics.jsonl")


def test_no_run(tmp_path, run):
    refused(tmp_path / "nothing", 66, "nothing", "no such file")
    refused(tmp_path, 66, "no run in it")
    refused(run / "config.json", 65, "a file")
    (run / "manifest.json").unlink()
    refused(run, 66, "not finished")


@pytest.mark.parametrize("name", ["config.json", "schema.json", "checkpoint/last.safetensors", "metrics.jsonl"])
def test_a_missing_file_is_named(run, name):
    (run / name).unlink()
    refused(run, 65, name, "missing")
    (run / name).mkdir()
    refused(run, 65, name)


FOREIGN = """
[]
{}
{"sha256": []}
{"sha256": {}}
{"sha256": {"/etc/passwd": "0"}}
{"sha256": {"../other": "0"}}
{"sha256": {"": "0"}}
{"sha256": {"a\\u0000b": "0"}}
"""


@pytest.mark.parametrize("content", [*FOREIGN.splitlines(), "[" * 100_000, "\x80"])
def test_a_foreign_manifest(run, content):
    (run / "manifest.json").write_text(content)
    refused(run, 65, "manifest.json")


@pytest.mark.parametrize("config", [{"command": "rm"}, {"command": ["train"]}, ["train"], None])
def test_a_foreign_config(tmp_path, config):
    directory = RunDirectory.create(str(tmp_path / "run"), "x")
    directory.write("config.json", json.dumps(config).encode())
    directory.finish()
    refused(directory.path, 65, "not a run of dlkit")


def test_every_flipped_bit_is_found(run):
    """150 single bits over all files, the manifest among them: each is an error that names a file of the run."""
    files = sorted(p for p in run.rglob("*") if p.is_file())
    draw = random.Random(0)
    for _ in range(150):
        file = draw.choice(files)
        data = file.read_bytes()
        bit = draw.randrange(8 * len(data))
        file.write_bytes(data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :])
        refused(run, 65, str(run))
        file.write_bytes(data)
    assert open_run(run).command == "train"
