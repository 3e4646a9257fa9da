"""How a run is kept: when checkpoints are written, how many stay, and which run is taken up again."""

from dataclasses import dataclass

from dlkit.core import units
from dlkit.core.errors import DlkitError


@dataclass(frozen=True)
class Every:
    """An interval, in steps or in seconds."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Every":
        """`500` is steps; `30s`, `5m`, `2h` a time. ValueError says what was given."""
        seconds = units.duration(text) if text[-1:].isalpha() else None
        return cls(seconds=seconds) if seconds is not None else cls(steps=units.count(text))

    def __str__(self) -> str:
        return str(self.steps) if self.steps is not None else f"{self.seconds:g}s"


@dataclass(frozen=True)
class Keeping:
    """every        between two checkpoints
    keep         checkpoints that stay, the newest ones
    resume       a run's directory, or `auto`: the newest unfinished run of the same command, a new one if there is none
    plot         a picture of the run, drawn at its end
    tensorboard  write what TensorBoard shows, in the run's directory
    """

    every: Every = Every(seconds=300)
    keep: int = 2
    resume: str | None = None
    plot: str | None = None
    tensorboard: bool = False

    def refuse_pictures(self) -> None:
        """Where there is no run there is nothing to see."""
        for flag, said in (("--plot", self.plot), ("--tensorboard", self.tensorboard)):
            if said:
                raise DlkitError(f"{flag} has no effect with --dry-run: nothing is trained", f"leave {flag} out")


@dataclass(frozen=True)
class Processes:
    """nproc         processes on this machine; torchrun starts its own
    shard         weights, gradients and moments in shards (FSDP2), not whole in each (DDP)
    max_restarts  times that the processes are started again after one was killed
    """

    nproc: int = 1
    shard: bool = False
    max_restarts: int = 0
