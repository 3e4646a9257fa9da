"""Averages of weights against torch's AveragedModel and arithmetic by hand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from dlkit.nn.average import Ema, Swa
from dlkit.nn.loader import Batches
from dlkit.nn.norms import hold


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


def test_statistics_are_those_of_the_data_though_the_rows_are_sorted():
    """Iris or a folder of classes comes class by class: within a batch of neighbours there is little variance."""
    x = np.sort(np.random.default_rng(0).normal(size=(640, 4)).astype(np.float32), axis=0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=0.3))
    swa = Swa(model, epochs=1, share=1.0)
    swa.after_epoch(model, 1, Batches(x, np.zeros(640, np.int64), 32, torch.device("cpu")))
    first, last = swa.model[0], swa.model[3]
    torch.testing.assert_close(first.running_var, torch.tensor(x.var(0, ddof=1)), rtol=0.05, atol=0)
    whole = model[2](swa.model[:1](torch.tensor(x)))  # without dropout, as validation sees it
    torch.testing.assert_close(last.running_var, whole.var(0), rtol=0.1, atol=0)
    assert (first.momentum, last.momentum) == (0.1, 0.3)


def test_norms_that_are_held_keep_their_statistics():
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[0].running_mean.fill_(5.0)
    hold(model[0])
    swa = Swa(model, epochs=1, share=1.0)
    swa.after_epoch(model, 1, Batches(x, np.zeros(64, np.int64), 16, torch.device("cpu")))
    assert swa.model[0].running_mean.tolist() == [5.0] * 4
    assert swa.model[1].running_mean.numpy() == pytest.approx(x.mean(0) - 5, abs=1e-3)
