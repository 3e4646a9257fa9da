"""Compute-optimal sizes against the tables of Hoffmann et al. 2022 and the refit of Besiroglu et al. 2024."""

import pytest

from dlkit.core import optimal

# Parameters in billions: FLOPs and tokens in billions, as printed.
TABLE_3 = {  # approach 1
    0.4: (1.92e19, 8.0), 1: (1.21e20, 20.2), 10: (1.23e22, 205.1), 67: (5.76e23, 1500), 175: (3.85e24, 3700),
    280: (9.90e24, 5900), 520: (3.43e25, 11000), 1000: (1.27e26, 21200), 10000: (1.30e28, 216200),
}  # fmt: skip
TABLE_A3 = {  # approach 2
    0.4: (1.84e19, 7.7), 1: (1.20e20, 20.0), 10: (1.32e22, 219.5), 67: (6.88e23, 1700), 175: (4.54e24, 4300),
    280: (1.18e25, 7100), 520: (4.19e25, 13400), 1000: (1.59e26, 26500), 10000: (1.75e28, 292000),
}  # fmt: skip
TABLE_A3_RIGHT = {  # approach 3; its 175B is printed as 1.26e24, which is not 6·N·D of its own tokens
    0.4: (2.21e19, 9.2), 1: (1.62e20, 27.1), 10: (2.46e22, 410.1), 67: (1.71e24, 4100), 175: (1.26e25, 12000),
    280: (3.52e25, 20100), 520: (1.36e26, 43500), 1000: (5.65e26, 94100), 10000: (8.55e28, 1425500),
}  # fmt: skip
# 67B lies off the line of its own table by 2 and 7 %, printed tokens have as few as two digits.
TOLERANCE = {("1", 67): 0.075, ("2", 67): 0.075}


@pytest.mark.published
@pytest.mark.parametrize(
    ("name", "billions"), [(name, n) for name, table in (("1", TABLE_3), ("2", TABLE_A3)) for n in table]
)
def test_published_tables(name, billions):
    flops, tokens = {"1": TABLE_3, "2": TABLE_A3}[name][billions]
    size = optimal.for_params(round(billions * 1e9), name)
    assert size.flops == pytest.approx(flops, rel=TOLERANCE.get((name, billions), 0.01))
    assert size.tokens == pytest.approx(tokens * 1e9, rel=TOLERANCE.get((name, billions), 0.013))


@pytest.mark.published
@pytest.mark.parametrize("billions", TABLE_A3_RIGHT)
def test_the_third_approach(billions):
    """The fit as published does not reproduce the authors' own table: 8 % off at 1B, 20 % at 10T."""
    flops, tokens = TABLE_A3_RIGHT[billions]
    size = optimal.for_params(round(billions * 1e9), "3")
    assert size.flops == pytest.approx(flops, rel=0.21)
    assert size.tokens == pytest.approx(tokens * 1e9, rel=0.21)


@pytest.mark.published
def test_rounded_exponents_move_the_size_by_a_quarter():
    sizes = {size.law.name: size for size in optimal.for_budget(10**24)}
    assert sizes["3"].params / sizes["3-rounded"].params == pytest.approx(1.25, abs=0.01)


@pytest.mark.published
def test_published_exponents():
    """N_opt ∝ C^a: Hoffmann et al. table 2 give 0.50, 0.49 and 0.46, Besiroglu et al. 0.513."""
    for name, exponent in {"1": 0.50, "2": 0.49, "3": 0.46, "refit": 0.513}.items():
        assert 1 / (1 + optimal.law(name).power) == pytest.approx(exponent, abs=0.005)


@pytest.mark.parametrize("name", ["3", "3-rounded", "refit"])
@pytest.mark.parametrize("flops", [10**19, 576 * 10**21, 10**27])
def test_the_fits_are_at_their_minimum(name, flops):
    """Against a direct search: no other size within 10 % has a lower loss at the same budget."""
    size = next(size for size in optimal.for_budget(flops) if size.law.name == name)
    near = [size.law.loss(size.params * f, size.tokens / f) for f in (0.9, 0.97, 1.03, 1.1)]
    assert size.loss < min(near)
    assert 6 * size.params * size.tokens == pytest.approx(flops, rel=1e-6)


def test_budget_and_size_invert_each_other():
    for name in optimal.APPROACHES:
        size = optimal.for_params(70 * 10**9, name)
        back = next(found for found in optimal.for_budget(size.flops) if found.law.name == name)
        assert back.params == pytest.approx(70e9, rel=1e-9)
