"""What a network starts from: another run's weights, and parts that are not trained, or adapters that alone are."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from safetensors.torch import load
from torch import Tensor, nn

from dlkit.core import console
from dlkit.core.errors import DlkitError, nearest
from dlkit.core.graph import Graph, walk
from dlkit.core.job import JobOptions
from dlkit.core.layers import Shape
from dlkit.core.matrices import Lora, parse_lora, resolved
from dlkit.core.recipe import Recipe
from dlkit.core.run import open_run
from dlkit.nn import lora as adapters
from dlkit.nn.build import build
from dlkit.nn.norms import hold
from dlkit.nn.own import ROWS, Kind, Own, example

Network = Graph | Own
"""What a network is built from: a text in the network language, or a module of the user's own."""


def make(network: Network, shape: Shape, kind: Kind = "numbers") -> nn.Module:
    """A fresh network for one sample of `shape`."""
    return network.build(shape, kind) if isinstance(network, Own) else build(network, shape)


@dataclass(frozen=True)
class Start:
    """Weights by name to begin with, and patterns of parameter names (conv*, linear1.weight) that stay as they are.

    low, adapted  with `--lora`: adapters of which rank and scale, on the layers at which paths; what else came from
                  the run stays as it is, and what did not is trained whole
    trained       how many parameters learn; None: all of them
    """

    weights: dict[str, Tensor]
    frozen: tuple[str, ...] = ()
    low: Lora | None = None
    adapted: tuple[str, ...] = ()
    trained: int | None = None

    def apply(self, model: nn.Module) -> None:
        """Load what fits by name and shape, freeze, and adapt. A frozen layer's batch norm keeps its statistics too."""
        own = model.state_dict()
        fitting = {name: value for name, value in self.weights.items() if _fits(value, own.get(name))}
        model.load_state_dict(fitting, strict=False)
        for name, parameter in model.named_parameters():
            if (self.low and name in fitting) or any(_matches(name, pattern) for pattern in self.frozen):
                parameter.requires_grad_(False)
        for path, module in model.named_modules() if self.frozen or self.low else ():
            if isinstance(module, nn.modules.batchnorm._NormBase) and self._stays(path, module, fitting):
                hold(module)
        if self.adapted:  # which reads the weights of torch's own transformer layers past their forward
            torch.backends.mha.set_fastpath_enabled(False)
        for path in self.adapted:
            assert self.low
            adapters.adapt(model.get_submodule(path), self.low.rank, self.low.scale)

    def _stays(self, path: str, norm: nn.Module, fitting: dict[str, Tensor]) -> bool:
        """Whether a norm is not to be trained: by its weights, or where it has none by its name or whence it comes."""
        weights = list(norm.parameters(recurse=False))
        if weights:
            return not any(p.requires_grad for p in weights)
        statistics = f"{path}.running_mean" in fitting
        return (self.low is not None and statistics) or any(_matches(path, pattern) for pattern in self.frozen)

    def check(self, model: nn.Module, run: str | None) -> None:
        """Say what was not taken from `run`; DlkitError where nothing fits, or nothing is left to train."""
        own = model.state_dict()
        if run is not None:
            apart = [name for name in own if not _fits(self.weights.get(name), own[name])]
            if len(apart) == len(own):
                raise DlkitError(f"--init-from {run}: none of its weights has the name and shape of one here")
            if apart:
                whole = ", and trained whole" if self.low else ""
                console.note(f"not in {run}, or of another shape, and drawn afresh{whole}: {_listed(apart)}")
        names = [name for name, _ in model.named_parameters()]
        for pattern in self.frozen:
            if not any(_matches(name, pattern) for name in names):
                raise DlkitError(f"--freeze {pattern}: no such parameter", nearest(pattern, names))
        self.apply(model)
        if not any(p.requires_grad for p in model.parameters()):
            raise DlkitError("--freeze leaves nothing to train")


def starting(options: JobOptions, recipe: Recipe, network: Network, shape: Shape, kind: Kind = "numbers") -> Start:
    """What `network` starts from, once it is clear that it can. A run that is damaged or foreign is refused."""
    weights = load(open_run(options.init_from).read("model.safetensors")) if options.init_from else {}
    start = Start(weights, options.freeze)
    if not (options.init_from or options.freeze or options.lora or isinstance(network, Own)):
        return start
    model = make(network, shape, kind)
    if options.lora:
        start = _adapting(start, options, recipe, network, shape, kind, model)
    start.check(model, options.init_from)
    return replace(start, trained=sum(p.numel() for p in model.parameters() if p.requires_grad))


