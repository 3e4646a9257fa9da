"""An exported file computes what the network does, on any number of rows, read back by another program."""

import builtins
import io
import json

import numpy as np
import pytest
import torch


@pytest.fixture
def trained(inside, tmp_path):
    """trained(data) is a run of one short epoch."""

    def make(data: str, *words: str) -> str:
        assert inside("train", data, *words, "--epochs", "1", "--out", f"run-{data}", "-q").code == 0
        return f"run-{data}"

    return make


def proba(run: str, data: str) -> tuple[np.ndarray, np.ndarray]:
    """(what the network reads, what `dlkit predict` says) of a whole set."""
    from dlkit.core.reading import Reading
    from dlkit.core.run import open_run
    from dlkit.data import load
    from dlkit.nn.predictor import open_network

    network = open_network(open_run(run), "cpu")
    rows = load(data, Reading())
    return network.schema.inputs(rows), network.predict(rows)


def test_onnx_of_images_gives_the_probabilities_of_raw_pixels(inside, trained, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = trained("digits", "conv:4,k3", "bn", "relu", "gap", "linear:10")
    ran = inside("export", run, "net.onnx", "--json")
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out)["summary"]
    assert summary["format"] == "onnx" and summary["bytes"] == (tmp_path / "net.onnx").stat().st_size
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    x, expected = proba(run, "digits")
    assert x.dtype == np.uint8
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=1e-5)


@pytest.mark.parametrize("data", ["iris", "diabetes"])
def test_an_exported_program_gives_what_predict_says(inside, trained, tmp_path, data):
    run = trained(data, "linear:8", "relu", "linear:3" if data == "iris" else "linear:1")
    ran = inside("export", run, "net.pt2", "--json")
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)["rows"]
    x, expected = proba(run, data)
    assert len(rows[0]["names"]) == x.shape[1] and len(rows[1]["names"]) == (3 if data == "iris" else 0)
    program = torch.export.load(io.BytesIO((tmp_path / "net.pt2").read_bytes())).module()
    found = program(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_wrong_words_are_named_and_nothing_is_written(inside, trained, tmp_path):
    run = trained("iris", "linear:3")
    (tmp_path / "there.pt2").write_bytes(b"old")
    for words, code, said in [
        ((run, "net.foo"), 2, "suffix"),
        ((run, "there.pt2"), 73, "already exists"),
        ((run, "nowhere/net.pt2"), 73, "no folder nowhere"),
        (("none", "net.pt2"), 66, "none"),
    ]:
        ran = inside("export", *words)
        assert (ran.code, ran.out) == (code, "") and said in ran.err, ran
    assert (tmp_path / "there.pt2").read_bytes() == b"old" and not (tmp_path / "net.foo").exists()


def test_without_the_extra_onnx_is_refused_by_name(inside, trained, tmp_path, monkeypatch):
    run = trained("iris", "linear:3")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("onnxruntime"):
            raise ImportError("not installed", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    ran = inside("export", run, "net.onnx")
    assert ran.code == 69 and "dlkit[onnx]" in ran.err and not (tmp_path / "net.onnx").exists()


def test_what_computes_something_else_is_not_written(inside, trained, tmp_path, monkeypatch):
    from dlkit.nn import export

    run = trained("iris", "linear:3")
    honest = export._write_pt2

    def broken(module, example):
        written = honest(module, example)
        return export.Written(written.data, lambda x: written.compute(x) + 0.01)

    monkeypatch.setitem(export._WRITERS, ".pt2", broken)
    ran = inside("export", run, "net.pt2")
    assert ran.code == 70 and "differ by 0.01" in ran.err and not (tmp_path / "net.pt2").exists()
