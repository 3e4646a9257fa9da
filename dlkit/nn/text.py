"""A text, a network and a split, made ready for training: the way of language models."""

from dlkit.core import console, network, spec
from dlkit.core.errors import DlkitError
from dlkit.core.graph import walk
from dlkit.core.job import JobOptions
from dlkit.core.layers import show
from dlkit.core.recipe import Recipe
from dlkit.core.splitting import Splitting
from dlkit.data.split import Split
from dlkit.data.texts import WRITING, TextSchema, read_texts
from dlkit.nn import device as devices
from dlkit.nn import precision
from dlkit.nn.job import Job, check_accumulate, default_batch_size
from dlkit.nn.objective import Objective
from dlkit.nn.own import open_own
from dlkit.nn.ranks import ALONE, Ranks
from dlkit.nn.start import Network, network_of, starting
from dlkit.nn.windows import Windows

VOCAB, CONTEXT = "char", 128
LARGEST_BATCH = 64


def prepare_text(options: JobOptions, recipe: Recipe, ranks: Ranks = ALONE, shard: bool = False) -> Job:
    """Read the text, hold out its end, fit the vocabulary on what comes before, and check that the network fits."""
    _refuse(options, recipe)
    device = devices.pick(options.device)
    precision.check(recipe.precision, device)
    texts, schema = read_texts(
        options.data, options.reading, options.valid, options.vocab or VOCAB, options.context or CONTEXT
    )
    console.note(f"the last {100 * options.valid:g} % of the text validate; {schema.vocabulary.kind} vocabulary of "
                 f"{schema.vocabulary.size} tokens")  # fmt: skip
    name, graph = _network(options, schema)
    rows = len(texts.train) // schema.context
    size = min(options.batch_size or min(default_batch_size(rows), LARGEST_BATCH), max(rows - 1, 1))
    train = Windows(texts.train, schema.context, size, device, options.seed, ranks, moves=True)
    valid = Windows(texts.valid, schema.context, 4 * size, device, options.seed, ranks)
    check_accumulate(recipe, train)
    start = starting(options, recipe, graph, schema.input_shape, tokens=True)
    objective = Objective(WRITING, schema.vocabulary.size, smoothing=recipe.label_smoothing or 0.0)
    sides = range(len(texts.train)), range(len(texts.train), texts.rows), range(0)  # of many tokens no array is needed
    fixed = objective, train, valid, device, {}, start, Split("end", *sides)  # type: ignore[arg-type]
    return Job(options, recipe, texts, schema, name, graph, *fixed, ranks, shard)  # type: ignore[arg-type]


def _refuse(options: JobOptions, recipe: Recipe) -> None:
    """What means nothing for a text."""
    said = {
        "--augment": recipe.augment,
        "--class-weights": recipe.class_weights,
        f"--loss {recipe.loss}": recipe.loss not in (None, "cross-entropy"),
        "a split by columns": options.splitting != Splitting(),
    }
    for name, value in said.items():
        if value:
            raise DlkitError(f"{name} has no effect: the data is a text for a language model")


def _network(options: JobOptions, schema: TextSchema) -> tuple[str, Network]:
    """(short name, network) of the user's network or the default one."""
    size, context = schema.vocabulary.size, schema.context
    words = options.network or (network_of(options.init_from).split() if options.init_from else ())
    if not words:
        return "gpt", spec.parse(default_text(size)).graph
    if any(map(network.is_module, words)):
        needs = f"each of {context} tokens has a score for each of {size}"
        own = open_own(words).fitting(schema.input_shape, (context, size), needs, tokens=True)
        return own.name, own
    net = network.read(words)
    if net.input is not None and net.input != schema.input_shape and options.network:
        hint = f"--context {net.input[0]}, or a network for {context} tokens"
        raise DlkitError(f"the network says its input is {show(net.input)}; the context is {context} tokens", hint)
    output = walk(net.graph, schema.input_shape)[-1].output
    if output != (context, size):
        hint = f"begin with 'embed:{size},WIDTH pos' and end with 'lmhead:{size},tie=1'"
        raise DlkitError(f"the network's output is {show(output)}, where {context}x{size} is needed", hint)
    bare = words[0].partition(":")[0].removeprefix("@").rpartition("/")[2]
    return (bare.removesuffix(".dlk") if len(words) == 1 and bare != "-" else "net"), net.graph


def default_text(vocabulary: int) -> str:
    """A small GPT in the network language: 4 blocks of width 128, 4 heads, the head tied to the embedding."""
    block = "sum(ln attn:4,causal=1 dropout:0.1 | ) sum(ln mlp:512 dropout:0.1 | )"
    return f"embed:{vocabulary},128 pos 4*({block}) ln lmhead:{vocabulary},tie=1"
