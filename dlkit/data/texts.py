"""A text cut in two for a language model, and what a trained one has to know about its tokens."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dlkit.core.errors import bad_data
from dlkit.core.reading import MASKED, OF_TEXT, WRITING, Reading
from dlkit.data import strict
from dlkit.data.corpus import Corpus, read_text_corpus
from dlkit.data.vocabulary import Vocabulary, fit_vocabulary, vocabulary_from_json

FORMAT = 1
_NO_TEXTS = (
    "target",
    "targets",
    "task",
    "na",
    "numeric",
    "categorical",
    "datetime",
    "text",
    "id",
    "drop",
    "delimiter",
    "header",
    "image_size",
)


@dataclass(frozen=True)
class TextSchema:
    """Beside the vocabulary: how many tokens the network reads at once. The other names are those of `Schema`.

    masked  whether tokens are hidden by one that is none of the vocabulary's, and to be told
    """

    vocabulary: Vocabulary
    context: int
    masked: bool = False
    target: ClassVar[None] = None
    classes: ClassVar[tuple[str, ...]] = ()
    tokens: ClassVar[None] = None

    @property
    def task(self) -> str:
        return MASKED if self.masked else WRITING

    @property
    def size(self) -> int:
        """The kinds of tokens that a network knows; the mask is the last one."""
        return self.vocabulary.size + self.masked

    @property
    def input_shape(self) -> tuple[int]:
        return (self.context,)

    def to_json(self) -> dict[str, Any]:
        found = {"format": FORMAT, "task": self.task, "context": self.context}
        return found | {"vocabulary": self.vocabulary.to_json()}

    @classmethod
    def from_json(cls, data: object) -> "TextSchema":
        """A schema out of what `to_json` made; anything else is bad data."""
        where = "schema"
        values = strict.members(data, where, {"format", "task", "context", "vocabulary"})
        strict.check(values["format"] == FORMAT and values["task"] in OF_TEXT, where, "not one of a language model")
        context = strict.context(values["context"], where)
        vocabulary = vocabulary_from_json(values["vocabulary"], f"{where}: vocabulary")
        return cls(vocabulary, context, values["task"] == MASKED)


@dataclass(frozen=True, eq=False)
class Texts:
    """A text as tokens, its end held out: `train` and `valid` are int32. The other names are those of `Dataset`."""

    corpus: Corpus
    train: np.ndarray
    valid: np.ndarray
    task: ClassVar[str] = WRITING
    target: ClassVar[None] = None

    @property
    def name(self) -> str:
        return self.corpus.name

    @property
    def source(self) -> str:
        return self.corpus.source

    @property
    def fingerprint(self) -> str:
        return self.corpus.fingerprint

    @property
    def rows(self) -> int:
        return len(self.train) + len(self.valid)

    def where(self, token: int) -> str:
        return f"token {token + 1}"


def read_texts(
    source: str, reading: Reading, valid: float, form: str, context: int, known: Vocabulary | None = None
) -> tuple[Texts, TextSchema]:
    """Read, hold out the last `valid` of the characters, fit the vocabulary on what comes before, encode.

    form  --vocab, of a vocabulary to fit; `known` is one that is fitted already
    """
    reading.refuse_for("a text for a language model", *_NO_TEXTS)
    corpus = read_text_corpus(source, reading)
    cut = len(corpus.text) - round(valid * len(corpus.text))
    vocabulary = known or fit_vocabulary(form, corpus.text[:cut])
    texts = Texts(corpus, vocabulary.encode(corpus.text[:cut]), vocabulary.encode(corpus.text[cut:]))
    for side, tokens, least in (("to train on", texts.train, 2 * context), ("to validate", texts.valid, context + 1)):
        if len(tokens) < least:
            message = f"{source}: {len(tokens)} tokens {side}, where a context of {context} needs {least}"
            raise bad_data(message, "a longer text, another --valid, or a smaller --context")
    return texts, TextSchema(vocabulary, context)
