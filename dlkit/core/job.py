"""What the user says about data, network and split: the same for every command that trains."""

import shlex
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class JobOptions:
    """The fields are the command line's arguments and options, with their defaults."""

    data: str
    network: tuple[str, ...] = ()
    batch_size: int | None = None
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    valid: float = 0.2
    seed: int = 0
    target: str | None = None
    task: str | None = None
    na: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    delimiter: str | None = None
    device: str = "auto"

    def words(self) -> str:
        """The part of a command line that says this, defaults left out."""
        words = [self.data, *self.network]
        for option in fields(self)[2:]:
            value = getattr(self, option.name)
            if value != option.default:
                for one in value if isinstance(value, tuple) else (value,):
                    words += [f"--{option.name.replace('_', '-')}", str(one)]
        return shlex.join(words)
