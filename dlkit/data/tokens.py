"""A column of text as tokens: what a network of sequences reads of a table's row."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from dlkit.core import console
from dlkit.data import strict
from dlkit.data.vocabulary import Vocabulary, fit_vocabulary, vocabulary_from_json

VOCAB, PIECES = "char", "bpe:4000"
PAD = -1
"""Stands after a text's last token where others are longer; no token of a vocabulary."""
EMPTY = "\n"
"""What an empty or missing text is read as: a network has to be shown something."""
MOST_CONTEXT = 512
"""Tokens of a text that are read at most, unless --context says otherwise."""


@dataclass(frozen=True)
class Tokens:
    """How a text becomes tokens: the first `context` of them. That texts were cut is said once.

    spare  kinds of tokens beyond the vocabulary's that the run before knew, its mask: room in the embedding, no more
    """

    vocabulary: Vocabulary
    context: int
    spare: int = field(default=0, compare=False)
    _said: list[str] = field(default_factory=list, compare=False, repr=False)

    @property
    def size(self) -> int:
        """The kinds of tokens that a network should know."""
        return self.vocabulary.size + self.spare

    def encode(self, texts: pl.Series) -> np.ndarray:
        """N×L int32: as many columns as the longest of these texts has tokens, PAD after the end of the others."""
        rows = _encoded(self.vocabulary, texts)
        lengths = [len(row) for row in rows]
        self._say(sum(length > self.context for length in lengths), len(rows))
        found = np.full((len(rows), min(max(lengths, default=1), self.context)), PAD, np.int32)
        for row, tokens in zip(found, rows, strict=True):
            row[: len(tokens)] = tokens[: self.context]
        return found

    def _say(self, longer: int, rows: int) -> None:
        if longer and not self._said:
            text = f"{longer:,} of {rows:,} texts have more than {self.context} tokens, and are cut there"
            self._said.append(text)
            console.note(text)

    def to_json(self) -> dict[str, Any]:
        return {"context": self.context, "vocabulary": self.vocabulary.to_json()}

    @classmethod
    def from_json(cls, data: object, where: str) -> "Tokens":
        """What `to_json` made; anything else is bad data."""
        values = strict.members(data, where, {"context", "vocabulary"})
        context = strict.context(values["context"], where)
        return cls(vocabulary_from_json(values["vocabulary"], f"{where}: vocabulary"), context)


def fit_tokens(
    texts: pl.Series, form: str, context: int | None, known: Vocabulary | None = None, spare: int = 0
) -> Tokens:
    """How the texts of the training side, and then any others, become tokens.

    form     --vocab, of a vocabulary that is fitted on these texts; `known` is one that is fitted already
    context  tokens that are read of each; None: as many as the longest has, MOST_CONTEXT at most
    """
    vocabulary = known or fit_vocabulary(form, EMPTY.join([*texts.drop_nulls(), ""]))
    if context is None:
        context = min(max(len(row) for row in _encoded(vocabulary, texts)), MOST_CONTEXT)
    return Tokens(vocabulary, context, spare)


def _encoded(vocabulary: Vocabulary, texts: pl.Series) -> list[np.ndarray]:
    return [vocabulary.encode(text or EMPTY) for text in texts]
