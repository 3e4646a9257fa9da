"""How the run that another one begins with reads texts: its weights mean nothing under another vocabulary."""

from dataclasses import dataclass

from dlkit.core.errors import DlkitError
from dlkit.core.run import open_run
from dlkit.data.schema import Schema
from dlkit.data.texts import TextSchema
from dlkit.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class Inherited:
    """A vocabulary, the tokens that are read at once, and how many kinds of tokens the network knows: with a mask one
    more than the vocabulary has."""

    vocabulary: Vocabulary
    context: int
    size: int


def inherited(run: str | None, vocab: str | None) -> Inherited | None:
    """What `--init-from RUN` says about tokens; None where there is no run, or one that reads none.

    vocab  --vocab, which beside such a run would change nothing: exit code 2
    """
    opened = open_run(run) if run else None
    if opened is None or opened.command != "train" or not isinstance(opened.schema, dict):
        return None
    found: TextSchema | None = TextSchema.from_json(opened.schema) if opened.of_text else None
    tokens = found or ("tokens" in opened.schema and Schema.from_json(opened.schema).tokens)
    if not tokens:
        return None
    known = tokens.vocabulary
    if vocab is not None:
        message = f"--vocab has no effect: the {known.kind} vocabulary of {known.size} of --init-from {run} is taken"
        raise DlkitError(message, "another vocabulary would give its weights other meanings")
    return Inherited(known, tokens.context, tokens.size)
