"""`--resume RUN`: what the command line leaves unsaid is as that run was told, from whatever folder it is called."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from dlkit.core.errors import DlkitError, ExitCode, bad_data
from dlkit.core.io import read_text
from dlkit.core.network import is_file, is_module
from dlkit.core.run import no_run


def resumed(context: typer.Context, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a command, those left unsaid from the run that it resumes. Without DATA there must be one."""
    run = arguments.get("resume")
    if run is None or run == "auto":
        if arguments["data"] is None:
            raise DlkitError("missing argument 'DATA'", f"see '{context.command_path} --help'")
        return arguments
    before = _told(Path(run))
    unsaid = [name for name in arguments if str(context.get_parameter_source(name)).rpartition(".")[2] == "DEFAULT"]
    words = [*filter(None, [arguments["data"]]), *(arguments["network"] or ())]
    if words and _is_network(words, before["network"]):
        arguments, unsaid = arguments | {"network": words}, ["data", *(name for name in unsaid if name != "network")]
    owned = next(filter(is_module, before["network"]), None)
    if owned and "network" in unsaid:
        raise DlkitError(
            f"--resume {run}: its network is a module of your own, which only the command line may name",
            f"dlkit train --resume {shlex.quote(run)} {shlex.quote(owned)}",
        )
    first = before["init_from"] if "init_from" in unsaid else None
    if first and not Path(first).exists():
        message = f"--resume {run}: {first}, the run that it began with, is not there"
        raise DlkitError(message, "--init-from says where it lies now", ExitCode.NO_INPUT)
    return arguments | {name: before[name] for name in unsaid if name in before}


def _is_network(words: list[str], before: list[str]) -> bool:
    """Whether DATA is left out, and what stands in its place begins the network."""
    return (is_module(words[0]) or words == before) and not Path(words[0]).exists()


def _told(run: Path) -> dict[str, Any]:
    """Option -> value, from the configuration of a run; what lies beside the folder that it was called in is found."""
    path = run / "config.json"
    if not run.is_dir():
        raise no_run(run)
    if not path.exists() and not (run / "checkpoint").is_dir():
        raise DlkitError(f"{run}: no checkpoint to resume from", code=ExitCode.NO_INPUT)
    try:
        config = json.loads(read_text(str(path)))
        if config.get("command", "train") in ("baseline", "cluster"):
            raise DlkitError(f"--resume {run}: a run of {config['command']}, which is not taken up again")
        flat = _leaves(config["options"]) | _leaves(config["recipe"])
        flat["header"] = not flat["header"]  # the flag is --no-header
        flat["target"] = flat.pop("targets", []) or [name for name in [flat["target"]] if name]
        if any(map(is_file, flat["network"])) or (flat["init_from"] and not flat["network"]):
            flat["network"] = config["network"].split()  # the very text, wherever it came from
        for name in ("data", "init_from"):
            flat[name] = flat[name] and _found(flat[name], config.get("folder", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise bad_data(f"{path}: damaged, or not the configuration of a run of train") from None
    return flat


def _found(name: str, folder: str) -> str:
    """A path as it was said where that leads somewhere, else from the folder in which it was said."""
    there = Path(folder) / name
    return str(there) if there.exists() and not Path(name).exists() else name


def _leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _leaves(value) if isinstance(value, Mapping) else {name: value}
    return flat
