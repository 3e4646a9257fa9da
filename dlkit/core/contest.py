"""What the user says about a board of baselines: the options of `baseline` beside those of reading and splitting."""

from dataclasses import dataclass, field

from dlkit.core.errors import DlkitError
from dlkit.core.reading import ROLES, Reading
from dlkit.core.splitting import Splitting

FOLDS = 5


@dataclass(frozen=True)
class Contest:
    """The fields are the command line's, with their defaults.

    valid    a file to score on in place of folds
    folds    how many; None: FOLDS, or one split where there is a file to score on
    models   families by name; none: all that suit the task
    budget   seconds from start to end, the final fit and its saving included
    tries    settings tried in each family at most; 1: defaults alone
    save     the family to keep; None: the best one
    embed    a run of `train`, through whose network the rows are read
    """

    data: str
    valid: str | None = None
    models: tuple[str, ...] = ()
    folds: int | None = None
    metric: str | None = None
    budget: float = 60.0
    tries: int | None = None
    seed: int = 0
    balance: bool = False
    engine: str = "local"
    save: str | None = None
    out: str | None = None
    embed: str | None = None
    reading: Reading = field(default_factory=Reading)
    splitting: Splitting = field(default_factory=Splitting)

    def __post_init__(self) -> None:
        if self.valid is not None and self.folds is not None:
            raise DlkitError("--valid and --folds: one file validates, so there are no folds", "leave one of them out")
        if self.valid is not None and self.splitting != Splitting():
            option = next(iter(self.splitting.columns))
            raise DlkitError(f"--valid and --{option}: the file says which rows validate", "leave one of them out")
        if self.embed is not None:
            said = next((o for o in (*ROLES, "image_size") if getattr(self.reading, o) != getattr(Reading, o)), None)
            if said is not None:
                message = f"--{said.replace('_', '-')} and --embed: the run says what its network reads"
                raise DlkitError(message, "leave one of them out")
