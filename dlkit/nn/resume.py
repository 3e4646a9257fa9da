"""Which run is taken up again, and whether the command at hand may: the same data, network and recipe."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dlkit.core import console
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.reading import said_as
from dlkit.core.run import RunDirectory, no_run
from dlkit.nn.checkpoint import FOLDER, Saved, header, listed
from dlkit.nn.own import SOURCE
from dlkit.nn.scalars import FOLDER as SCALARS

HARMLESS = (
    "recipe.epochs",
    "recipe.patience",
    "recipe.watch",
    "options.data",
    "options.network",
    "module.word",
    "module.package",
    "options.batch_size",
    "options.find_batch",
    "batch_found",
    "options.device",
    "versions",
    "threads",
    "folder",
)
"""What a resumed run may say anew: where the data lies, not what it is; how long to train, not how; what is looked at;
and what is compared as it was understood, not as it was said."""
_OWN = {
    *("config.json", "schema.json", "metrics.jsonl", "manifest.json", "model.safetensors", ".lock"),
    *(FOLDER, SCALARS, SOURCE),
}


def find(resume: str | None, out: str | None, stem: str, config: Mapping[str, Any]) -> RunDirectory:
    """The run directory to train in: a new one, the one named, or with `auto` the newest that the command began.

    No such run: exit code 66; in use, or with foreign files in it: 73.
    """
    if resume is None:
        return RunDirectory.create(out, stem)
    if resume != "auto":
        if not listed(Path(resume) / FOLDER):
            raise _nothing(Path(resume))
        return RunDirectory.reopen(Path(resume))
    if out is not None:
        return _adopt(Path(out)) if Path(out).exists() else RunDirectory.create(out, stem)
    found = next(_begun(stem, lambda _: config), None)
    return RunDirectory.reopen(found) if found else RunDirectory.create(None, stem)


def _nothing(path: Path) -> DlkitError:
    if not path.is_dir():
        return no_run(path)
    return DlkitError(f"{path}: no checkpoint to resume from", code=ExitCode.NO_INPUT)


def _adopt(path: Path) -> RunDirectory:
    """A directory that is there already, with nothing in it that no run has written."""
    foreign = sorted(p.name for p in path.iterdir() if p.name not in _OWN and not p.name.startswith(".")) \
        if path.is_dir() else [path.name]  # fmt: skip
    if foreign:
        raise DlkitError(f"{path} already exists and is no run: it holds {foreign[0]!r}", code=ExitCode.CANT_CREATE)
    return RunDirectory.reopen(path)


def settled(resume: str | None, out: str | None, stem: str, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The configuration of the run that would be taken up: what `config` leaves to be found (`--lr auto`, `--batch-size
    auto`) was found when that run began. None where no run is taken up."""

    def as_found(before: Mapping[str, Any]) -> dict[str, Any]:
        size = {"batch_size": before["batch_size"]} if config["options"]["find_batch"] else {}
        rate = {name: before["recipe"][name] for name in ("lr", "find_lr")} if config["recipe"]["find_lr"] else {}
        return {**config, **size, "recipe": config["recipe"] | rate}

    if resume is None:
        return None
    if resume == "auto" and out is None:
        path = next(_begun(stem, as_found), None)
    else:
        path = Path(out if resume == "auto" and out is not None else resume)
    newest = next(iter(listed(path / FOLDER)), None) if path else None
    facts = header(newest) if newest else None
    return facts["config"] if facts else None


def _begun(stem: str, said: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Iterator[Path]:
    """The unfinished runs of this very command, the newest first. `said`: what it says, in the light of a run's
    configuration."""
    there = itertools.takewhile(Path.is_dir, (Path("runs") / f"{stem}-{n}" for n in itertools.count(1)))
    for path in reversed(list(there)):
        newest = next(iter(listed(path / FOLDER)), None)
        facts = header(newest) if newest else None
        if facts and not facts.get("done") and not differences(facts["config"], said(facts["config"])):
            yield path


def check(saved: Saved, config: Mapping[str, Any], path: Path) -> None:
    """Refuse to go on with other data, another network or another recipe; say what makes the end differ in its bits."""
    different = differences(saved.facts["config"], config)
    if different:
        raise DlkitError(f"cannot resume {path}: {different[0]}", _hint(different), ExitCode.USAGE)
    threads, versions = torch.get_num_threads(), saved.facts["config"]["versions"]
    if saved.facts["threads"] != threads:
        console.note(f"resuming with {threads} threads, not {saved.facts['threads']}: sums may round differently")
    for name, version in versions.items():
        if config["versions"][name] != version:
            console.note(f"resuming with {name} {config['versions'][name]}, not {version}: sums may round differently")


def _hint(different: list[str]) -> str:
    more = f"{len(different) - 1} more: {'; '.join(different[1:3])}. " if len(different) > 1 else ""
    return f"{more}Start a new run, or say what the run at hand said"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each setting that is not what it was and matters, the weightiest first: data, network, then options."""
    old, new = _flat(before), _flat(now)
    for one in (old, new):  # a run is known by its name, wherever it lies: its weights are in the checkpoint
        one["options.init_from"] = (path := one.get("options.init_from")) and Path(str(path)).name
    names = [n for n in old | new if not any(n == h or n.startswith(h + ".") for h in HARMLESS)]
    changed = [n for n in names if old.get(n) != new.get(n)]
    order = ("fingerprint", "options.reading.target", "options.reading.targets", "rows", "network")
    changed.sort(key=lambda n: order.index(n) if n in order else len(order))
    return [_said(n, old.get(n), new.get(n)) for n in changed]


def _flat(tree: Mapping[str, Any], stem: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{stem}{name}.")
        else:
            flat[stem + name] = list(value) if isinstance(value, tuple) else value
    return flat


def _said(name: str, old: Any, new: Any) -> str:
    if name == "fingerprint":
        return "the data is not what it was (its fingerprint differs)"
    if name.startswith("module.files."):
        file = name.removeprefix("module.files.")
        return f"{file} {'is not what it was' if old and new else 'was not' if new else 'is no longer'}" \
            f"{'' if old and new else ' a source of the network'}"  # fmt: skip
    if name == "network":
        was, now = _first_difference(str(old), str(new))
        return f"the network differs: it was {was}, it is {now}"
    shown = name.rpartition(".")[2]
    option = said_as(shown) if name.startswith(("options.", "recipe.")) else shown.replace("_", "-")
    return f"{option} was {_short(old)}, it is {_short(new)}"


def _first_difference(old: str, new: str) -> tuple[str, str]:
    for was, now in itertools.zip_longest(old.split(), new.split()):
        if was != now:
            return (was or "at its end").strip("()'"), (now or "at its end").strip("()'")
    return "written otherwise", "the same"


def _short(value: Any) -> str:
    text = "not said" if value is None or value == [] else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:39] + "…"
