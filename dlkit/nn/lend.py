"""A network run by several processes for one that reads the rows and answers: the others lend theirs, and say nothing.

The first process sends each of the others encoded rows and gets back what the network makes of them. A process gets
whole batches, next to each other, cut as they are for one process: so each row's answer is the same to the last bit.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import NoReturn

import numpy as np
import torch

from dlkit.core import peers
from dlkit.core.errors import ExitCode
from dlkit.data.ensemble import Member
from dlkit.data.predictor import Predictor
from dlkit.nn.predictor import Network
from dlkit.nn.ranks import Ranks, joined, losing

_ENDLESS = timedelta(days=365)
"""The first process may wait for a slow reader of its answers as long as it likes, and the others for it."""
_TYPES = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.uint8), np.dtype(np.int64), np.dtype(np.int32))
_HEADER = 9
"""Numbers before an array: which network's it is, its type, how many axes it has, their lengths."""
_END = -1
"""No network's number: nothing more will come."""


def join() -> Ranks:
    """The processes of this command, until it has answered. To be called before a device is chosen."""
    stack = ExitStack()
    ranks = stack.enter_context(joined(_ENDLESS))
    peers.leave = stack.close
    return ranks


def lent(members: Sequence[Member], ranks: Ranks) -> list[Member]:
    """The members, their networks run by all processes. In all but the first this does not return: they serve it."""
    networks = [member.predictor for member in members if isinstance(member.predictor, Network)]
    if not ranks.first:
        _serve(networks, ranks)
    pool = _Pool(ranks, networks, peers.leave)
    peers.leave = pool.leave
    return [replace(m, predictor=pool.shared(m.predictor)) for m in members]


def _serve(networks: Sequence[Network], ranks: Ranks) -> NoReturn:
    with losing(ranks.rank):
        number, inputs = _receive(ranks, 0)
        while number != _END:
            _send(ranks, 0, number, networks[number].outputs(inputs))
            number, inputs = _receive(ranks, 0)
    raise peers.Echo("", code=ExitCode.OK)


class _Pool:
    """The other processes, as the first one sees them: each has the same networks."""

    def __init__(self, ranks: Ranks, networks: Sequence[Network], then: Callable[[], None]) -> None:
        self.ranks, self.networks, self.then = ranks, networks, then
        self.waiting = False

    def shared(self, predictor: Predictor) -> Predictor:
        """A network run by all; a predictor that is none as it is."""
        if not isinstance(predictor, Network):
            return predictor
        number = next(i for i, network in enumerate(self.networks) if network is predictor)
        return replace(predictor, spread=partial(self._outputs, number))

    def _outputs(self, number: int, inputs: np.ndarray) -> np.ndarray:
        network = self.networks[number]
        bounds = shares(len(inputs), network.batch_size, self.ranks.world)
        asked = [rank for rank in range(1, self.ranks.world) if bounds[rank] < bounds[rank + 1]]
        with losing(0):
            self.waiting = True
            for rank in asked:
                _send(self.ranks, rank, number, inputs[bounds[rank] : bounds[rank + 1]])
            found = [network.outputs(inputs[: bounds[1]])]
            found += [_receive(self.ranks, rank)[1] for rank in asked]
            self.waiting = False
        return np.concatenate(found)

    def leave(self) -> None:
        """Let the others end. In the middle of a request, which failed, they would not hear it: there this process's
        end is theirs."""
        if self.waiting:
            return
        with suppress(RuntimeError):  # gone already
            for rank in range(1, self.ranks.world):
                _send(self.ranks, rank, _END, np.empty(0))
        self.then()


def shares(rows: int, batch_size: int, world: int) -> list[int]:
    """Where each process's rows begin, and where the last one's end: whole batches, the first process never none."""
    batches = -(-rows // batch_size)
    return [min(-(-batches * rank // world) * batch_size, rows) for rank in range(world + 1)]


def _send(ranks: Ranks, to: int, number: int, values: np.ndarray) -> None:
    """Header, then the bytes: gloo does not know every type."""
    header = [number, _TYPES.index(values.dtype.name), values.ndim, *values.shape]
    ranks.send(torch.tensor(header + [0] * (_HEADER - len(header))), to)
    ranks.send(torch.from_numpy(np.ascontiguousarray(values).reshape(-1).view(np.uint8)), to)


def _receive(ranks: Ranks, sender: int) -> tuple[int, np.ndarray]:
    number, kind, axes, *lengths = ranks.receive(torch.empty(_HEADER, dtype=torch.int64), sender).tolist()
    values = np.empty(lengths[:axes], _TYPES[kind])
    ranks.receive(torch.from_numpy(values.reshape(-1).view(np.uint8)), sender)
    return number, values
