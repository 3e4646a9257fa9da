"""A trained network as a file that other programs run: ONNX, or torch's own exported program (.pt2)."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dlkit.core import foreign
from dlkit.core.errors import DlkitError, ExitCode, bad_data, nearest
from dlkit.core.io import check_free, write_atomic
from dlkit.core.result import Column, Result
from dlkit.core.run import open_run
from dlkit.data import Schema
from dlkit.data.tokens import PAD
from dlkit.nn.build import from_text
from dlkit.nn.predictor import Network, open_network
from dlkit.nn.sequence import Recurrent

INPUT, OUTPUT, ROWS = "x", "y", "rows"
ONNX_LIMIT = 2**31 - 1
"""Bytes: protobuf's own limit for one message."""
TOLERANCE = 1e-4
"""Of the largest output: float32 kernels that sum in another order differ by less."""
PROBES = (1, 2, 7)
"""Rows of the batches on which file and network are compared: the number of rows is free."""

Compute = Callable[[np.ndarray], np.ndarray]


class Standalone(nn.Module):
    """Rows as a schema encodes them -> what `predict` says: pixels are normalised within, outputs are in real units.

    x  B×F float32 features of a table, B×context int64 tokens of a text and PAD after its end, or B×C×H×W images in
       their own type
    y  B×classes probabilities, or B values in the target's units: float32
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.model, self._normalise, self._objective = network.model, network.normalise, network.objective
        self._mean, self._std = network.schema.target_mean, network.schema.target_std

    def forward(self, x: Tensor) -> Tensor:
        output = self.model(self._normalise(x) if self._normalise else x)
        if self._mean is None or self._std is None:
            return self._objective.probabilities(output)
        return output[:, 0] * self._std + self._mean


@dataclass(frozen=True)
class Written:
    """The bytes of an exported network, and how they compute when they are read back."""

    data: bytes
    compute: Compute


def export(run: str, file: str, modules: Sequence[str] = ()) -> Result:
    """Write the network of a run to `file`, whose suffix says how, once what was written computes the same."""
    path = Path(file)
    if path.suffix not in _WRITERS:
        hint = nearest(path.suffix, list(_WRITERS))
        raise DlkitError(f"{file}: the suffix says the format: one of {', '.join(_WRITERS)}", hint)
    check_free(path)
    opened = open_run(run)
    if opened.command != "train":
        raise DlkitError(f"{run}: a run of {opened.command}; only a network that train has made can be exported")
    if opened.of_text:
        hint = f"its weights are in {opened.path / 'model.safetensors'} by name, its tokens in schema.json"
        raise DlkitError(f"{run}: a language model; only a network that predicts rows can be exported", hint)
    network = open_network(opened, "cpu", modules=modules)
    _refuse_packed(network)
    with _blamed(network, run, path.suffix):
        written = _WRITERS[path.suffix](Standalone(network).eval(), _example(network.schema, 2))
    difference, ok = _compare(network, written.compute)
    if not ok:
        message = f"{path.suffix} computes something else than the network: outputs differ by {difference:.2g}"
        raise DlkitError(message, "nothing was written", ExitCode.INTERNAL)
    write_atomic(path, written.data)
    return _result(network.schema, path, len(written.data), difference)


def _refuse_packed(network: Network) -> None:
    """A recurrent layer that begins at the end of each text goes by lengths, which no file can hold."""
    for name, module in network.model.named_modules():
        if isinstance(module, Recurrent) and module.packs:
            message = f"{name} reads each text backwards from its own end: neither format can hold that"
            raise DlkitError(message, "leave bidirectional=1 out, or use attn")


def _example(schema: Schema, rows: int) -> np.ndarray:
    """Rows such as training saw: standardised features, texts of several lengths, or pixels drawn over the range of
    their type."""
    rng = np.random.Generator(np.random.PCG64(rows))
    shape = (rows, *schema.input_shape)
    if schema.tokens:
        ends = rng.integers(1, schema.tokens.context, (rows, 1), endpoint=True)
        tokens = rng.integers(0, schema.tokens.vocabulary.size, shape)
        return np.where(np.arange(schema.tokens.context) < ends, tokens, PAD)
    if schema.pixels is None:
        return rng.standard_normal(shape, np.float32)
    if schema.pixels.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    along = (1, -1) + (1,) * (len(shape) - 2)
    mean, std = (np.array(v, np.float32).reshape(along) for v in (schema.pixels.mean, schema.pixels.std))
    return rng.standard_normal(shape, np.float32) * std + mean


def _compare(network: Network, compute: Compute) -> tuple[float, bool]:
    """(largest difference from the network itself, whether that is rounding) over batches of several sizes."""
    original, worst, ok = Standalone(network).eval(), 0.0, True
    for rows in PROBES:
        x = _example(network.schema, rows)
        with torch.inference_mode():
            expected = original(torch.from_numpy(x)).numpy()
        found = compute(x)
        if found.shape != expected.shape:
            return float("inf"), False
        gap = float(np.abs(found.astype(np.float64) - expected).max())
        worst = max(worst, gap)
        ok = ok and gap <= TOLERANCE * max(float(np.abs(expected).max()), 1e-30)
    return worst, ok


# --- one writer a format ---------------------------------------------------------------------------------------------


def _program(module: nn.Module, example: np.ndarray) -> torch.export.ExportedProgram:
    free = ({0: torch.export.Dim(ROWS, min=1)},)
    return torch.export.export(module, (torch.from_numpy(example),), dynamic_shapes=free)


def _write_pt2(module: nn.Module, example: np.ndarray) -> Written:
    with _quiet():
        buffer = io.BytesIO()
        torch.export.save(_program(module, example), buffer)
        again = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return Written(buffer.getvalue(), lambda x: again(torch.from_numpy(x)).detach().numpy())


def _write_onnx(module: nn.Module, example: np.ndarray) -> Written:
    onnxruntime = _onnx()
    with _quiet():
        program = torch.onnx.export(_program(module, example), dynamo=True, verbose=False,
                                    input_names=[INPUT], output_names=[OUTPUT])  # fmt: skip
        assert program is not None
        if program.model_proto.ByteSize() > ONNX_LIMIT:
            raise DlkitError("the network is above the 2 GiB that one ONNX file can hold", "write .pt2 instead")
        data = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return Written(data, lambda x: session.run([OUTPUT], {INPUT: x})[0])


def _onnx() -> Any:
    """onnxruntime, which checks the file; torch writes it with onnxscript. Not installed: exit code 69."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it

        return onnxruntime
    except ImportError as failure:
        hint = "pip install 'dlkit[onnx]', or write .pt2"
        raise DlkitError(f"writing .onnx needs {failure.name}", hint, ExitCode.NO_DEPENDENCY) from None


