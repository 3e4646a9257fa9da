"""A text, a network and a split, made ready for training: the way of language models."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from dlkit.core import console, network, spec
from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.field import looks_ahead
from dlkit.core.graph import walk
from dlkit.core.job import JobOptions
from dlkit.core.layers import Shape, show
from dlkit.core.recipe import Recipe
from dlkit.data.inherit import inherited
from dlkit.data.split import Split
from dlkit.data.texts import TextSchema, read_texts
from dlkit.nn import device as devices
from dlkit.nn import precision
from dlkit.nn.job import Job, cut_steps, default_batch_size
from dlkit.nn.masking import CHOSEN, Masked
from dlkit.nn.objective import Objective
from dlkit.nn.own import Own, open_own
from dlkit.nn.prose import check_vocabulary
from dlkit.nn.ranks import ALONE, Ranks
from dlkit.nn.start import Network, blamed, network_of, starting
from dlkit.nn.windows import Windows

VOCAB, CONTEXT = "char", 128
LARGEST_BATCH = 64


def prepare_text(options: JobOptions, recipe: Recipe, ranks: Ranks = ALONE, shard: bool = False) -> Job:
    """Read the text, hold out its end, fit the vocabulary on what comes before, and check that the network fits."""
    _refuse(options, recipe)
    device = devices.pick(options.device)
    precision.check(recipe.precision, device)
    known = inherited(options.init_from, options.vocab)
    context = options.context or (known.context if known else CONTEXT)
    form, vocabulary = options.vocab or VOCAB, known.vocabulary if known else None
    texts, schema = read_texts(options.data, options.reading, options.valid, form, context, vocabulary)
    with blamed(options):
        name, graph, schema = _network(options, schema)
    _announce(options, schema, known is not None)
    rows = len(texts.train) // schema.context
    size = min(options.batch_size or min(default_batch_size(rows), LARGEST_BATCH), max(rows - 1, 1))

    def side(tokens: np.ndarray, batch: int, moves: bool) -> Windows:
        if not schema.masked:
            return Windows(tokens, schema.context, batch, device, options.seed, ranks, moves)
        mask = schema.vocabulary.size
        return Masked(tokens, schema.context, batch, device, mask, options.seed, ranks, moves)

    train, valid = side(texts.train, size, moves=True), side(texts.valid, size, moves=False)
    if not valid.count:
        raise bad_data(f"{options.data}: no token of the validation side is hidden", "a longer text, or more --valid")
    cut_steps(recipe, train)
    start = starting(options, recipe, graph, schema.input_shape, "tokens")
    objective = Objective(schema.task, schema.size, smoothing=recipe.label_smoothing or 0.0)
    sides = range(len(texts.train)), range(len(texts.train), texts.rows), range(0)  # of many tokens no array is needed
    fixed = objective, train, valid, device, {}, start, Split("end", *sides)  # type: ignore[arg-type]
    return Job(options, recipe, texts, schema, name, graph, *fixed, ranks, shard)  # type: ignore[arg-type]


def _refuse(options: JobOptions, recipe: Recipe) -> None:
    """What means nothing for a text."""
    column = next(iter(options.splitting.columns), "")
    said = {
        "--augment": recipe.augment,
        "--class-weights": recipe.class_weights,
        f"--loss {recipe.loss}": recipe.loss not in (None, "cross-entropy"),
        f"--{column}": column,
    }
    for name, value in said.items():
        if value:
            raise DlkitError(f"{name} has no effect: the data is a text for a language model")


def _announce(options: JobOptions, schema: TextSchema, inherits: bool) -> None:
    """How the text is read, and what of it is to be told."""
    whose = f", that of {options.init_from}" if inherits else ""
    console.note(f"the last {100 * options.valid:g} % of the text validate; {schema.vocabulary.kind} vocabulary of "
                 f"{schema.vocabulary.size} tokens{whose}")  # fmt: skip
    if schema.masked:
        console.note(f"the network sees what follows a token, too: {100 * CHOSEN:g} % of the tokens are hidden, and it "
                     "is to tell them (a masked language model)")  # fmt: skip


def _network(options: JobOptions, schema: TextSchema) -> tuple[str, Network, TextSchema]:
    """(short name, network, what is known of tokens) of the user's network or the default one.

    A network that sees ahead would read off what comes next: it has to tell hidden tokens, and knows one more, their
    mask.
    """
    words = options.network or (network_of(options.init_from).split() if options.init_from else ())
    if not words:
        return "gpt", spec.parse(default_text(schema.size)).graph, schema
    if any(map(network.is_module, words)):
        return *_own(words, schema), schema
    net = _read(words, schema)
    if net.input is not None and net.input != schema.input_shape and options.network:
        context = schema.context
        hint = f"--context {net.input[0]}, or a network for {context} tokens"
        if len(net.input) > 1:
            hint = "a text is read by gpt, bert or a network that begins with 'embed'"
        raise DlkitError(f"the network says its input is {show(net.input)}; the context is {context} tokens", hint)
    if looks_ahead(walk(net.graph, schema.input_shape)[-1].field):
        schema = replace(schema, masked=True)
        net = _read(words, schema) if network.is_named(words) else net
    steps = walk(net.graph, schema.input_shape)
    _check_output(steps[-1].output, schema)
    check_vocabulary(steps, schema.size)
    bare = words[0].partition(":")[0].removeprefix("@").rpartition("/")[2]
    name = bare.removesuffix(".dlk") if len(words) == 1 and bare != "-" else "net"
    return name, net.graph, schema


def _read(words: Sequence[str], schema: TextSchema) -> spec.Network:
    """The network in `words`; of one with a name, what it leaves open is as the text has it."""
    return network.read(network.filled(words, vocab=schema.size, context=schema.context))


def _check_output(output: Shape, schema: TextSchema) -> None:
    """Each token needs a score for each kind of token."""
    context, size = schema.context, schema.size
    if output != (context, size):
        hint = f"begin with 'embed:{size},WIDTH pos' and end with 'lmhead:{size},tie=1'"
        why = f" ({schema.vocabulary.size} tokens and the mask)" if schema.masked else ""
        raise DlkitError(f"the network's output is {show(output)}, where {context}x{size} is needed{why}", hint)


def _own(words: Sequence[str], schema: TextSchema) -> tuple[str, Own]:
    """(name, module of the user's own), which must be causal: what it sees is told by trying."""
    context, size = schema.context, schema.size
    needs = f"each of {context} tokens has a score for each of {size}"
    own = open_own(words).fitting(schema.input_shape, (context, size), needs, "tokens", size)
    if _sees_ahead(own.build(schema.input_shape, "tokens"), context):
        raise DlkitError(
            f"{own.word} sees the tokens that it is to foretell: its outputs change with what comes later",
            "make it causal (is_causal=True); masked language models are written in the network language",
        )
    return own.name, own


@torch.no_grad()
def _sees_ahead(module: nn.Module, context: int) -> bool:
    """Whether other tokens in the second half change the outputs of the first."""
    half = context // 2
    tokens = torch.zeros(2, context, dtype=torch.long)
    tokens[1, half:] = 1
    first, second = module.eval()(tokens).float()
    change = (first - second).abs()
    return half > 0 and float(change[:half].max()) > 1e-3 * float(change.max())


def default_text(vocabulary: int) -> str:
    """A small GPT in the network language: 4 blocks of width 128, 4 heads, the head tied to the embedding."""
    block = "sum(ln attn:4,causal=1 dropout:0.1 | ) sum(ln mlp:512 dropout:0.1 | )"
    return f"embed:{vocabulary},128 pos 4*({block}) ln lmhead:{vocabulary},tie=1"
