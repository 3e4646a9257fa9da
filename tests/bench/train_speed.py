"""Throughput of dlkit's loop beside others: same network, rows, batch size and epochs, in turns in one process.

python tests/bench/train_speed.py DATA [NETWORK …] [--target COLUMN] [--epochs N] [--rounds N]
    [--peers plain,lightning,huggingface,nanogpt] [--nanogpt FOLDER]

plain        what one would write by hand: float32 rows normalised beforehand, a permutation an epoch, indexing, AdamW
             and OneCycleLR as torch has them
lightning    a LightningModule and a Trainer without logger, checkpoints and progress bar, on a DataLoader
huggingface  transformers' Trainer with the same rows, without reports and saving
nanogpt      of a text: the model of a checkout of nanoGPT (--nanogpt) of the same sizes, in the loop of its train.py

Nobody clips gradients, and each builds its model within the time taken: epochs enough make that small. dlkit evaluates
on two rows. The second ratio is of CPU seconds, which hold on a busy machine where wall seconds do not; with
OMP_NUM_THREADS=1 they are those of the loop's own thread. The last line is the peak memory of the process.
"""

import argparse
import copy
import logging
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dlkit.core import console
from dlkit.core.job import JobOptions
from dlkit.core.reading import WRITING, Reading
from dlkit.core.recipe import Recipe
from dlkit.nn.fit import fit
from dlkit.nn.job import Job
from dlkit.nn.loader import Batches
from dlkit.nn.prepare import prepare
from dlkit.nn.sequence import Attention
from dlkit.nn.train import begin
from dlkit.nn.watch import Watch

LR = 0.003
Loop = Callable[[Job, int], tuple[int, float]]
"""(job, epochs) -> (rows seen, the last loss)."""


@cache
def rows_of(side: Batches) -> tuple[Tensor, Tensor]:
    """All training rows as a notebook would hold them: normalised float32, or windows of tokens."""
    batches = [(x.contiguous(), y) for x, y in side.in_order()]
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


@cache
def one_by_one(side: Batches) -> list[dict[str, Tensor]]:
    return [{"x": x, "labels": y} for x, y in zip(*rows_of(side), strict=True)]


def loss_of(job: Job, output: Tensor, y: Tensor) -> Tensor:
    if job.objective.task == WRITING:
        return F.cross_entropy(output.flatten(0, 1), y.flatten())
    return F.cross_entropy(output, y) if job.objective.task == "classification" else F.mse_loss(output.squeeze(1), y)


def plain(job: Job, epochs: int) -> tuple[int, float]:
    model = job.model(0).to(memory_format=torch.contiguous_format)
    x, y = rows_of(job.train)
    size, steps = job.train.batch_size, len(job.train)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=epochs * steps)
    seen = 0
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for i in range(steps):
            rows = order[i * size : (i + 1) * size]
            loss = loss_of(job, model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            seen += len(rows)
    return seen, loss.item()


def ours(job: Job, epochs: int) -> tuple[int, float]:
    with console.progress(0) as bar:
        recipe = Recipe(epochs, LR)
        shown = fit(begin(replace(job, recipe=recipe)), job.train, job.valid, job.objective, recipe, Watch(), bar)
        epochs_seen = [epoch for epoch in shown if epoch]
    return sum(e.rows for e in epochs_seen), epochs_seen[-1].train_loss


def lightning(job: Job, epochs: int) -> tuple[int, float]:
    from lightning.pytorch import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen, self.last = job.model(0), 0, torch.zeros(())

        def training_step(self, batch: Any, _: int) -> Tensor:
            x, y = batch
            self.seen += len(x)
            loss = loss_of(job, self.net(x), y)
            self.last = loss.detach()
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=LR)
            total = int(self.trainer.estimated_stepping_batches)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=total)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    loader = DataLoader(TensorDataset(*rows_of(job.train)), job.train.batch_size, shuffle=True, drop_last=False)
    module = Module()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    Trainer(max_epochs=epochs, accelerator="cpu", **quiet).fit(module, loader)
    return module.seen, float(module.last)


