"""The processes of a run: who this one is, and what they agree on. One process alone agrees with itself."""

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from dlkit.core import peers
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.signals import CODES

PATIENCE = timedelta(minutes=10)
"""How long one process waits for another before it gives up: an evaluation or a checkpoint of one takes less."""


class Ranks:
    """Process `rank` of `world`. What is agreed goes through main memory and a group of its own: the loop on a GPU is
    not held up, and no gradient is in its way.

    exchange  the group in which gradients and the sums of batch norms go
    """

    def __init__(self, rank: int = 0, world: int = 1, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.world, self._group = rank, world, group
        self.exchange: dist.ProcessGroup | None = None

    def __deepcopy__(self, memo: object) -> "Ranks":
        return self  # a copy of a network is trained by the same processes

    @property
    def alone(self) -> bool:
        return self.world == 1

    @property
    def first(self) -> bool:
        """Whether this is the process that owns the run directory and speaks."""
        return self.rank == 0

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over all processes."""
        if self.alone:
            return list(values)
        agreed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(agreed, dist.ReduceOp.MAX, self._group)
        return agreed.tolist()

    def total(self, values: Tensor) -> list[float]:
        """The sum of each value over all processes, in double precision."""
        summed = values.detach().to("cpu", torch.float64)
        if not self.alone:
            dist.all_reduce(summed, dist.ReduceOp.SUM, self._group)
        return summed.tolist()

    def from_first(self, data: bytes) -> bytes:
        """What the first process gave, in all of them."""
        if self.alone:
            return data
        size = torch.tensor([len(data)])
        dist.broadcast(size, 0, self._group)
        whole = torch.frombuffer(bytearray(data), dtype=torch.uint8) if self.first and data else None
        whole = torch.empty(int(size), dtype=torch.uint8) if whole is None else whole
        dist.broadcast(whole, 0, self._group)
        return whole.numpy().tobytes()

    def meet(self) -> None:
        """Open the exchange; all processes at the same place."""
        self.exchange = dist.new_group(timeout=PATIENCE)

    def part(self) -> None:
        """Close the exchange from this side. Whoever waits in it for this process gets an error, and is free.

        Gloo's connections end with the last reference to the group; of NCCL, kernels that wait must be called off.
        """
        if self.exchange is None:
            return
        if torch.cuda.is_available() and dist.get_backend(self.exchange) != "gloo":
            dist.distributed_c10d._abort_process_group(self.exchange)
        else:
            dist.destroy_process_group(self.exchange)
        self.exchange = None
        gc.collect()

    def send(self, values: Tensor, to: int) -> None:
        """Values that process `to` is to `receive`, in the same order."""
        dist.send(values, to, self._group)

    def receive(self, values: Tensor, sender: int) -> Tensor:
        """What process `sender` sends, in place of `values`."""
        dist.recv(values, sender, self._group)
        return values

    def share(self, rows: Tensor, parts: int = 1) -> tuple[list[Tensor], float]:
        """This process's part of each of a batch's `parts` micro-batches, and what each row in it counts: a batch
        smaller than the processes are many goes to all of them whole, each counting its share. Fewer micro-batches
        where a process would have no row of one."""
        n = len(rows)
        if n < self.world:
            return list(rows.tensor_split(min(parts, n))), 1 / self.world
        cuts = rows.tensor_split(min(parts, n // self.world))
        return [c[len(c) * self.rank // self.world : len(c) * (self.rank + 1) // self.world] for c in cuts], 1.0


ALONE = Ranks()


@contextmanager
def joined(patience: timedelta = PATIENCE) -> Iterator[Ranks]:
    """The processes that torchrun or `--nproc` started, joined while the block runs; ALONE where neither did.

    NCCL where every process has a CUDA device of its own, gloo otherwise. The others gone: exit code 70.
    """
    if not peers.several():
        yield ALONE
        return
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    cuda = torch.cuda.is_available() and torch.cuda.device_count() > int(os.environ.get("LOCAL_RANK", rank))
    try:
        store = _store(rank, world)
        dist.init_process_group(
            "cuda:nccl,cpu:gloo" if cuda else "gloo", store=store, rank=rank, world_size=world,
            timeout=PATIENCE,
        )  # fmt: skip
        group = dist.new_group(backend="gloo", timeout=patience)
        peers.claim = lambda: _is_first(store, rank)
    except (RuntimeError, ValueError) as failure:
        reason = " ".join(str(failure).split())[:200]
        raise DlkitError(
            f"process {rank} of {world} cannot reach the others: {reason}", code=ExitCode.IO_ERROR
        ) from None
    try:
        with losing(rank):
            ranks = Ranks(rank, world, group)
            ranks.meet()
            yield ranks
    finally:
        ended = sys.exc_info()[1]
        if ended is None or getattr(ended, "code", None) in CODES.values():  # after an error the others may be gone
            dist.destroy_process_group()


def _is_first(store: dist.Store, rank: int) -> bool:
    """Whether no other process has shown an error yet."""
    try:
        return bool(store.compare_set("error", "", str(rank)) == str(rank).encode())
    except RuntimeError:  # the store is gone, and with it whoever could have said so
        return True


class Lost(DlkitError):
    """Another process ended; its own error is the one to read."""

    def __init__(self, rank: int) -> None:
        super().__init__(
            f"process {rank}: another process of this run ended or hangs", "see its error", ExitCode.INTERNAL
        )


@contextmanager
def losing(rank: int) -> Iterator[None]:
    """torch's error that a peer is gone, as one line."""
    try:
        yield
    except RuntimeError as failure:
        if not lost(failure):
            raise
        raise Lost(rank) from None


def lost(failure: BaseException) -> bool:
    """Whether an error of torch says that a peer is gone."""
    text = str(failure).lower()
    signs = ("connection closed by peer", "connection reset", "timed out waiting", "gloo", "nccl", "broken pipe")
    return any(sign in text for sign in signs)


def _store(rank: int, world: int) -> dist.Store:
    """Where the processes find each other: a file of the launcher's on one machine, else what torchrun's variables
    say. Each restart has keys of its own: torch 2.13's gloo meets the addresses of the dead under the old ones."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    path = os.environ.get("DLKIT_STORE")
    if path:
        return dist.FileStore(f"{path}-{attempt}", world)
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", rank, world, timeout=PATIENCE))
    return dist.PrefixStore(f"attempt{attempt}", store)
