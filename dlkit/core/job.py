"""What the user says about data, network and split: the same for every command that trains."""

import shlex
from dataclasses import dataclass, field, fields

from dlkit.core.errors import DlkitError
from dlkit.core.reading import Reading
from dlkit.core.splitting import Splitting


@dataclass(frozen=True)
class JobOptions:
    """The fields are the command line's arguments and options with their defaults; the last two hold several each.

    find_batch  `batch_size` is the largest that fits in memory, found before the run
    """

    data: str
    network: tuple[str, ...] = ()
    batch_size: int | None = None
    valid: float = 0.2
    seed: int = 0
    device: str = "auto"
    find_batch: bool = False
    init_from: str | None = None
    freeze: tuple[str, ...] = ()
    lora: str | None = None
    vocab: str | None = None
    context: int | None = None
    reading: Reading = field(default_factory=Reading)
    splitting: Splitting = field(default_factory=Splitting)

    def __post_init__(self) -> None:
        if self.lora is not None and self.init_from is None:
            raise DlkitError("--lora adapts the weights of a run: say which", "--init-from RUN")
        if self.lora is not None and self.freeze:
            raise DlkitError("--freeze has no effect with --lora, which freezes all but its adapters")

    def text_column(self) -> str | None:
        """The column that a network reads as tokens, the one that --text names; options of a text without one are
        refused."""
        names = self.reading.text
        if len(names) > 1:
            hint = f"dlkit baseline reads several; here --drop {shlex.quote(names[1])} leaves one out"
            raise DlkitError(f"--text names {len(names)} columns, and a network reads one of them", hint)
        for name in () if names else ("vocab", "context"):
            if getattr(self, name) is not None:
                hint = "--text COLUMN says which column of a table is one"
                raise DlkitError(f"--{name} has no effect: {self.data} is not a text (.txt)", hint)
        return names[0] if names else None

    def words(self) -> str:
        """The part of a command line that says this, defaults left out."""
        words = [self.data, *self.network]
        for option in fields(self)[2:-2]:
            value = getattr(self, option.name)
            if value != option.default:
                for one in value if isinstance(value, tuple) else (value,):
                    words += [f"--{option.name.replace('_', '-')}", str(one)]
        return shlex.join(words + self.splitting.words() + self.reading.words())