def _adapting(
    start: Start, options: JobOptions, recipe: Recipe, network: Network, shape: Shape, kind: Kind, model: nn.Module
) -> Start:
    """`start` with adapters on the layers that `--lora` names and whose weights come from the run."""
    lora = parse_lora(str(options.lora))
    if recipe.optimizer == "muon":
        raise DlkitError("--optimizer muon does not go with --lora: adapters are no hidden matrices", "use adamw")
    ours = isinstance(network, Own)
    found = list(adapters.in_module(model) if ours else adapters.in_graph(walk(network, shape)))
    lora = resolved(lora, [name for name, _ in found])
    own = model.state_dict()
    paths = dict.fromkeys(path for name, path in found if name in lora.targets)
    known = [path for path in paths if _fits(start.weights.get(_weight(path)), own[_weight(path)])]
    if not known:
        raise DlkitError(
            f"--lora {options.lora}: no weight of {', '.join(lora.targets)} comes from {options.init_from}, "
            "and what is drawn afresh is trained whole"
        )
    most = max(min(len(own[_weight(path)]), own[_weight(path)][0].numel()) for path in known)
    if lora.rank > most:
        raise DlkitError(f"--lora r={lora.rank} is no low rank: no matrix here has more than {most}", "r=8 is usual")
    start = replace(start, low=lora, adapted=tuple(known))
    if isinstance(network, Own):
        _prove(start, network, shape, kind)
    return start


@torch.inference_mode()
def _prove(start: Start, network: Own, shape: Shape, kind: Kind) -> None:
    """DlkitError where a forward of the user's own goes past an adapter: then its weights could not be merged."""
    adapted, plain = network.build(shape, kind), network.build(shape, kind)
    start.apply(adapted)
    for layer in adapted.modules():
        if isinstance(layer, adapters.Adapted):
            nn.init.normal_(layer.lora_b, std=0.1)
    plain.load_state_dict(adapters.merged(adapted))
    ours, theirs = (module.eval()(example(ROWS, shape, kind)) for module in (adapted, plain))
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max())):
        raise DlkitError(
            f"--lora: {network.word} uses a weight otherwise than by calling its layer, so that adapters on "
            f"{', '.join(start.adapted[:3])} cannot be merged",
            "name other layers: --lora r=8,targets=…",
        )


@contextmanager
def blamed(options: JobOptions) -> Iterator[None]:
    """What does not fit in a network that nobody wrote is said of the run that it comes from."""
    try:
        yield
    except DlkitError as failure:
        if options.network or not options.init_from:
            raise
        message = f"the network of --init-from {options.init_from} does not fit: {failure.message}"
        hint = "name a NETWORK: of layers that it shares with the run, by name and shape, the weights are taken"
        raise DlkitError(message, hint, failure.code, failure.context) from None


def told_apart(run: str, columns: Sequence[str], classes: Sequence[str]) -> None:
    """Say where weights that fit mean something else here: the run's columns or classes are others."""
    schema = open_run(run).schema
    theirs = schema if isinstance(schema, dict) else {}
    encoders = [c.get("column") for c in theirs.get("columns") or () if isinstance(c, dict)]
    for what, here, there in (("columns", columns, encoders), ("classes", classes, theirs.get("classes") or [])):
        if here and there and list(here) != list(there):
            other = next((str(name) for name in there if name not in here), "the same in another order")
            console.note(f"{run} knows other {what} ({other}): where shapes agree, their weights are where these begin")


def network_of(run: str) -> str:
    """The network language's text of a run's network."""
    config = open_run(run).config
    if config.get("command") != "train":
        raise DlkitError(f"--init-from {run}: a run of {config.get('command')}, which has no network")
    if "module" in config:
        text = config["network"]
        raise DlkitError(
            f"--init-from {run}: its network is a module of your own, {text}, which only the command line may name",
            f"dlkit train DATA {text} --init-from {run}",
        )
    return str(config["network"])


def _weight(path: str) -> str:
    return f"{path}.weight" if path else "weight"


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _fits(value: Tensor | None, own: Tensor | None) -> bool:
    return value is not None and own is not None and value.shape == own.shape


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
