"""`--resume RUN` alone: what the command line leaves unsaid is as that run was told."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from dlkit.core.errors import DlkitError, bad_data
from dlkit.core.io import read_text
from dlkit.core.network import is_module


def resumed(context: typer.Context, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a command, those left unsaid from the run that it resumes. Without DATA there must be one."""
    run = arguments.get("resume")
    if arguments["data"] is not None:
        return arguments
    if run is None or run == "auto":
        raise DlkitError("missing argument 'DATA'", f"see '{context.command_path} --help'")
    before = _told(Path(run) / "config.json")
    if any(map(is_module, before["network"])):
        words = " ".join(shlex.quote(str(word)) for word in (before["data"], *before["network"]))
        raise DlkitError(
            f"--resume {run}: its network is a module of your own, which only the command line may name",
            f"dlkit train {words} --resume {run}, and the other options as it was told",
        )
    unsaid = [name for name in arguments if str(context.get_parameter_source(name)).rpartition(".")[2] == "DEFAULT"]
    return arguments | {name: before[name] for name in unsaid if name in before}


def _told(path: Path) -> dict[str, Any]:
    """Option -> value, from the configuration of a run."""
    try:
        config = json.loads(read_text(str(path)))
        flat = _leaves(config["options"]) | _leaves(config["recipe"])
        flat["header"] = not flat["header"]  # the flag is --no-header
        flat["target"] = flat.pop("targets", []) or [name for name in [flat["target"]] if name]
    except (ValueError, KeyError, TypeError):
        raise bad_data(f"{path}: damaged, or not the configuration of a run of train") from None
    return flat


def _leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _leaves(value) if isinstance(value, Mapping) else {name: value}
    return flat
