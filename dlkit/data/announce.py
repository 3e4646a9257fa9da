"""What the user should know about a data set before believing a score on it, whoever computes the score."""

import shlex
from collections.abc import Sequence

from dlkit.core import console
from dlkit.data.dataset import Dataset
from dlkit.data.leak import telling


def announce(
    dataset: Dataset, notes: Sequence[str] = (), only: str | None = None, reader: str | None = None
) -> list[str]:
    """Say how the data was read and split, and warn of columns that give the target away; these are returned.

    only    the one column that is read, if not all are: the others give nothing away
    reader  the network that reads the columns, and was trained with them, if one does
    """
    for text in (*dataset.notes, *notes):
        console.note(text)
    leaks = [] if only else telling(dataset)
    for name, target in leaks:
        advice = f"If it will not be known in use, leave it out with --drop {shlex.quote(name)}"
        console.warn(
            f"column {name!r} alone tells {target!r} in every row: is it the target under another name? "
            + (f"{reader} reads it" if reader else advice)
        )
    return [name for name, _ in leaks]