def huggingface(job: Job, epochs: int) -> tuple[int, float]:
    from transformers import Trainer, TrainingArguments

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen, self.last = job.model(0), 0, torch.zeros(())

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            self.seen += len(x)
            output = self.net(x)
            loss = loss_of(job, output, labels)
            self.last = loss.detach()
            return {"loss": loss, "logits": output}

    model = Wrapped()
    with tempfile.TemporaryDirectory() as folder:
        told = TrainingArguments(
            folder, num_train_epochs=epochs, per_device_train_batch_size=job.train.batch_size, learning_rate=LR,
            lr_scheduler_type="cosine", report_to="none", save_strategy="no", logging_strategy="no", use_cpu=True,
            disable_tqdm=True, remove_unused_columns=False, dataloader_pin_memory=False, max_grad_norm=0.0,
        )  # fmt: skip
        Trainer(model, told, train_dataset=one_by_one(job.train)).train()
    return model.seen, float(model.last)


def nanogpt(folder: str) -> Loop:
    sys.path.insert(0, folder)

    def loop(job: Job, epochs: int) -> tuple[int, float]:
        from model import GPT, GPTConfig

        context, width = job.schema.input_shape[0], next(job.model(0).parameters()).shape[1]
        attentions = [module.layer for module in job.model(0).modules() if isinstance(module, Attention)]
        layers, heads = len(attentions), attentions[0].heads
        sizes = {"block_size": context, "vocab_size": job.schema.vocabulary.size, "n_embd": width}
        model = GPT(GPTConfig(**sizes, n_layer=layers, n_head=heads, dropout=0.0, bias=True))
        optimizer = model.configure_optimizers(0.1, LR, (0.9, 0.99), "cpu")
        data, size = job.train.x.long(), job.train.batch_size
        seen = 0
        for _ in range(epochs * len(job.train)):
            at = torch.randint(len(data) - context, (size,))
            x = torch.stack([data[i : i + context] for i in at])
            y = torch.stack([data[i + 1 : i + 1 + context] for i in at])
            _, loss = model(x, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seen += size
        return seen, loss.item()

    return loop


def clocked(loop: Loop, job: Job, epochs: int) -> tuple[float, float, float]:
    """(rows a wall second, rows a CPU second, loss)."""
    wall, cpu = time.perf_counter(), time.process_time()
    rows, loss = loop(job, epochs)
    return rows / (time.perf_counter() - wall), rows / (time.process_time() - cpu), loss


def few(side: Batches) -> Batches:
    """The first two rows of a side."""
    small = copy.copy(side)
    if not hasattr(side, "context"):
        small.x, small.y = side.x[:2], side.y[:2]
    small.rows = 2
    return small


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("network", nargs="*")
    parser.add_argument("--target")
    parser.add_argument("--context", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default="plain")
    parser.add_argument("--nanogpt")
    given = parser.parse_args()
    options = JobOptions(given.data, tuple(given.network), given.batch_size, context=given.context,
                         reading=Reading(target=given.target))  # fmt: skip
    job = prepare(options, Recipe())
    job = replace(job, valid=few(job.valid))
    warnings.simplefilter("ignore")
    known: dict[str, Loop] = {"plain": plain, "lightning": lightning, "huggingface": huggingface}
    if given.nanogpt:
        known["nanogpt"] = nanogpt(given.nanogpt)
    peers = {name: known[name] for name in given.peers.split(",")}
    for loop in (ours, *peers.values()):
        loop(job, 1)  # warm up
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in ("dlkit", *peers)}
    for _ in range(given.rounds):
        for name, loop in {"dlkit": ours, **peers}.items():
            found[name].append(clocked(loop, job, given.epochs))
    for name, rounds in found.items():
        wall, _, loss = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratios = [[a[k] / b[k] for a, b in zip(found["dlkit"], rounds, strict=True)] for k in (0, 1)]
        print(f"{name:12} {wall:9.0f} rows/s   dlkit is {statistics.median(ratios[0]):.3f} times as fast, "
              f"{statistics.median(ratios[1]):.3f} by CPU seconds   (last loss {loss:.4f})")  # fmt: skip
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
