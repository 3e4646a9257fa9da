"""Checkpoints: a state as one safetensors file, named by its place in the run and the sha256 of its bytes.

A file whose bytes are not what its name says is never used. Nothing in it is code: tensors, and JSON in the header.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from dlkit.core import console
from dlkit.core.errors import DlkitError, ExitCode, bad_data
from dlkit.core.run import RunDirectory
from dlkit.nn.ranks import ALONE, Ranks
from dlkit.nn.state import State
from dlkit.nn.tree import pack, unpack, without_aliases

FOLDER = "checkpoint"
_NAME = re.compile(r"(?:(\d{9})-(\d{6})|best)-([0-9a-f]{64})\.safetensors")


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: tensors by name, and the JSON beside them (`config`, `state`, `best`)."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def restore(self, state: State) -> None:
        """Bring `state` to where this was saved; its network and optimiser must be built as they were then: else, or
        where this is no work of `save`, exit code 65."""
        try:
            state.load_state_dict(unpack(self.facts["state"], self.tensors))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as failure:
            reason = " ".join(str(failure).split())[:160]
            raise bad_data(f"the checkpoint does not fit this run: {reason}") from None
        state.best_weights = self.best_weights


class Checkpoints:
    """The checkpoints of one run directory: the newest `keep`, and the best weights that they speak of.

    Of several processes the first alone has the directory; all have to call `save` and `latest`, at the same place.
    """

    def __init__(self, directory: RunDirectory | None, keep: int, config: Mapping[str, Any]) -> None:
        self.directory, self.keep, self.config = directory, keep, config
        self.folder = directory.path / FOLDER if directory else Path()
        self._best: tuple[int, str | None] = (0, None)
        self._last: tuple[int, int, int] | None = None

    def save(self, state: State, done: bool = False) -> None:
        """Write `state` whole, then let go of what is too old. Twice at the same place is once. `done`: for good."""
        place = (state.step, state.epoch, state.position)
        if place == self._last and not done:
            return
        self._last = place
        tensors: dict[str, Tensor] = {}
        packed = pack(state.state_dict(), "", tensors)
        if not self.directory:
            return
        if state.best_epoch != self._best[0]:
            self._best = state.best_epoch, self._write("best", state.best_weights, {})
        facts = {
            "format": 1,
            "config": self.config,
            "done": done,
            "threads": torch.get_num_threads(),
            "best": self._best[1],
            "state": packed,
        }
        newest = self._write(f"{state.step:09d}-{state.epoch:06d}", tensors, facts)
        self._forget(newest)

    def prove_room(self, state: State) -> None:
        """Refuse to begin where `keep` checkpoints and one being written will not fit, best weights beside them."""
        tensors: dict[str, Tensor] = {}
        pack(state.state_dict(), "", tensors)
        weights = [v for name, v in tensors.items() if name.startswith("model.")]
        if self.directory:
            self.directory.prove_room((self.keep + 1) * _bytes(tensors.values()) + 3 * _bytes(weights))

    def _write(self, stem: str, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> str:
        kept, aliases = without_aliases(tensors)
        data = save(kept, {"dlkit": json.dumps(facts | {"aliases": aliases})})
        name = f"{stem}-{hashlib.sha256(data).hexdigest()}.safetensors"
        assert self.directory
        self.directory.write(f"{FOLDER}/{name}", data)
        return name

    def _forget(self, newest: str) -> None:
        """Remove all but the newest `keep` checkpoints; the one just written stays, whatever its name."""
        older = [p.name for p in listed(self.folder) if p.name != newest]
        kept = {newest, *older[: self.keep - 1]}
        best = {self._best[1]} | {(header(self.folder / name) or {}).get("best") for name in kept - {newest}}
        for path in self.folder.glob("*.safetensors"):
            if path.name not in kept | best:
                path.unlink(missing_ok=True)

    def latest(self, ranks: Ranks = ALONE) -> Saved | None:
        """The newest checkpoint that is whole; None where there is none at all. All damaged: exit code 65."""
        found, best = self._newest_whole() if self.directory else (b"", b"")
        found, best = ranks.from_first(found), ranks.from_first(best)
        if not found:
            return None
        saved = parse(found)
        return Saved(saved.tensors, saved.facts, dict(parse(best).tensors) if best else {})

    def _newest_whole(self) -> tuple[bytes, bytes]:
        """The bytes of a checkpoint and of the best weights it speaks of; none where there are none."""
        paths = listed(self.folder)
        for path in paths:
            data = read(path)
            named = facts_of(data)["best"] if data else None
            best = self.folder / Path(named).name if named else None
            weights = read(best) if best else b""
            if data and weights is not None:
                return data, weights
            console.warn(f"{best if data else path}: damaged; the checkpoint before it is taken")
        if paths:
            raise bad_data(f"{self.folder}: no checkpoint in it is whole", "the run has to be made again")
        return b"", b""

    def goes_on(self, state: State, saved: Saved) -> None:
        """The run goes on from what was saved, now `state`: what is on disk already is not written again."""
        self._best = state.best_epoch, saved.facts["best"]
        self._last = (state.step, state.epoch, state.position)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def listed(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first."""
    paths = [p for p in folder.glob("*.safetensors") if (m := _NAME.fullmatch(p.name)) and m[1]]
    return sorted(paths, key=lambda p: p.name[:16], reverse=True)


def read(path: Path) -> bytes | None:
    """A checkpoint's bytes, or None where they are not those that its name says, or are none. Not readable: 74."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as failure:
        reason = (failure.strerror or str(failure)).lower()
        raise DlkitError(f"{path}: {reason}", code=ExitCode.IO_ERROR) from None
    found = _NAME.fullmatch(path.name)
    if not found or hashlib.sha256(data).hexdigest() != found[3]:
        return None
    needs = {"aliases"} if found[1] is None else {"aliases", "best", "config", "state", "threads"}
    try:
        return data if needs <= facts_of(data).keys() else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # somebody else's file, whole as it may be


def parse(data: bytes) -> Saved:
    """A checkpoint from bytes that are known to be whole."""
    facts, tensors = facts_of(data), load(data)
    for alias, name in facts["aliases"].items():
        tensors[alias] = tensors[name]
    return Saved(tensors, facts)


def facts_of(data: bytes) -> dict[str, Any]:
    """The JSON in a checkpoint's header."""
    length = int.from_bytes(data[:8], "little")
    facts: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["dlkit"])
    return facts


def header(path: Path) -> dict[str, Any] | None:
    """The JSON of a checkpoint without reading its tensors, not verified; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
            return facts_of(head + file.read(min(int.from_bytes(head, "little"), 100 << 20)))
    except (OSError, ValueError, KeyError, TypeError):
        return None
