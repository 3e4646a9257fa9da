"""Averages of weights against torch's AveragedModel and arithmetic by hand."""

import copy

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from dlkit.nn.average import Ema, Swa
from dlkit.nn.loader import Batches


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


def moved(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
        model[1].running_mean.add_(1.0)
        model[1].num_batches_tracked += 1


def test_the_moving_average_starts_fast_and_takes_the_buffers_along():
    model = network()
    ema, by_hand = Ema(model, 0.5), {k: v.clone() for k, v in model.state_dict().items()}
    for n in range(6):
        moved(model, n)
        ema.after_step(model)
        decay = min(0.5, (1 + n) / (10 + n))
        for name, value in model.state_dict().items():
            kept = by_hand[name]
            by_hand[name] = decay * kept + (1 - decay) * value if value.is_floating_point() else value.clone()
    for name, value in ema.model.state_dict().items():
        torch.testing.assert_close(value, by_hand[name])
    assert not ema.model.training and model.training


def test_a_last_batch_of_one_row_is_left_out_of_the_statistics():
    """Batch norm has no variance in it."""
    x = np.random.default_rng(0).normal(size=(33, 4)).astype(np.float32)
    train = Batches(x, np.zeros(33, np.int64), 16, torch.device("cpu"))
    swa = Swa(network(), epochs=1, share=1.0)
    swa.after_epoch(network(), 1, train)
    assert swa.count == 1 and sum(len(y) for _, y in train.everything()) == 32


def test_stochastic_weight_averaging_is_torchs():
    """The mean over the last two of four epochs, and batch-norm statistics measured over the training rows."""
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    train = Batches(x, np.zeros(50, np.int64), 16, torch.device("cpu"))
    model = network()
    swa, theirs = Swa(model, epochs=4, share=0.5), None
    for epoch in range(1, 5):
        moved(model, epoch)
        swa.after_epoch(model, epoch, train)
        assert swa.count == max(epoch - 2, 0)
        if epoch > 2:
            theirs = theirs or AveragedModel(copy.deepcopy(model))
            theirs.update_parameters(model)
    update_bn(train.everything(), theirs)
    for a, b in zip(swa.model.state_dict().values(), theirs.module.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