_WRITERS = {".onnx": _write_onnx, ".pt2": _write_pt2}


@contextmanager
def _blamed(network: Network, run: str, suffix: str) -> Iterator[None]:
    """A module of the user's own that torch cannot follow is named in one line: exit code 65."""
    try:
        yield
    except Exception as failure:
        if from_text(network.model) or isinstance(failure, DlkitError):
            raise
        where, said = foreign.place(failure), " ".join(str(failure).split()).partition(" (")[0][:200]
        what = f"{type(failure).__name__} at {where}" if where else type(failure).__name__
        raise bad_data(
            f"{run}: its module cannot be written as {suffix}: {what}: {said}",
            "torch.export follows no forward that looks at values (.item(), if x.sum() > 0)",
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter warns of its own deprecated calls, logs that torchvision is not installed, and a whole program
    where it fails."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


_TOKENS = {
    "char": "a character's place in schema.json's characters, the first being 1, and 0 for any other",
    "byte": "the bytes of its UTF-8",
    "bpe": "as the tokenizer in schema.json has them",
}
"""What the tokens of each kind of vocabulary are."""


def _result(schema: Schema, path: Path, size: int, difference: float) -> Result:
    width = "×".join(map(str, schema.input_shape))
    dtype, inputs = "float32", "features, encoded as schema.json says"
    if schema.pixels:
        dtype, inputs = schema.pixels.dtype, "pixels as they are read"
    elif schema.tokens:
        dtype, inputs = (
            "int64",
            f"tokens of {schema.encoders[0].column}: {_TOKENS[schema.tokens.vocabulary.kind]}; {PAD} after its end",
        )
    outputs = "probabilities" if schema.classes else f"{schema.target}, in its own units"
    outputs = "the probability of each label" if schema.values else outputs
    shape = f"{ROWS}×{len(schema.classes)}" if schema.classes else ROWS
    names = [schema.encoders[0].column] if schema.tokens else list(schema.features)
    rows = [
        {"tensor": INPUT, "shape": f"{ROWS}×{width}", "type": dtype, "holds": inputs, "names": names},
        {"tensor": OUTPUT, "shape": shape, "type": "float32", "holds": outputs, "names": list(schema.classes)},
    ]
    summary = {"file": str(path), "format": path.suffix[1:], "bytes": size, "max_difference": difference}
    columns = [Column(name) for name in ("tensor", "shape", "type", "holds")]
    facts = [Column("file"), Column("bytes", "bytes", "size"), Column("max_difference", "float")]
    return Result(columns, rows, summary, "file", facts)
