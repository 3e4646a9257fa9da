"""The effective receptive field: what the paper's theory says of stacks of convolutions, and the picture."""

import math

import pytest
import torch

from dlkit.core import draw
from dlkit.core.spec import parse
from dlkit.nn import effective


def measured(text, samples=20):
    net = parse(text)
    return effective.measure(net.graph, net.input, samples, seed=0)


@pytest.mark.parametrize("layers", [5, 10, 20])  # N-S020
def test_a_stack_is_as_wide_as_the_theory_says(layers):
    """Luo et al. 2016: σ² = n(k² − 1)/12 for the energy of n random linear convolutions; its root has σ·√2."""
    found = measured(f"3x{2 * layers + 33} {layers}*conv:16,k3,p1,bias=0", 60)
    sigma = math.sqrt(layers * (3**2 - 1) / 12) * math.sqrt(2)
    assert found.widths[0] == pytest.approx(4 * sigma, rel=0.15)
    assert found.luo == pytest.approx(2 * sigma * math.sqrt(2 * math.log(1 / (1 - effective.MASS))), rel=0.25)
    assert found.widths[0] < 2 * layers + 1


def test_one_layer_sees_its_kernel_and_nothing_else():
    found = measured("3x33x33 conv:8,k5x3")
    assert found.widths == [5, 3]
    assert [len(rows.unique()) for rows in found.gradient.nonzero().T] == [5, 3]
    assert measured("3x16x16 conv:8,k1").widths == [1, 1]


def test_seeds_repeat():
    first, second = measured("3x32x32 4*(conv:8,k3,p1 relu)", 3), measured("3x32x32 4*(conv:8,k3,p1 relu)", 3)
    assert torch.equal(first.gradient, second.gradient)


def test_skips_narrow_it():
    """Luo et al. 2016, section 2: identity shortcuts concentrate the gradient."""
    plain = measured("8x65x65 16*(conv:8,k3,p1)")
    skipped = measured("8x65x65 16*(sum(conv:8,k3,p1 | ))")
    assert max(skipped.widths) < min(plain.widths)


def test_the_answer():
    result = effective.answer(["3x64x64", "resnet18"], "maxpool1", None, samples=2, seed=0)
    summary = result.summary
    assert summary["rf"] == [11, 11] and summary["measured_on"] == [3, 64, 64] and summary["samples"] == 2
    assert all(1 < width <= 11 for width in summary["effective"]) and summary["luo"] <= 11
    assert summary[result.headline] in ("x".join(map(str, summary["effective"])), str(summary["effective"][0]))
    *picture, where = result.drawing(80).splitlines()
    assert where.startswith("input positions [") and "█" in "".join(picture)
    assert len({len(line) for line in picture}) == 1


def test_an_input_is_chosen_where_none_is_given():
    assert effective.answer(["10*conv:4,k3"], None, None, 1, 0).summary["measured_on"] == [3, 32, 32]


def test_a_field_larger_than_the_input_is_said():
    assert "borders" in effective.answer(["3x8x8", "4*conv:4,k5,p2"], None, None, 1, 0).notes[0]


@pytest.mark.parametrize("shape", ["3x40", "3x9x9x9"])
def test_other_ranks(shape):
    rank = shape.count("x")
    result = effective.answer([shape, "2*conv:4,k3,p1"], None, None, 2, 0)
    assert len(result.summary["effective"]) == rank and result.drawing(40)


def test_shades():
    assert draw.heat([[0.0, 1.0], [0.5, 0.25]], 4) == "  ██\n▒▒░░"
    assert draw.heat([[1.0]], 10) in ("█", "██")
    lines = draw.heat([[1.0] * 200] * 100, 40).splitlines()
    assert {len(line) for line in lines} == {40} and len(lines) == 10
