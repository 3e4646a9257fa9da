"""One step, against hand-written ones; what must never reach the weights; and what each option means."""

import shutil
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dlkit.core import spec
from dlkit.core.augment import parse_augment
from dlkit.core.errors import DlkitError
from dlkit.core.job import JobOptions
from dlkit.core.recipe import OPTIMIZERS, Recipe
from dlkit.core.run import open_run
from dlkit.nn import loader
from dlkit.nn import step as step_module
from dlkit.nn.build import build
from dlkit.nn.loader import Batches, Normalise
from dlkit.nn.norms import hold
from dlkit.nn.objective import Objective
from dlkit.nn.predictor import open_network
from dlkit.nn.prepare import prepare
from dlkit.nn.schedule import Rates
from dlkit.nn.step import Stepper
from dlkit.nn.train import begin

CLASSES = Objective("classification", 3)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def batch(seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 4, generator=generator), torch.randint(0, 3, (16,), generator=generator)


def test_adamw_is_the_textbook_update():
    """Two steps of Loshchilov & Hutter's algorithm 2 by hand (N-S138…S144); biases and norms are not decayed."""
    lr, decay, b1, b2, eps = 0.01, 0.1, 0.9, 0.999, 1e-8
    ours, hand = network(), network()
    step = Stepper(ours, CLASSES, Recipe(lr=lr, weight_decay=decay))
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in hand.parameters()]
    for t in (1, 2):
        step(batch(t), Rates(lr))
        x, y = batch(t)
        hand.zero_grad()
        nn.functional.cross_entropy(hand(x), y).backward()
        with torch.no_grad():
            for p, (m, v) in zip(hand.parameters(), moments, strict=True):
                p *= 1 - lr * (decay if p.dim() > 1 else 0)
                m.mul_(b1).add_((1 - b1) * p.grad)
                v.mul_(b2).add_((1 - b2) * p.grad**2)
                p -= lr * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps)
    for a, b in zip(ours.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_sgd_is_nesterov_momentum():
    """v = μv + g; p −= η(g + μv), as torch defines it."""
    ours, hand = network(), network()
    step = Stepper(ours, CLASSES, Recipe(lr=0.1, optimizer="sgd", weight_decay=0.0))
    velocity = [torch.zeros_like(p) for p in hand.parameters()]
    for t in (1, 2):
        step(batch(t), Rates(0.1))
        x, y = batch(t)
        hand.zero_grad()
        nn.functional.cross_entropy(hand(x), y).backward()
        with torch.no_grad():
            for p, v in zip(hand.parameters(), velocity, strict=True):
                v.mul_(0.9).add_(p.grad)
                p -= 0.1 * (p.grad + 0.9 * v)
    for a, b in zip(ours.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["input", "gradient"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_non_finite_step_leaves_the_weights(name, value, where, clip):
    model = network()
    step = Stepper(model, CLASSES, Recipe(lr=0.1, optimizer=name, clip=clip))
    assert torch.isfinite(step(batch(1), Rates(0.1)))
    before = [p.clone() for p in model.parameters()]
    x, y = batch(2)
    if where == "input":
        x[3, 2] = value
        bad = step((x, y), Rates(0.1))
    else:
        hook = model[0].weight.register_hook(lambda g: g.index_fill(0, torch.tensor([0]), value))
        bad = step((x, y), Rates(0.1))
        hook.remove()
    assert torch.isnan(bad)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    if where == "gradient":  # and the next step is an ordinary one
        assert torch.isfinite(step(batch(3), Rates(0.1)))
        assert all(torch.isfinite(p).all() for p in model.parameters())


def same(ours, hand, rtol=1e-5, atol=1e-7):
    for a, b in zip(ours.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def groups(model, decay):
    by_rank = [[p for p in model.parameters() if (p.dim() > 1) == matrix] for matrix in (True, False)]
    return [{"params": by_rank[0], "weight_decay": decay}, {"params": by_rank[1], "weight_decay": 0.0}]


TORCHS = {
    "adam": (Recipe(optimizer="adam", momentum=0.8, beta2=0.95, weight_decay=0.1),
             lambda m: torch.optim.Adam(groups(m, 0.1), betas=(0.8, 0.95), fused=False)),
    "adamw": (Recipe(optimizer="adamw", momentum=0.8, beta2=0.95),
              lambda m: torch.optim.AdamW(groups(m, 0.01), betas=(0.8, 0.95), fused=False)),
    "sgd": (Recipe(optimizer="sgd", momentum=0.5, nesterov=False),
            lambda m: torch.optim.SGD(groups(m, 1e-4), momentum=0.5, fused=False)),
    "rmsprop": (Recipe(optimizer="rmsprop", momentum=0.7, beta2=0.9),
                lambda m: torch.optim.RMSprop(groups(m, 0.0), alpha=0.9, momentum=0.7, foreach=False)),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCHS)
def test_options_are_torchs(name):
    """The plain, unfused optimiser of torch, three steps."""
    recipe, make = TORCHS[name]
    ours, hand = network(), network()
    step, optimizer = Stepper(ours, CLASSES, recipe), make(hand)
    for t in (1, 2, 3):
        step(batch(t), Rates(0.02))
        x, y = batch(t)
        for group in optimizer.param_groups:
            group["lr"] = 0.02
        optimizer.zero_grad()
        nn.functional.cross_entropy(hand(x), y).backward()
        optimizer.step()
    same(ours, hand)


def test_muon_takes_the_matrices_inside_and_adamw_the_rest():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    muon, adamw = Stepper(model, CLASSES, Recipe(optimizer="muon")).optimizers
    assert isinstance(muon, torch.optim.Muon) and isinstance(adamw, torch.optim.AdamW)
    shapes = [[tuple(p.shape) for g in o.param_groups for p in g["params"]] for o in (muon, adamw)]
    assert shapes == [[(8, 4), (8, 8)], [(3, 8), (8,), (8,), (3,)]]


def test_weight_decay_and_l1_spare_biases_and_norms_of_any_shape():
    """A norm over maps has a weight of three dimensions, the bias of embedded columns one of two."""
    model = build(spec.parse("conv:2,k3 ln:3 flatten linear:4 linear:3").graph, (1, 6, 6))
    assert model.ln1.weight.dim() == 3
    for step in (Stepper(model, CLASSES, Recipe(optimizer=name, l1=0.1)) for name in ("adamw", "muon")):
        decayed = [p for o in step.optimizers for g in o.param_groups if g["weight_decay"] for p in g["params"]]
        wanted = {id(model.get_submodule(name).weight) for name in ("conv1", "linear1", "linear2")}
        assert {id(p) for p in decayed} == {id(p) for p in step.penalised} == wanted
    table = build(spec.parse("columns:4,bins=8 linear:3").graph, (5,))
    assert table.columns1.bias.dim() == 2
    shrunk = {id(p) for p in Stepper(table, CLASSES, Recipe(l1=0.1)).penalised}
    assert shrunk == {id(table.columns1.weight), id(table.linear1.weight)}


def test_the_schedule_sets_rate_and_momentum():
    model = network()
    step = Stepper(model, CLASSES, Recipe())
    step(batch(), Rates(0.5, 0.85))
    assert [g["lr"] for g in step.optimizers[0].param_groups] == [0.5, 0.5]
    assert step.optimizers[0].param_groups[0]["betas"] == (0.85, 0.999)


def plain_sgd(**said):
    return Recipe(optimizer="sgd", momentum=0.0, weight_decay=0.0, schedule="constant", **said)


def test_clip_is_torchs():
    """g becomes η·g/‖g‖ where ‖g‖ > η, and stays where it is not (S144)."""
    for limit in (0.01, 100.0):
        ours, hand = network(), network()
        Stepper(ours, CLASSES, plain_sgd(clip=limit))(batch(), Rates(1.0))
        x, y = batch()
        nn.functional.cross_entropy(hand(x), y).backward()
        before = [p.detach().clone() for p in hand.parameters()]
        nn.utils.clip_grad_norm_(hand.parameters(), limit)
        torch.optim.SGD(hand.parameters(), lr=1.0).step()
        same(ours, hand)
        moved = torch.cat([(a - b).flatten() for a, b in zip(before, ours.parameters(), strict=True)]).norm()
        assert moved <= limit * 1.0001


def test_l1_is_the_gradient_of_its_penalty():
    """On weights, not on biases and norms; the loss that is shown is without it."""
    ours, hand = network(), network()
    shown = Stepper(ours, CLASSES, plain_sgd(l1=0.03))(batch(), Rates(0.5))
    x, y = batch()
    loss = nn.functional.cross_entropy(hand(x), y)
    assert shown == loss
    (loss + 0.03 * sum(p.abs().sum() for p in hand.parameters() if p.dim() > 1)).backward()
    torch.optim.SGD(hand.parameters(), lr=0.5).step()
    same(ours, hand)


WEIGHTED = Objective("classification", 3, weights=torch.tensor([1.0, 5.0, 0.5]), smoothing=0.1)


@pytest.mark.parametrize("objective", [CLASSES, WEIGHTED], ids=["mean", "weighted"])
@pytest.mark.parametrize("parts", [2, 3, 5, 16])
def test_accumulation_equals_the_large_batch(objective, parts):
    """S159, to 1e-6, also where 16 rows do not divide into equal parts and classes have weights."""
    whole, cut = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
    cut.load_state_dict(whole.state_dict())
    for t in (1, 2, 3):
        a = Stepper(whole, objective, plain_sgd())(batch(t), Rates(0.5))
        b = Stepper(cut, objective, plain_sgd(accumulate=parts))(batch(t), Rates(0.5))
        assert a.item() == pytest.approx(b.item(), abs=1e-6)
    same(whole, cut, rtol=0, atol=1e-6)


def test_loss_scaling_unscales_before_it_clips_and_skips_on_inf():
    """fp16 against torch's own recipe: unscale, clip, step, update; an inf halves the scale and skips the step."""
    ours, hand = network(), network()
    step = Stepper(ours, CLASSES, plain_sgd(precision="fp16", clip=0.05))
    scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD(hand.parameters(), lr=0.5)
    for t in (1, 2, 3):
        overflow = t == 2
        for model in (ours, hand):
            model.hook = model[3].weight.register_hook(lambda g, over=overflow: g * float("inf") if over else g)
        shown = step(batch(t), Rates(0.5))
        x, y = batch(t)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            output = hand(x)
        loss = nn.functional.cross_entropy(output.float(), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(hand.parameters(), 0.05)
        scaler.step(optimizer)
        scaler.update()
        assert shown.item() == pytest.approx(loss.item())
        for model in (ours, hand):
            model.hook.remove()
    same(ours, hand)
    assert step.skipped == 1
    assert step.scaler.get_scale() == scaler.get_scale() == 2.0**15


def test_a_loss_that_no_scale_makes_finite_ends_the_run():
    model = network()
    step = Stepper(model, CLASSES, plain_sgd(precision="fp16"))
    model[3].weight.register_hook(lambda g: g * float("inf"))
    shown = [torch.isfinite(step(batch(), Rates(0.1))).item() for _ in range(30)]
    assert shown[:20] == [True] * 20 and not shown[-1]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_keeps_full_weights(precision):
    model = network()
    loss = Stepper(model, CLASSES, plain_sgd(precision=precision))(batch(), Rates(0.1))
    assert loss.item() == pytest.approx(nn.functional.cross_entropy(network()(batch()[0]), batch()[1]).item(), rel=0.02)
    assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())


@pytest.fixture
def switches():
    """Where torch is told of TF32; as they were afterwards."""
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    yield places
    for place, value in zip(places, before, strict=True):
        place.allow_tf32 = value


def test_fp32_means_32_bits_in_every_step_and_every_answer(switches, inside, tmp_path):
    """Torch computes convolutions in TF32 unless told otherwise: the finder's steps and predictions too."""
    for precision, expected in (("tf32", True), ("fp32", False), ("bf16", False)):
        for place in switches:
            place.allow_tf32 = not expected
        Stepper(network(), CLASSES, Recipe(precision=precision))
        assert [place.allow_tf32 for place in switches] == [expected] * 2, precision
    assert inside("train", "iris", "linear:3", "--epochs", "1", "--out", "run").code == 0
    for place in switches:
        place.allow_tf32 = True
    open_network(open_run(str(tmp_path / "run")), "cpu")
    assert not any(place.allow_tf32 for place in switches)


GRAPHS = {
    "chain": "conv:8,k3,p1 bn relu conv:8,k3,p1 bn relu gap linear:3",
    "joins": "conv:8,k3,p1 3*(sum(conv:8,k3,p1 bn relu | ) relu) gap dropout:0.5 linear:3",
}


@pytest.mark.parametrize("name", GRAPHS)
def test_checkpointing_changes_nothing_but_memory(name):
    """Weights and running statistics after three steps are equal to the last bit, dropout and batch norm included."""
    results = []
    for keep in (False, True):
        torch.manual_seed(0)
        model = build(spec.parse(GRAPHS[name]).graph, (1, 8, 8))
        step = Stepper(model, CLASSES, Recipe(checkpoint_activations=keep))
        x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        for t in range(3):
            torch.manual_seed(t)
            step((x, torch.tensor([0, 1, 2, 0, 1, 2])), Rates(0.01))
        results.append(model.state_dict())
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])


def test_checkpointing_keeps_less():
    """What autograd holds after the forward pass, in bytes."""
    torch.manual_seed(0)
    model = build(spec.parse("16*(linear:64 tanh) linear:3").graph, (64,))
    kept = []
    for keep in (False, True):
        sizes: dict[int, int] = {}

        def pack(t, sizes=sizes):
            sizes[t.data_ptr()] = t.nbytes
            return t

        forward = Stepper(model, CLASSES, Recipe(checkpoint_activations=keep)).forward
        weights = {p.data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            output = forward(torch.randn(32, 64))
        kept.append(sum(size for pointer, size in sizes.items() if pointer not in weights))
        del output
    assert kept[1] < kept[0] / 2


def test_a_network_of_one_part_has_nothing_to_checkpoint():
    with pytest.raises(DlkitError, match="no effect"):
        Stepper(nn.Linear(4, 3), CLASSES, Recipe(checkpoint_activations=True))


def test_the_state_of_a_step_is_all_there_is():
    """Two steps, saved, two more: as four in a row, with loss scaling and an average."""
    recipe = Recipe(precision="fp16", ema=0.9)
    through, first = network(), network()
    whole, half = (Stepper(m, CLASSES, recipe) for m in (through, first))
    for t in (1, 2):
        whole(batch(t), Rates(0.1)), half(batch(t), Rates(0.1))
    second = network(5)
    second.load_state_dict(first.state_dict())
    resumed = Stepper(second, CLASSES, recipe)
    resumed.load_state_dict(half.state_dict())
    for t in (3, 4):
        whole(batch(t), Rates(0.1)), resumed(batch(t), Rates(0.1))
    assert all(torch.equal(a, b) for a, b in zip(through.parameters(), second.parameters(), strict=True))
    averaged = zip(whole.judged.parameters(), resumed.judged.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in averaged)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it first compiles
def test_a_compiled_network_trains_as_it_is(monkeypatch, backend):
    """Batch norm, a frozen one too, branches, a last step of other rows, micro-batches, an average."""
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("no C++ compiler here")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    ends = []
    for compiles in (False, True):
        torch.manual_seed(0)
        model = build(spec.parse(GRAPHS["joins"].replace("dropout:0.5", "bn:affine=0")).graph, (1, 8, 8))
        hold(model.bn1)
        step = Stepper(model, CLASSES, Recipe(compile=compiles, optimizer="sgd", accumulate=2, clip=1.0, ema=0.9))
        losses = []
        for t, rows in enumerate((12, 12, 7, 12, 7)):
            x = torch.randn(rows, 1, 8, 8, generator=torch.Generator().manual_seed(t))
            losses.append(step((x, torch.arange(rows) % 3), Rates(0.1)))
        ends.append((torch.stack(losses), model.state_dict(), step.judged.state_dict()))
    torch.testing.assert_close(*(losses for losses, _, _ in ends), rtol=1e-4, atol=1e-5)
    for part in (1, 2):
        assert ends[0][part].keys() == ends[1][part].keys()
        for name, value in ends[0][part].items():
            torch.testing.assert_close(value, ends[1][part][name], rtol=1e-3, atol=1e-4)


class Copies(TorchDispatchMode):
    """Notes each copy between the host and a device: one that is asked for in the loop waits for all before it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        places = {
            leaf.device.type for leaf in tree_leaves((args, out)) if isinstance(leaf, torch.Tensor) and leaf.dim()
        }
        assert len(places) < 2, f"{func} goes between {places}"
        return out


META = torch.device("meta")
LOOPS = [
    (
        {"clip": 1.0, "l1": 0.01, "ema": 0.9, "accumulate": 3},
        {"smoothing": 0.1, "weights": torch.ones(3)},
        "flip,crop:2",
    ),
    ({"optimizer": "sgd", "swa": 0.5}, {}, "resize:0.5,color:0.2,mixup:1,cutmix:1"),
    ({"optimizer": "adam", "checkpoint_activations": True}, {"name": "focal", "weights": torch.ones(3)}, None),
]


@pytest.mark.parametrize(("said", "objective", "augment"), LOOPS)
def test_a_loop_over_data_on_a_device_never_waits_for_it(monkeypatch, said, objective, augment):
    """On torch's meta device, where reading a number is an error: gather, augment, normalise, step."""
    monkeypatch.setattr(step_module, "autocast", lambda precision, device: nullcontext())
    monkeypatch.setattr(step_module, "scaler", lambda precision, device: torch.amp.GradScaler("cpu", enabled=False))
    model = build(spec.parse("conv:4,k3 bn relu sum(conv:4,k3,p1 bn | ) gap dropout:0.1 linear:3").graph, (3, 9, 9))
    if "weights" in objective:
        objective = objective | {"weights": objective["weights"].to(META)}
    mean, std = torch.zeros(1, 3, 1, 1, device=META), torch.ones(1, 3, 1, 1, device=META)
    x, y = np.zeros((40, 3, 9, 9), np.uint8), np.zeros(40, np.int64)
    how = parse_augment(augment) if augment else None
    data = Batches(x, y, 16, META, Normalise(mean, std), augment=how, classes=3)
    data.micro_batches = said.get("accumulate", 1)
    step = Stepper(model.to(META), Objective("classification", 3, **objective), Recipe(**said))
    step.fused = True  # no kernel of that kind is there for this device: the optimisers are torch's affair
    for optimizer in step.optimizers:
        monkeypatch.setattr(optimizer, "step", lambda: None)
    for epoch in (1, 2):  # tables are copied once
        batches = data.shuffled(epoch)
        with Copies() if epoch == 2 else nullcontext():
            for batch in batches:
                assert step(batch, Rates(0.1), 5).device == META


@pytest.mark.gpu
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_is_never_waited_for_in_a_step(monkeypatch, there, precision):
    """With data on the device, and with data that is sent: torch itself raises where something waits."""
    monkeypatch.setattr(loader, "_fits", lambda x, device: there)
    recipe = Recipe(clip=1.0, ema=0.9, accumulate=2, augment="crop:1,mixup:1", label_smoothing=0.1, precision=precision)
    job = prepare(JobOptions("digits", device="cuda"), recipe)
    assert (job.train.x.device.type == "cuda") == there
    stepper = begin(job).stepper
    for epoch in (1, 2):  # tables are copied once
        batches = job.train.shuffled(epoch)
        torch.cuda.set_sync_debug_mode("error" if epoch == 2 else "default")
        try:
            for batch in batches:
                stepper(batch, Rates(0.01), 5)
        finally:
            torch.cuda.set_sync_debug_mode("default")
