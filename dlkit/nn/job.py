"""What is fixed before the first step of training, and rows of a table, images or arrays made ready for it."""

from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import nn

from dlkit.core import console, network, spec
from dlkit.core.augment import Augment, parse_augment
from dlkit.core.errors import DlkitError
from dlkit.core.graph import Graph, walk
from dlkit.core.job import JobOptions
from dlkit.core.layers import Shape, show
from dlkit.core.reading import MULTI_LABEL, OF_TEXT
from dlkit.core.recipe import Recipe
from dlkit.core.sequence import Embed
from dlkit.data import Dataset, Schema, fit_schema, hold_out, load
from dlkit.data.announce import announce
from dlkit.data.labels import one_sided
from dlkit.data.split import Split
from dlkit.nn import device as devices
from dlkit.nn import precision
from dlkit.nn.columns import fit_edges
from dlkit.nn.default import default_network
from dlkit.nn.initial import initialise_layers, initialise_tables
from dlkit.nn.loader import Batches, Normalise, Sequences, at_once
from dlkit.nn.objective import Objective, make_objective
from dlkit.nn.own import Own, kind_of, open_own
from dlkit.nn.padding import heed
from dlkit.nn.prose import check_reads, fit_prose
from dlkit.nn.ranks import ALONE, Ranks
from dlkit.nn.start import Network, Start, blamed, make, network_of, starting, told_apart


@dataclass(frozen=True)
class Job:
    """Everything that is fixed before the first step. `batch_found`: why a batch is as large as `auto` made it."""

    options: JobOptions
    recipe: Recipe
    dataset: Dataset
    schema: Schema
    name: str
    graph: Network
    objective: Objective
    train: Batches
    valid: Batches
    device: torch.device
    edges: dict[str, dict[str, torch.Tensor]]
    start: Start
    split: Split
    ranks: Ranks = ALONE
    shard: bool = False
    batch_found: str = ""

    def with_batch(self, size: int) -> "Job":
        """The same with steps of so many rows."""
        options = replace(self.options, batch_size=size, find_batch=False)
        return replace(
            self,
            options=options,
            train=self.train.resized(size),
            valid=self.valid.resized(at_once(size, self.recipe.accumulate)),
        )

    def model(self, seed: int) -> nn.Module:
        """A fresh network with weights drawn from `seed`, on the device."""
        devices.seed_all(seed)
        shape = self.schema.input_shape
        model = make(self.graph, shape, kind_of(self.schema)).to(self.device)
        if self.schema.tokens and isinstance(self.graph, Graph):
            heed(model, walk(self.graph, shape))
        for name, state in self.edges.items():
            model.get_submodule(name).load_state_dict(state, strict=False)
        kind = kind_of(self.schema)
        if kind != "numbers" and isinstance(self.graph, Graph):
            initialise_tables(model, written=kind == "tokens")
        if kind == "tokens" and isinstance(self.graph, Graph):
            initialise_layers(model)
        self.start.apply(model)
        return model.to(memory_format=torch.channels_last) if len(shape) == 3 and not self.own else model

    @property
    def own(self) -> Own | None:
        """The network, where it is a module of the user's own."""
        return self.graph if isinstance(self.graph, Own) else None

    @property
    def params(self) -> int:
        """All parameters of the network, adapters left out: they are merged into it."""
        if isinstance(self.graph, Own):
            return self.graph.params
        return sum(step.params for step in walk(self.graph, self.schema.input_shape))

    @property
    def trained(self) -> int:
        """The parameters that learn: with adapters those alone, and what is drawn afresh."""
        return self.params if self.start.trained is None else self.start.trained

    def describe(self) -> str:
        """One line on what is about to be trained on what."""
        what = "labels" if self.schema.task == MULTI_LABEL else "classes"
        kind = f"{len(self.schema.classes)} {what}" if self.schema.classes else f"regression of {self.dataset.target}"
        rows = "rows"
        if self.schema.task in OF_TEXT:
            kind, rows = f"{self.objective.outputs} tokens", f"windows of {self.schema.input_shape[0]} tokens"
        return (
            f"{self.dataset.name}: {self.train.rows:,} {rows} to train on, {self.valid.rows:,} to validate, {kind}; "
            f"{self.name} of {self.params:,} parameters{self._learning()} on {devices.describe(self.device)}, "
            f"batches of {self.train.batch_size}{self._shared()}, {self.recipe.optimizer}"
        )

    def _learning(self) -> str:
        return f", {self.trained:,} to train," if self.trained != self.params else ""

    def _shared(self) -> str:
        """How a step's batch is divided, which changes neither the batch nor what the rate means."""
        if self.ranks.alone:
            return ""
        kind = "FSDP" if self.shard else "DDP"
        return f" ({-(-self.train.batch_size // self.ranks.world)} in each of {self.ranks.world} processes, {kind})"


