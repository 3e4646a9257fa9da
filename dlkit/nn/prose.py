"""A column of text as what a network reads: its vocabulary, and whether the network fits that."""

from collections.abc import Sequence

import numpy as np

from dlkit.core import console
from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.graph import Step
from dlkit.core.job import JobOptions
from dlkit.core.sequence import Embed
from dlkit.data import Dataset, Schema, vocabulary
from dlkit.data.infer import as_text
from dlkit.data.inherit import inherited
from dlkit.data.schema import text_schema
from dlkit.data.tokens import PIECES, VOCAB, Tokens, fit_tokens
from dlkit.nn.padding import check


def fit_prose(dataset: Dataset, rows: np.ndarray, column: str, options: JobOptions) -> Schema:
    """The schema of a network that reads one column of text alone, its vocabulary that of `rows`."""
    if dataset.frame is None:
        raise DlkitError(f"--text has no effect: {dataset.source} is no table")
    texts = as_text(dataset.frame[column].gather(rows))
    if not texts.drop_nulls().str.len_chars().sum():
        raise bad_data(f"{dataset.source}: column {column!r} is empty on the training side: there is nothing to read")
    known = inherited(options.init_from, options.vocab)
    if known:
        spare = known.size - known.vocabulary.size
        tokens = fit_tokens(texts, "", options.context or known.context, known.vocabulary, spare)
    else:
        tokens = fit_tokens(texts, options.vocab or _form(options), options.context)
    console.note(
        f"{column!r} alone is read: {tokens.context} tokens at most (--context), of a {tokens.vocabulary.kind} "
        f"vocabulary of {tokens.vocabulary.size}{f', that of {options.init_from}' if known else ''}"
    )
    return text_schema(dataset, rows, column, tokens)


def _form(options: JobOptions) -> str:
    """The vocabulary where --vocab names none: pieces of words for the default network, if the extra is there."""
    if options.network or options.init_from:
        return VOCAB
    if vocabulary.has_pairs():
        return PIECES
    console.note("characters are read; of pieces of words a network learns more: pip install 'dlkit[text]'")
    return VOCAB


def check_reads(steps: Sequence[Step], tokens: Tokens) -> None:
    """Refuse a network that does not read tokens, knows fewer of them than there are, or sees what follows a text."""
    check(steps)
    check_vocabulary(steps, tokens.vocabulary.size)


def check_vocabulary(steps: Sequence[Step], size: int) -> None:
    """Refuse a network that knows fewer tokens than there are."""
    for step in steps:
        if isinstance(step.layer, Embed) and step.layer.num_embeddings < size:
            message = f"{step.name} ({step.text}) has {step.layer.num_embeddings} tokens, and the vocabulary {size}"
            raise DlkitError(message, f"begin with 'embed:{size},{step.layer.embedding_dim}'")
