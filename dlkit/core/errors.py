"""The one exception a user sees, and the exit codes it may carry."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of every command (sysexits.h where it has one)."""

    OK = 0
    NO = 1  # the answer is no: a check failed
    USAGE = 2
    BAD_DATA = 65
    NO_INPUT = 66
    NO_DEPENDENCY = 69
    INTERNAL = 70  # a bug, or training that diverged
    CANT_CREATE = 73
    IO_ERROR = 74
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


class DlkitError(Exception):
    """Something the user can mend: one line that says what is wrong and where, and a hint at what would be right.

    `context` holds lines shown between the two on a terminal (a network text with its caret); it is left out of JSON.
    """

    def __init__(
        self, message: str, hint: str | None = None, code: ExitCode = ExitCode.USAGE, context: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.context = context


def bad_data(message: str, hint: str | None = None) -> DlkitError:
    return DlkitError(message, hint, ExitCode.BAD_DATA)


def nearest(word: str, known: "list[str] | tuple[str, ...]", most: int = 3) -> str:
    """The known words nearest to `word` as a phrase: "did you mean 'conv'?"; lists them all where none is near."""
    from difflib import get_close_matches

    near = get_close_matches(word, known, most, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(repr(n) for n in near)}?"
    listed = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    return f"known: {listed}" if known else "there are none"