def prepare_rows(options: JobOptions, recipe: Recipe, ranks: Ranks = ALONE, shard: bool = False) -> Job:
    """Read, split, fit the schema on the training side alone, parse the network and check that it fits the data."""
    column = options.text_column()
    device = devices.pick(options.device)
    precision.check(recipe.precision, device)
    dataset = load(options.data, options.splitting.reading(options.reading), several=True, only=column)
    split = hold_out(dataset, options.splitting, options.valid, options.seed)
    announce(dataset, split.notes, only=column)
    for text in one_sided(dataset, split.train):
        console.warn(text)
    schema = fit_prose(dataset, split.train, column, options) if column else fit_schema(dataset, split.train)
    words = options.network or (network_of(options.init_from).split() if options.init_from else ())
    with blamed(options):
        name, graph = _network(tuple(words), schema, dataset)
    size = options.batch_size or default_batch_size(len(split.train))

    def side(rows: np.ndarray, batch: int, augment: Augment | None = None) -> Batches:
        x, y = schema.inputs(dataset, rows), schema.targets(dataset, rows)
        classes, kind = len(schema.classes), Sequences if schema.tokens else Batches
        return kind(x, y, batch, device, normaliser(schema, device), options.seed, ranks, augment, classes)

    train = side(split.train, min(size, len(split.train)), _augment(recipe, schema))
    valid = side(split.valid, size)
    if isinstance(graph, Graph):
        _check_norms(graph, schema.input_shape, train.batch_size, recipe.accumulate)
    unit = float(schema.target_std or 1.0)
    objective = make_objective(schema.task, schema.classes, unit, recipe, train.y, device)
    cut_steps(recipe, train)
    edges = fit_edges(walk(graph, schema.input_shape), train.x) if isinstance(graph, Graph) else {}
    start = starting(options, recipe, graph, schema.input_shape, kind_of(schema))
    if options.init_from:
        told_apart(options.init_from, [encoder.column for encoder in schema.encoders], schema.classes)
    fixed = objective, train, valid, device, edges, start, split
    return Job(options, recipe, dataset, schema, name, graph, *fixed, ranks, shard)


def _augment(recipe: Recipe, schema: Schema) -> Augment | None:
    """How to change the training side's images, once it is clear that they are images of that size."""
    if recipe.augment is None:
        return None
    if schema.pixels is None:
        raise DlkitError("--augment has no effect: the data is a table, not images")
    how, side = parse_augment(recipe.augment), min(schema.input_shape[1:])
    if how.crop >= side:
        raise DlkitError(f"--augment crop:{how.crop} moves images of {side} pixels out of sight", "try crop:4")
    return how


def _network(words: tuple[str, ...], schema: Schema, dataset: Dataset) -> tuple[str, Network]:
    """(short name, network) of the user's network or the default one."""
    outputs = len(schema.classes) or 1
    if not words:
        name, text = default_network(schema, outputs)
        return name, spec.parse(text).graph
    if any(map(network.is_module, words)):
        needs = f"{dataset.name} has {_needs(outputs, dataset)}"
        known = schema.tokens and schema.tokens.vocabulary.size
        own = open_own(words).fitting(schema.input_shape, (outputs,), needs, kind_of(schema), known)
        return own.name, own
    tokens = schema.tokens
    net = network.for_data(words, outputs, **({"vocab": tokens.size, "context": tokens.context} if tokens else {}))
    _check_fit(net, schema, outputs, dataset)
    bare = words[0].partition(":")[0].removeprefix("@").rpartition("/")[2]
    return (bare.removesuffix(".dlk") if len(words) == 1 and bare != "-" else "net"), net.graph


def default_batch_size(rows: int) -> int:
    """A power of two from 32 to 512 that makes about 64 steps of an epoch."""
    return min(max(2 ** round(np.log2(max(rows, 1) / 64)), 32), 512)


def _check_fit(net: spec.Network, schema: Schema, outputs: int, dataset: Dataset) -> None:
    shape = schema.input_shape
    if net.input is not None and net.input != shape:
        raise DlkitError(
            f"the network says its input is {show(net.input)}, but a row of {dataset.name} is {show(shape)}"
        )
    steps = walk(net.graph, shape)
    if schema.tokens:
        check_reads(steps, schema.tokens)
    elif reads := next((step for step in steps if isinstance(step.layer, Embed)), None):
        message = f"{reads.name} ({reads.text}) reads tokens, and a row of {dataset.name} is {show(shape)} numbers"
        raise DlkitError(
            message, "a column of text is named by --text COLUMN; columns of numbers begin with 'columns:16'"
        )
    output = steps[-1].output
    if output != (outputs,):
        pools = "'select:mean'" if schema.tokens else "'flatten' or 'gap'"
        end = "end" if len(output) == 1 else f"put {pools} before the end, and end"
        raise DlkitError(
            f"the network's output is {show(output)}, but {dataset.name} has {_needs(outputs, dataset)}",
            f"{end} the network with 'linear:{outputs}'",
        )


def _needs(outputs: int, dataset: Dataset) -> str:
    what = "labels" if dataset.task == MULTI_LABEL else "classes"
    return f"{outputs} {what}" if dataset.classes else "one target to predict"


def _check_norms(graph: Graph, shape: Shape, batch_size: int, accumulate: int) -> None:
    """Batch norm needs more than one value per channel: of a single row only a map has that."""
    for step in walk(graph, shape) if batch_size < 2 * accumulate else ():
        if step.op == "bn" and prod(step.output[1:]) == 1:
            small = f"--accumulate {accumulate} of {batch_size} rows" if accumulate > 1 else "--batch-size 1"
            raise DlkitError(
                f"{step.name} normalises over the batch, and {small} leaves it one value per channel",
                f"use --batch-size {2 * accumulate} or more, or another norm such as ln",
            )


def cut_steps(recipe: Recipe, train: Batches) -> None:
    """Cut each step's batch into the micro-batches that the recipe wants."""
    if recipe.accumulate > train.batch_size:
        raise DlkitError(
            f"--accumulate {recipe.accumulate} is more than the {train.batch_size} rows of a step",
            f"--batch-size {recipe.accumulate} or more; it is always the whole step",
        )
    train.micro_batches = recipe.accumulate


def normaliser(schema: Schema, device: torch.device) -> Normalise | None:
    """What turns a batch of images into a network's input; None for a table, whose schema has done it."""
    if schema.pixel_mean is None:
        return None
    along = (1, -1) + (1,) * (len(schema.input_shape) - 1)
    mean, std = (torch.tensor(v, dtype=torch.float32, device=device) for v in (schema.pixel_mean, schema.pixel_std))
    return Normalise(mean.view(along), std.view(along))
