"""A trained language model: how surprising a text is to it, and what it writes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dlkit.core.console import progress
from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.reading import Reading
from dlkit.core.result import Column, Result
from dlkit.core.run import Run
from dlkit.data.corpus import read_text_corpus
from dlkit.data.texts import TextSchema
from dlkit.nn import device as devices
from dlkit.nn.masking import CHOSEN, Masked
from dlkit.nn.objective import Objective
from dlkit.nn.predictor import rebuild, rows_at_once
from dlkit.nn.ranks import Ranks, joined
from dlkit.nn.text import LARGEST_BATCH
from dlkit.nn.windows import Windows


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: its logits over `temperature` (0: the likeliest), of the `top_k` likeliest alone."""

    tokens: int
    prompt: str = ""
    temperature: float = 1.0
    top_k: int | None = None
    seed: int = 0


def open_language(run: Run, device: str, modules: Sequence[str] = ()) -> tuple[TextSchema, nn.Module, torch.device]:
    """Schema and network of a run of `train` on a text. Damaged or foreign: exit code 65; no such device: 69."""
    where = devices.pick(device)
    schema = TextSchema.from_json(run.schema)
    output = (schema.context, schema.size)
    return schema, rebuild(run, schema.input_shape, output, modules, "tokens").to(where).eval(), where


def score(run: Run, source: str, reading: Reading, device: str, modules: Sequence[str] = ()) -> Result:
    """Perplexity of a text, window by window, each token once; a window's first tokens have little before them."""
    with joined() as ranks:
        return _scored(run, source, reading, device, modules, ranks)


def _scored(run: Run, source: str, reading: Reading, device: str, modules: Sequence[str], ranks: Ranks) -> Result:
    schema, model, where = open_language(run, device, modules)
    text = read_text_corpus(source, reading).text
    tokens = schema.vocabulary.encode(text)
    if len(tokens) < schema.context + 1:
        raise bad_data(f"{source}: {len(tokens)} tokens, where the context of {run.path} needs {schema.context + 1}")
    size = rows_at_once(run, LARGEST_BATCH)
    kind = Masked if schema.masked else Windows
    more = {"mask": schema.vocabulary.size, "seed": _seed(run)} if schema.masked else {}
    windows = kind(tokens, schema.context, size, where, **more)
    nats = _surprise(model, windows, Objective(schema.task, schema.size), ranks) / windows.count
    summary = {"perplexity": math.exp(min(nats, 700.0)), "loss": nats}
    if not schema.masked:
        # Tokens of one vocabulary cannot be compared with another's; bytes can.
        scored = schema.vocabulary.decode(tokens[1 : windows.count + 1].tolist())
        size = len(scored.encode("utf-8", "replace"))
        summary["bits_per_byte"] = nats * windows.count / math.log(2) / size
    summary["rows"] = windows.count
    columns = [Column("metric"), Column("value", "float")]
    rows = [{"metric": name, "value": value} for name, value in summary.items()]
    what = f"hidden tokens, {100 * CHOSEN:g} % of all by the run's seed" if schema.masked else "tokens"
    notes = [f"rows are {what}; {len(text):,} characters were read"]
    return Result(columns, rows, summary, "perplexity", notes=notes)


def _seed(run: Run) -> int:
    """The seed by which a run's tokens are hidden in evaluation."""
    options = run.config.get("options")
    seed = options.get("seed") if isinstance(options, dict) else None
    if type(seed) is not int:
        raise bad_data(f"{run.path}: config.json does not say its seed")
    return seed


@torch.inference_mode()
def _surprise(model: nn.Module, windows: Windows, objective: Objective, ranks: Ranks) -> float:
    """Σ −ln p of every token that is scored. Of several processes each has whole batches, so that the sum is that of
    one to the last bit."""
    sums = []
    for i, batch in enumerate(windows.in_order()):
        own = i % ranks.world == ranks.rank
        sums.append(objective.total(model(batch.x).float(), batch.y) if own else torch.zeros((), device=windows.device))
    return float(torch.tensor(ranks.total(torch.stack(sums)), dtype=torch.float64).sum())


def generate(run: Run, how: Sampling, device: str, modules: Sequence[str] = ()) -> Result:
    """A text that goes on from the prompt, drawn token by token on the CPU's generator: alike on every device."""
    schema, model, where = open_language(run, device, modules)
    start = schema.vocabulary.encode(how.prompt or "\n").tolist()
    if not start:
        raise DlkitError("--prompt has no token of the vocabulary")
    with progress(how.tokens, "writing") as bar:
        tokens = list(start)
        generator = torch.Generator().manual_seed(how.seed)
        for _ in range(how.tokens):
            tokens.append(_next(model, tokens[-schema.context :], how, generator, where))
            bar.advance()
    text = schema.vocabulary.decode(tokens if how.prompt else tokens[len(start) :])
    summary = {"text": text, "prompt": how.prompt, "tokens": how.tokens}
    return Result([Column("text")], [{"text": text}], summary, "text", text=text)


@torch.inference_mode()
def _next(model: nn.Module, seen: list[int], how: Sampling, generator: torch.Generator, where: torch.device) -> int:
    logits: Tensor = model(torch.tensor([seen], device=where))[0, -1].float().cpu()
    if how.temperature == 0:
        return int(logits.argmax())
    if how.top_k is not None and how.top_k < len(logits):
        logits[logits < logits.topk(how.top_k).values[-1]] = -math.inf
    return int(torch.multinomial((logits / how.temperature).softmax(0), 1, generator=generator))
