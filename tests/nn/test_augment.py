"""What augmentation does to images, against the same written by hand; and that it is a function of the row alone."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dlkit.core.augment import parse_augment
from dlkit.nn import augment
from dlkit.nn.augment import Augmenter, Draws

ROWS = 64
EVERYTHING = [
    "flip",
    "vflip",
    "crop:3",
    "resize:0.3",
    "color:0.4",
    "mixup:0.3",
    "cutmix:1",
    "flip,crop:2,mixup:1,cutmix:1",
]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(1, 256, (ROWS, 3, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    return torch.arange(ROWS) % 5


def apply(text, images, labels, rows=None, epoch=1, seed=0):
    rows = torch.arange(ROWS, device=images.device) if rows is None else rows
    augmenter = Augmenter(parse_augment(text), len(images), 5, seed)
    at = augmenter.partners(rows, epoch)
    other = None if at is None else (images[at], labels[at])
    return augmenter(images[rows], labels[rows], rows, epoch, other)


@pytest.mark.parametrize("text", EVERYTHING)
def test_a_row_is_changed_alike_in_any_batch_and_otherwise_in_the_next_epoch(images, labels, text):
    whole, targets = apply(text, images, labels)
    some = torch.tensor([40, 3, 17, 63])
    part, part_targets = apply(text, images, labels, some)
    assert torch.equal(part, whole[some]) and torch.equal(part_targets, targets[some])
    assert not torch.equal(apply(text, images, labels, epoch=2)[0], whole)
    assert not torch.equal(apply(text, images, labels, seed=1)[0], whole)
    assert torch.equal(apply(text, images, labels)[0], whole)


@pytest.mark.parametrize(("text", "axis"), [("flip", 3), ("vflip", 2)])
def test_half_of_the_images_are_mirrored(images, labels, text, axis):
    x, y = apply(text, images, labels)
    mirrored = [torch.equal(a, b) for a, b in zip(x, images.flip(axis), strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(x, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True)) and 16 <= sum(mirrored) <= 48
    assert x.dtype == torch.uint8 and torch.equal(y, labels)


def test_a_moved_image_is_a_box_of_the_padded_one(images, labels):
    x, _ = apply("crop:3", images, labels)
    padded = F.pad(images, (3, 3, 3, 3))
    places = set()
    for found, whole in zip(x, padded, strict=True):
        at = [(i, j) for i in range(7) for j in range(7) if torch.equal(found, whole[:, i : i + 12, j : j + 10])]
        assert len(at) == 1
        places |= set(at)
    assert len(places) > 25


def test_a_stretched_box_of_a_ramp_is_a_flatter_ramp():
    """Bilinear interpolation is exact on a ramp: slope and position tell the box that was taken."""
    ramp = torch.arange(32.0).expand(ROWS, 1, 32, 32).contiguous()
    x, _ = apply("resize:0.25", ramp, torch.zeros(ROWS))
    steps = x[:, 0, :, 4:-4].diff(dim=2)
    slopes = steps.mean((1, 2))
    assert slopes.std() > 0.05  # the boxes differ
    torch.testing.assert_close(steps, slopes[:, None, None].expand_as(steps), atol=1e-3, rtol=0)
    assert slopes.min() > (0.25 * 3 / 4) ** 0.5 - 1e-3 and slopes.max() <= 1 + 1e-3
    assert x.min() >= 0 and x.max() <= 31


@pytest.mark.parametrize("smallest", [0.25, 0.8, 1.0])
def test_a_stretched_box_has_the_area_that_was_said(smallest):
    """Its width is read off a ramp to the right, its height off one down; neither leaves the image."""
    ramp = torch.arange(32.0).expand(32, 32)
    both = torch.stack([ramp, ramp.t()]).expand(4 * ROWS, 2, 32, 32).contiguous()
    x, _ = apply(f"resize:{smallest}", both, torch.zeros(4 * ROWS), torch.arange(4 * ROWS))
    wide, high = x[:, 0, 8:-8, 8:-8].diff(dim=2).mean((1, 2)), x[:, 1, 8:-8, 8:-8].diff(dim=1).mean((1, 2))
    area, ratio = wide * high, wide / high
    assert smallest - 1e-3 < area.min() < smallest + 0.1 and area.max() <= 1 + 1e-3
    assert area.mean() == pytest.approx((1 + smallest) / 2, abs=0.02)
    assert ratio.min() > 3 / 4 - 1e-3 and ratio.max() < 4 / 3 + 1e-3


def test_colours_are_those_of_the_formula(images):
    draws, again = Draws(torch.arange(ROWS), 1, 0), Draws(torch.arange(ROWS), 1, 0)
    found = augment._color(images, draws, 0.4).numpy()
    b, c, s = (again.uniform(0.6, 1.4).numpy() for _ in range(3))
    for i, image in enumerate(images.numpy().astype(np.float64)):
        x = np.clip(image * b[i], 0, 255)
        gray = np.tensordot([0.299, 0.587, 0.114], x, 1)
        x = np.clip(gray.mean() + (x - gray.mean()) * c[i], 0, 255)
        gray = np.tensordot([0.299, 0.587, 0.114], x, 1)
        np.testing.assert_allclose(found[i], np.clip(gray + (x - gray) * s[i], 0, 255), atol=0.01)


def test_mixup_mixes_image_and_target_alike(images, labels):
    x, y = apply("mixup:1", images, labels)
    assert torch.allclose(y.sum(1), torch.ones(ROWS))
    found = 0
    for i in range(ROWS):
        share = y[i, labels[i]].item()
        if share < 0.999:  # the partner is of another class: it must be some row of the set
            rest = (x[i] - share * images[i].float()) / (1 - share)
            found += int(((images.float() - rest).abs().amax((1, 2, 3)) < 0.5).sum() == 1)
    assert found >= ROWS // 2
    share = augment._quantiles(0.4)
    assert abs(share.mean() - 0.5) < 0.01 and abs(share.var() - 1 / (4 * (2 * 0.4 + 1))) < 0.01  # of Beta(α, α)


def test_cutmix_weighs_targets_by_the_pixels_that_are_kept(images, labels):
    x, y = apply("cutmix:1", images, labels)
    kept = (
        (x == images.float()).all(1).flatten(1).float().mean(1)
    )  # a pixel of the partner may agree by chance: never here
    other = y[torch.arange(ROWS), labels]
    mixed = other < 0.999
    assert mixed.sum() > ROWS // 3
    torch.testing.assert_close(other[mixed], kept[mixed], atol=1e-6, rtol=0)


def test_targets_of_a_regression_are_mixed_too(images):
    values = torch.randn(ROWS, generator=torch.Generator().manual_seed(1))
    _, y = apply("mixup:1", images, values)
    assert y.shape == (ROWS,) and y.min() >= values.min() and y.max() <= values.max() and not torch.equal(y, values)


def test_draws_are_uniform_and_independent():
    draws = Draws(torch.arange(100_000), 5, 3)
    first, second, whole, coin = draws.uniform(), draws.uniform(), draws.integers(-2, 2), draws.coin()
    assert first.min() >= 0 and first.max() < 1
    counts = torch.histc(first, 20, 0, 1)
    assert ((counts - 5000) ** 2 / 5000).sum() < 50  # χ² of 19 degrees: 43.8 at one in a thousand
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.02
    assert torch.bincount(whole + 2).tolist() == pytest.approx([20_000] * 5, rel=0.05)
    assert abs(coin.float().mean() - 0.5) < 0.01


def test_training_with_it_is_the_same_in_any_cut_of_the_batch(inside, tmp_path):
    """Micro-batches change nothing; evaluation sees the images as they are; wrong uses are named."""
    words = ["train", "digits", "conv:4,k3", "relu", "gap", "linear:10", "--epochs", "2", "--json", "--seed", "3"]
    how = ["--augment", "crop:1,color:0.2,mixup:0.4,cutmix:1"]
    one, four, plain = (
        json.loads(inside(*words, *extra).out)["rows"] for extra in (how, [*how, "--accumulate", "4"], [])
    )
    for a, b in zip(one, four, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
    assert one[0]["train_loss"] != plain[0]["train_loss"]
    for extra, said in [
        (["--augment", "crop:8"], "out of sight"),
        (["--augment", "mixup:1", "--loss", "focal"], "focal"),
        (["--augment", "mixup:1", "--class-weights", "balanced"], "class-weights"),
    ]:
        ran = inside(*words, *extra)
        assert ran.code == 2 and ran.out == "" and said in ran.err
    assert "not images" in inside("train", "iris", "--augment", "flip").err


@pytest.mark.gpu
@pytest.mark.parametrize("text", EVERYTHING)
def test_a_gpu_makes_the_same_images(images, labels, text):
    x, y = apply(text, images, labels)
    gx, gy = apply(text, *[t.cuda() for t in (images, labels)])
    torch.testing.assert_close(gx.cpu(), x, atol=0.01, rtol=0)
    torch.testing.assert_close(gy.cpu(), y)
