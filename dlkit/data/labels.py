"""Several targets at once, each of which a row has or has not: multi-label classification."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from dlkit.core.errors import bad_data
from dlkit.core.reading import MULTI_LABEL
from dlkit.data.dataset import Dataset, Place, shown
from dlkit.data.infer import Inference
from dlkit.data.target import ABSENT, UNKNOWN, Target, class_indices, encode_classes, typed

Pair = tuple[str, str]
"""The two values of a label's column: of rows without the label, and of rows with it."""
PAIRS = (("0", "1"), ("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"))
FORMS = (str.lower, str.capitalize, str.upper)


def read_labels(columns: Sequence[pl.Series], inference: Inference, roles: Sequence[str | None]) -> Target:
    """Columns of two values each as labels, in order. Another number of values, or a cell that is missing where
    others of its row are there: bad data. Rows without any are left out."""
    place = inference.place
    values = [typed(cells, inference, "classification", role) for cells, role in zip(columns, roles, strict=True)]
    pairs = tuple(pair_of(place.source, cells) for cells in values)
    labels, kept = label_matrix(place, values, pairs)
    said = [
        f"label {cells.name!r}: a row has it where the cell is {pair[1]!r}, and has it not where it is {pair[0]!r}"
        for cells, pair in zip(values, pairs, strict=True)
        if _known(pair[0]) != pair
    ]
    if not kept.all():
        said.append(f"left out {np.count_nonzero(~kept)} rows whose targets are all missing")
    return Target(MULTI_LABEL, tuple(cells.name for cells in columns), labels, kept, tuple(said), pairs)


def label_matrix(place: Place, columns: Sequence[pl.Series], pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """(K'×K bool of the rows that have labels, N bool: which these are)."""
    codes = np.column_stack([_codes(cells, pair) for cells, pair in zip(columns, pairs, strict=True)])
    if (codes == UNKNOWN).any():
        row, column = np.argwhere(codes == UNKNOWN)[0].tolist()
        cells, pair = columns[column], pairs[column]
        raise place.bad_cell(row, cells.name, cells[row], f"is neither {shown(pair[0])} nor {shown(pair[1])}")
    absent = codes == ABSENT
    kept = ~absent.all(1)
    if not kept.any():
        raise bad_data(f"{place.source}: every cell of the targets is missing: {', '.join(c.name for c in columns)}")
    partly = absent.any(1) & kept
    if partly.any():
        row = int(partly.argmax())
        name = columns[int(absent[row].argmax())].name
        raise bad_data(
            f"{place.source}: {place.where(row)}, column {name!r}: nothing is there, and other targets of the row are",
            "a row needs all of its targets, or none: then it is left out",
        )
    return codes[kept] == 1, kept


def _codes(cells: pl.Series, pair: Pair) -> np.ndarray:
    """N int64: 0, 1, ABSENT or UNKNOWN. True is true, whichever program wrote it."""
    if cells.dtype == pl.String and _known(pair[0]) == pair:
        cells = cells.replace({form(word): word for word in pair for form in FORMS})
    return class_indices(cells, pair)


def pair_of(source: str, values: pl.Series) -> Pair:
    """The value of rows without the label, and that of rows with it: of two the second in order (1, true, yes)."""
    there = values.drop_nulls()
    if not len(there):
        raise bad_data(f"{source}: every cell of the target {values.name!r} is missing")
    names, _ = encode_classes(there)
    if len(names) == 1:
        pair = _known(names[0])
        if pair is None:
            message = f"{source}: the target {values.name!r} is {names[0]!r} in every row: there is nothing to learn"
            raise bad_data(message)
        return pair
    if len(names) != 2:
        held = f"{', '.join(map(shown, names[:4]))}{', …' if len(names) > 4 else ''}"
        message = f"{source}: the target {values.name!r} has {len(names)} values ({held}); one of several has two"
        raise bad_data(message, "--na VALUE reads one as missing; a target alone may have more")
    return names[0], names[1]


def _known(name: str) -> Pair | None:
    """The pair of words that `name` is of, written as it is."""
    forms = ((form(no), form(yes)) for no, yes in PAIRS for form in FORMS)
    return next((pair for pair in forms if name in pair), None)


def one_sided(dataset: Dataset, rows: np.ndarray) -> list[str]:
    """A sentence on each label that all of the rows have, or none: nothing is learned of it but that."""
    if dataset.task != MULTI_LABEL:
        return []
    shares = dataset.labels[rows].mean(0)
    return [
        f"label {name!r} is {pair[int(share)]!r} in every training row: nothing else is learned of it"
        for name, pair, share in zip(dataset.classes, dataset.values, shares, strict=True)
        if share in (0, 1)
    ]
