"""Which rows of a source a run was trained on and which it was validated on, told by its config.json."""

from collections.abc import Sequence

import numpy as np

from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.reading import Reading
from dlkit.core.splitting import Splitting
from dlkit.data.ensemble import Member
from dlkit.data.load import load
from dlkit.data.split import hold_out
from dlkit.data.table import Table


def side_of_all(members: Sequence[Member], table: Table, side: str) -> np.ndarray:
    """The rows with a target, as indices among these, that are on the same `side` ('train', 'valid') for every run."""
    found = _side(members[0], table, side)
    for member in members[1:]:
        found = np.intersect1d(found, _side(member, table, side))
    if not len(found):
        raise DlkitError(f"--rows {side}: the runs were split so that they have no such row in common")
    return found


def _side(member: Member, table: Table, side: str) -> np.ndarray:
    """The split made again from the options that made it: the source is the same, as its fingerprint says."""
    source = table.place.source
    if not member.has_seen(table):
        raise DlkitError(
            f"--rows {side}: {member.name} was not trained on {source}",
            "--rows is for the very file of the training run; rows that another file shares with it are not looked for",
        )
    if member.run.command != "train" and member.seen_by(table) != member.name:
        raise DlkitError(f"--rows {side}: {member.name} was not trained on {source}, though its network was")
    if member.run.command != "train":
        raise DlkitError(
            f"--rows {side}: {member.name} was fitted on every row of {source} in the end",
            "what it scores on rows held out is on the board that baseline showed",
        )
    options = member.run.config.get("options")
    try:
        reading, splitting = Reading(**options["reading"]), Splitting(**options["splitting"])  # type: ignore[index]
        valid, seed = float(options["valid"]), int(options["seed"])  # type: ignore[index]
    except (KeyError, TypeError, ValueError, DlkitError) as failure:
        raise bad_data(f"{member.name}: config.json does not say how the rows were split ({failure})") from None
    split = hold_out(load(source, splitting.reading(reading), texts=True, several=True), splitting, valid, seed)
    return split.sides[side]
