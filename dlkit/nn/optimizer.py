"""The optimisers, as torch has them, on the parameters that each is for."""

import torch
from torch import nn

from dlkit.core.errors import DlkitError
from dlkit.core.recipe import Recipe
from dlkit.nn.norms import NORMS

_FUSED = ("cpu", "cuda", "mps")


def make_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """One optimiser, fused where torch has it so; two for Muon, which is for the matrices inside a network alone.

    Biases, norms and other vectors are not decayed. Muon's rate is scaled as AdamW's (match_rms_adamw), so that one
    rate serves both; embeddings, the output layer and all that is no matrix get AdamW (Jordan 2024).
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    shrunk, fused = {id(p) for p in penalised(model)}, _fused(trained)

    def groups(parameters: list[nn.Parameter]) -> list[dict[str, object]]:
        halves = [[p for p in parameters if (id(p) in shrunk) == decayed] for decayed in (True, False)]
        decays = zip(halves, (recipe.decays, 0.0), strict=True)
        return [{"params": half, "weight_decay": decay} for half, decay in decays if half]

    if recipe.optimizer != "muon":
        return [_make(recipe.optimizer, groups(trained), recipe, fused)]
    inside = hidden_matrices(model)
    matrices = [p for p in trained if id(p) in inside]
    rest = [p for p in trained if id(p) not in inside]
    if not matrices:
        raise DlkitError("--optimizer muon has no effect: no linear layer before the last is trained", "use adamw")
    adamw = [_make("adamw", groups(rest), recipe, fused)] if rest else []
    return [_muon(matrices, recipe), *adamw]


def penalised(model: nn.Module) -> list[nn.Parameter]:
    """What weight decay and L1 make smaller: what is trained, but for biases, norms and other vectors."""
    spared = {id(p) for norm in model.modules() if isinstance(norm, NORMS) for p in norm.parameters(recurse=False)}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad and id(p) not in spared]
    return [p for name, p in named if p.dim() > 1 and not name.endswith("bias")]


def _fused(parameters: list[nn.Parameter]) -> bool:
    # Weights in shards (FSDP's DTensor) have no fused kernel for every optimiser.
    return all(p.device.type in _FUSED and p.is_floating_point() and not hasattr(p, "device_mesh") for p in parameters)


def _make(name: str, groups: list[dict[str, object]], recipe: Recipe, fused: bool) -> torch.optim.Optimizer:
    lr, momentum, beta2 = recipe.lr, recipe.momentum, recipe.beta2
    if name == "sgd":
        momentum = 0.9 if momentum is None else momentum
        nesterov = momentum > 0 if recipe.nesterov is None else recipe.nesterov
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)
    if name == "rmsprop":
        alpha = 0.99 if beta2 is None else beta2
        return torch.optim.RMSprop(groups, lr=lr, alpha=alpha, momentum=momentum or 0.0, foreach=True)
    first = 0.9 if momentum is None or recipe.optimizer == "muon" else momentum
    betas = (first, 0.999 if beta2 is None else beta2)
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(groups, lr=lr, betas=betas, fused=fused)


def _muon(matrices: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.Muon(
        matrices,
        lr=recipe.lr,
        weight_decay=recipe.decays,
        momentum=0.95 if recipe.momentum is None else recipe.momentum,
        nesterov=recipe.nesterov is not False,
        adjust_lr_fn="match_rms_adamw",
    )


def hidden_matrices(model: nn.Module) -> set[int]:
    """The weights of linear layers, the last one left out: that one's rows are classes, not features."""
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return {id(m.weight) for m in linears[:-1] if m.weight.requires_grad} - tables


def set_rates(optimizers: list[torch.optim.Optimizer], lr: float, momentum: float | None) -> None:
    """The rate of the next step, and its momentum (β₁ of the Adam family) where the schedule says one."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
            if momentum is None:
                continue
            if "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            else:
                group["momentum"] = momentum
