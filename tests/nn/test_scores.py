"""What the defaults reach on real tables. Real runs: slow."""

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
HOUSING = ("california_housing.csv", "--target", "median_house_value")


@pytest.mark.parametrize(
    ("words", "bound"),
    [
        (["--epochs", "30", "--ema", "0.998"], 45_000),  # piecewise-linear embeddings; Gorishniy et al. 2022: 45,300
        (["residual_mlp", "--epochs", "40", "--ema", "0.998"], 48_000),  # Gorishniy et al. 2021: 48,560
    ],
)
def test_california_housing(inside, shared, words, bound):
    """RMSE in dollars on the fifth of the rows that is held out."""
    name, *target = HOUSING
    ran = inside("train", str(shared(name)), *words, *target, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["summary"]["best"] <= bound


@pytest.mark.parametrize(
    ("words", "bound"),
    [
        (["titanic.csv", "--target", "survived", "--drop", "alive"], 0.79),
        (["penguins.csv", "--target", "species"], 0.98),
    ],
)
def test_small_tables(inside, shared, words, bound):
    name, *rest = words
    ran = inside("train", str(shared(name)), *rest, "--json")
    assert json.loads(ran.out)["summary"]["best"] >= bound
