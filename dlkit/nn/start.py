"""What a network starts from: another run's weights, and parts that are not trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from safetensors.torch import load
from torch import Tensor, nn

from dlkit.core import console
from dlkit.core.errors import DlkitError, nearest
from dlkit.core.run import open_run


@dataclass(frozen=True)
class Start:
    """Weights by name to begin with, and patterns of parameter names (conv*, linear1.weight) that stay as they are."""

    weights: dict[str, Tensor]
    frozen: tuple[str, ...] = ()

    def apply(self, model: nn.Module) -> None:
        """Load what fits by name and shape, and freeze. A frozen layer's batch norm keeps its statistics too."""
        own = model.state_dict()
        fitting = {name: value for name, value in self.weights.items() if _fits(value, own.get(name))}
        model.load_state_dict(fitting, strict=False)
        for name, parameter in model.named_parameters():
            if any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for pattern in self.frozen):
                parameter.requires_grad_(False)
        for module in model.modules() if self.frozen else ():
            own_parameters = list(module.parameters(recurse=False))
            if isinstance(module, nn.modules.batchnorm._NormBase) and not any(p.requires_grad for p in own_parameters):
                module.register_forward_pre_hook(_still)

    def check(self, model: nn.Module, run: str | None) -> None:
        """Say what was not taken from `run`; DlkitError where nothing fits, or nothing is left to train."""
        own = model.state_dict()
        if run is not None:
            apart = [name for name in own if not _fits(self.weights.get(name), own[name])]
            if len(apart) == len(own):
                raise DlkitError(f"--init-from {run}: none of its weights has the name and shape of one here")
            if apart:
                console.note(f"not in {run}, or of another shape, and drawn afresh: {_listed(apart)}")
        names = [name for name, _ in model.named_parameters()]
        for pattern in self.frozen:
            if not any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for name in names):
                raise DlkitError(f"--freeze {pattern}: no such parameter", nearest(pattern, names))
        self.apply(model)
        if not any(p.requires_grad for p in model.parameters()):
            raise DlkitError("--freeze leaves nothing to train")


def read_start(run: str | None, frozen: Sequence[str]) -> Start:
    """The weights of a run of `train` that is whole; a damaged or foreign one is refused."""
    return Start(load(open_run(run).read("model.safetensors")) if run else {}, tuple(frozen))


def network_of(run: str) -> str:
    """The network language's text of a run's network."""
    config = open_run(run).config
    if config.get("command") != "train":
        raise DlkitError(f"--init-from {run}: a run of {config.get('command')}, which has no network")
    return str(config["network"])


def _fits(value: Tensor | None, own: Tensor | None) -> bool:
    return value is not None and own is not None and value.shape == own.shape


def _still(module: nn.Module, _: object) -> None:
    """A frozen norm uses the statistics that it came with: whatever the network's mode, its own is evaluation."""
    torch.nn.Module.train(module, False)


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
