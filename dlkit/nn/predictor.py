"""A run of `train` as a predictor: its network rebuilt from config.json, its weights from model.safetensors."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_weights
from torch import Tensor, nn

from dlkit.core import console, spec
from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.graph import walk
from dlkit.core.layers import Shape
from dlkit.core.run import Run
from dlkit.data import Rows, Schema
from dlkit.data.tokens import Tokens
from dlkit.nn import device as devices
from dlkit.nn.build import build, from_text
from dlkit.nn.checkpoint import FOLDER, header, listed
from dlkit.nn.job import default_batch_size, normaliser
from dlkit.nn.loader import Batches, Normalise, Sequences, at_once
from dlkit.nn.objective import Objective
from dlkit.nn.own import Kind, again, kind_of
from dlkit.nn.padding import heed
from dlkit.nn.precision import set_matmul
from dlkit.nn.prose import check_reads

WEIGHTS = "model.safetensors"
CHUNK_BYTES = 64 << 20
"""Rows are encoded this many bytes at a time: a table of a million rows never is an array of float32 as a whole."""

Spread = Callable[[np.ndarray], np.ndarray]
View = Callable[[Tensor], Tensor]
"""A change of a batch of inputs that keeps their labels: test-time augmentation averages over several."""


@dataclass(frozen=True)
class Network:
    """A trained network on a device, ready to predict (a `data.predictor.Predictor`).

    views   what each batch is shown as; more than one: test-time augmentation (S177)
    spread  inputs -> outputs by several processes, in place of `outputs`
    """

    schema: Schema
    model: nn.Module
    objective: Objective
    device: torch.device
    batch_size: int
    views: tuple[View, ...] = (lambda x: x,)
    spread: Spread | None = None

    @property
    def task(self) -> str:
        return self.schema.task

    @property
    def normalise(self) -> Normalise | None:
        """What images go through before the network; None for a table."""
        return normaliser(self.schema, self.device)

    def predict(self, rows: Rows) -> np.ndarray:
        """N×classes probabilities (the mean over views), or N values in the target's units: float64."""
        found = np.concatenate([(self.spread or self.outputs)(inputs) for inputs in self._inputs(rows)])
        return found if self.schema.classes else self.schema.unscale(found[:, 0])

    def outputs(self, inputs: np.ndarray) -> np.ndarray:
        """What the network says of encoded rows: N×classes probabilities, or N×1 standardised values."""
        if self.schema.classes:
            return self._run(inputs, lambda x: self.objective.probabilities(self.model(x).double()))
        return self._run(inputs, lambda x: self.model(x).double())

    def embed(self, rows: Rows, done: Callable[[int], None] = lambda rows: None) -> np.ndarray:
        """N×D float64: what the last linear layer is given, which is what the network makes of a row.

        done  told after some rows, how many they were
        """
        last = [module for module in self.model.modules() if isinstance(module, nn.Linear)]
        if not last:
            raise DlkitError("the network has no linear layer, before which its activations could be taken")
        seen: list[Tensor] = []
        hook = last[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))

        def look(x: Tensor) -> Tensor:
            seen.clear()
            self.model(x)
            if self.schema.tokens and seen[0].dim() > 2:
                raise DlkitError("the last linear layer reads each position of a text: rows would differ in length")
            return seen[0].flatten(1).double()

        try:
            parts = []
            for inputs in self._inputs(rows):
                parts.append(self._run(inputs, look))
                done(len(inputs))
            return np.concatenate(parts)
        finally:
            hook.remove()

    @torch.inference_mode()
    def _run(self, inputs: np.ndarray, forward: Callable[[Tensor], Tensor]) -> np.ndarray:
        """`forward` of every row once, in order."""
        nothing = np.zeros(len(inputs), np.int64)
        kind = Sequences if self.schema.tokens else Batches
        batches = kind(inputs, nothing, self.batch_size, self.device, self.normalise).in_order()
        parts = [sum(forward(view(x)) for view in self.views) / len(self.views) for x, _ in batches]
        return np.concatenate([part.cpu().numpy() for part in parts])

    def _inputs(self, rows: Rows) -> Iterator[np.ndarray]:
        """The rows encoded, a number of whole batches at a time."""
        per_row = 4 * int(np.prod(self.schema.input_shape))
        size = max(CHUNK_BYTES // per_row // self.batch_size, 1) * self.batch_size
        for start in range(0, rows.rows, size):
            yield self.schema.inputs(rows, np.arange(start, min(start + size, rows.rows)))


def open_network(run: Run, device: str = "auto", views: tuple[View, ...] = (), modules: Sequence[str] = ()) -> Network:
    """The network of a run of `train`. Damaged or foreign: exit code 65; no such device: 69.

    modules  the modules of the user's own that the command line names: their code may be run
    """
    where = devices.pick(device)
    if run.of_text:
        hint = "dlkit predict RUN --generate 200 lets it write" if run.writes else "dlkit eval RUN other.txt scores it"
        raise DlkitError(f"{run.path}: a language model predicts no rows", hint)
    schema = Schema.from_json(run.schema)
    model = rebuild(run, schema.input_shape, (len(schema.classes) or 1,), modules, kind_of(schema), schema.tokens)
    model = model.to(where).eval()
    if len(schema.input_shape) == 3 and from_text(model):
        model = model.to(memory_format=torch.channels_last)
    if views and len(schema.input_shape) != 3:
        raise DlkitError(f"{run.path}: views are of images, and a row of its data is a table's")
    objective = Objective(schema.task, len(schema.classes) or 1, name=str(_recipe(run).get("loss") or ""))
    size = rows_at_once(run, default_batch_size(1 << 20))
    return Network(schema, model, objective, where, size, views or Network.views)


def rows_at_once(run: Run, usual: int) -> int:
    """How many rows there is room for at once, where the run was trained; `usual` is its batch where it says none."""
    batch, parts = run.config.get("batch_size"), _recipe(run).get("accumulate")
    return at_once(*(n if isinstance(n, int) and n > 0 else other for n, other in ((batch, usual), (parts, 1))))


def _recipe(run: Run) -> dict[str, Any]:
    recipe = run.config.get("recipe")
    return recipe if isinstance(recipe, dict) else {}


def rebuild(
    run: Run,
    input: Shape,
    output: Shape,
    modules: Sequence[str] = (),
    kind: Kind = "numbers",
    texts: Tokens | None = None,
) -> nn.Module:
    """The network of a run with its weights. Damaged, or not from `input` to `output`: exit code 65.

    texts  how those of its rows are read, where they are texts
    Built only where its weights are there: a text of a few bytes may ask for any number of them. That the run was
    stopped is said.
    """
    _say_unfinished(run)
    set_matmul("fp32")
    try:
        weights = parse_weights(run.read(WEIGHTS))
    except SafetensorError as failure:
        raise bad_data(f"{run.path / WEIGHTS}: damaged, or not safetensors ({failure})") from None
    text = run.config.get("network")
    own = again(run, modules) if "module" in run.config else None
    model = own.build(input, kind) if own else _of_text(run, text, input, output, weights, texts)
    try:
        model.load_state_dict(weights)
    except RuntimeError:  # names or shapes that differ: torch's own message is many lines long
        raise bad_data(f"{run.path / WEIGHTS}: these are not the weights of {text!r:.40}") from None
    if own:
        own.answer(model.eval(), input, output, f"{run.path} was trained for another output", kind)
    return model


def _say_unfinished(run: Run) -> None:
    """A run that was stopped has a manifest too, and weights: those of the best epoch so far."""
    newest = next(iter(listed(run.path / FOLDER)), None)
    facts = header(newest) if newest else None
    if newest and facts and not facts.get("done"):
        epoch = int(newest.name.split("-")[1])
        console.note(f"{run.path} was stopped in epoch {epoch}: its best weights so far are taken; "
                     f"dlkit train --resume {shlex.quote(str(run.path))} goes on")  # fmt: skip


def _of_text(
    run: Run, text: object, input: Shape, output: Shape, weights: dict[str, Tensor], texts: Tokens | None
) -> nn.Module:
    try:
        graph = spec.parse(text if isinstance(text, str) else "").graph
        steps = walk(graph, input)
        if texts:
            check_reads(steps, texts)
    except DlkitError as failure:
        raise bad_data(f"{run.path}: config.json holds no network that can be built: {failure.message}") from None
    if steps[-1].output != output or sum(step.params for step in steps) > sum(w.numel() for w in weights.values()):
        raise bad_data(f"{run.path}: network, schema and weights do not belong together")
    model = build(graph, input)
    return heed(model, steps) if texts else model
