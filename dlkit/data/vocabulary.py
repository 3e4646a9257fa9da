"""Text as numbers: characters, bytes, or byte-pair encoding, fitted on the training side alone."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

from dlkit.core.errors import DlkitError, ExitCode
from dlkit.data import strict

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
FORMS = "char, byte, or bpe:SIZE such as bpe:4000"
MOST_MERGES = 1 << 20


class Vocabulary(Protocol):
    """V tokens, numbered from 0."""

    kind: ClassVar[str]

    @property
    def size(self) -> int: ...

    def encode(self, text: str) -> np.ndarray:
        """N int32."""

    def decode(self, tokens: Sequence[int]) -> str: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Characters:
    """The code points of the training side in order; token 0 stands for every other one."""

    kind: ClassVar[str] = "char"
    characters: str

    @property
    def size(self) -> int:
        return len(self.characters) + 1

    @classmethod
    def fit(cls, text: str) -> "Characters":
        return cls("".join(sorted(set(text))))

    @cached_property
    def _points(self) -> np.ndarray:
        return _code_points(self.characters)

    def encode(self, text: str) -> np.ndarray:
        points = _code_points(text)
        at = np.searchsorted(self._points, points).clip(max=len(self._points) - 1)
        return np.where(self._points[at] == points, at + 1, 0).astype(np.int32)

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.characters[i - 1] if i else UNKNOWN for i in tokens)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "characters": self.characters}


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)


@dataclass(frozen=True)
class Bytes:
    """The 256 bytes of UTF-8: nothing to fit, nothing unknown."""

    kind: ClassVar[str] = "byte"
    size: ClassVar[int] = 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int32)

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode("utf-8", "replace")

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind}


@dataclass(frozen=True)
class BytePairs:
    """Byte-level byte-pair encoding as GPT-2's (Sennrich 2016, Radford 2019), by the tokenizers library.

    model  the library's own JSON
    """

    kind: ClassVar[str] = "bpe"
    model: str

    @classmethod
    def fit(cls, text: str, size: int) -> "BytePairs":
        tokenizers = _library()
        model = tokenizers.Tokenizer(tokenizers.models.BPE())
        model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = tokenizers.decoders.ByteLevel()
        alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        model.train_from_iterator(text.splitlines(keepends=True), trainer)
        return cls(model.to_str())

    @cached_property
    def _tokenizer(self) -> Any:
        return _library().Tokenizer.from_str(self.model)

    @property
    def size(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> np.ndarray:
        lines = text.splitlines(keepends=True)
        parts = [np.array(found.ids, np.int32) for found in self._tokenizer.encode_batch(lines)]
        return np.concatenate([np.empty(0, np.int32), *parts])

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode([int(t) for t in tokens]))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "model": json.loads(self.model)}


def has_pairs() -> bool:
    """Whether byte-pair encoding can be had here."""
    return importlib.util.find_spec("tokenizers") is not None


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        hint = "pip install 'dlkit[text]'"
        raise DlkitError("byte-pair encoding needs the tokenizers library", hint, ExitCode.NO_DEPENDENCY) from None
    return tokenizers


def fit_vocabulary(form: str, text: str) -> Vocabulary:
    """The vocabulary that --vocab names, of a training text. Not one of `FORMS`: exit code 2."""
    kind, _, number = form.partition(":")
    if form == "char":
        return Characters.fit(text)
    if form == "byte":
        return Bytes()
    if kind != "bpe" or not (number.isascii() and number.isdigit() and 257 <= int(number[:9]) <= MOST_MERGES):
        hint = f"SIZE is in the range [257, {MOST_MERGES}]" if kind == "bpe" else None
        raise DlkitError(f"--vocab {form}: needs {FORMS}", hint)
    return BytePairs.fit(text, int(number))


def vocabulary_from_json(data: object, where: str) -> Vocabulary:
    """A vocabulary out of what `to_json` made; anything else is bad data."""
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind == "byte":
        return Bytes()
    if kind == "char":
        found = strict.members(data, where, {"kind", "characters"})["characters"]
        ordered = isinstance(found, str) and bool(found) and list(found) == sorted(set(found))
        strict.check(ordered, where, "characters are not in order, or there is none")
        return Characters(str(found))
    strict.check(kind == "bpe", where, f"no kind of vocabulary: {kind!r:.40}")
    pairs = BytePairs(json.dumps(strict.members(data, where, {"kind", "model"})["model"]))
    try:
        _ = pairs.size
    except DlkitError:
        raise
    except Exception as failure:  # noqa: BLE001  the library raises a bare Exception
        strict.check(False, where, f"no model of the tokenizers library ({str(failure).splitlines()[0]:.60})")
    return pairs
