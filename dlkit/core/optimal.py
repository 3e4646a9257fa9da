"""Compute-optimal model and data sizes for dense language models, C = 6·N·D.

Hoffmann et al. 2022 (arXiv 2203.15556) gave three approaches. Of 1 and 2 they publish exponents and tables; the law
D = k·N^p below is the least-squares line (in logarithms) through table 3 and the left half of table A3, N = 400M to
10T, without the row of 67B, which alone lies off the line of the others (by 2 and 7 %). Approach 3 is the fit
L(N, D) = E + A/N^α + B/D^β; its exponents were printed rounded (0.34, 0.28), which moves N by a quarter at
Chinchilla's budget. Besiroglu et al. 2024 (arXiv 2404.10102) recovered the unrounded ones and refitted the data. All
hold for the authors' data and models; beyond the budgets they trained with, 6e18 to 3e21 FLOPs, they extrapolate.
"""

from collections.abc import Callable
from math import exp, log
from typing import NamedTuple


class Law(NamedTuple):
    """D = exp(intercept)·N^power is optimal. `loss` is the fitted loss, where the approach has one."""

    name: str
    power: float
    intercept: float
    coefficients: str
    source: str
    loss: Callable[[float, float], float] | None = None

    def tokens(self, params: float) -> float:
        """The tokens for which `params` is the optimal size."""
        return exp(self.intercept + self.power * log(params))

    def params(self, flops: float) -> float:
        """The optimal size for a budget: N^(1 + power) = C / (6·exp(intercept))."""
        return exp((log(flops / 6) - self.intercept) / (1 + self.power))


def _line(name: str, power: float, billions: float, source: str) -> Law:
    """A law given by its exponent and the tokens, in billions, for a model of 10⁹ parameters."""
    intercept = log(billions * 1e9) - power * log(1e9)
    return Law(name, power, intercept, f"D = {billions}e9·(N/1e9)^{power}", source)


def _fit(name: str, e: float, a: float, b: float, alpha: float, beta: float, source: str) -> Law:
    """The optimum of E + A/N^α + B/D^β under C = 6·N·D: αA/N^α = βB/D^β."""
    intercept = log(beta * b / (alpha * a)) / beta
    coefficients = f"E={e}, A={a}, B={b}, α={alpha}, β={beta}"
    return Law(name, alpha / beta, intercept, coefficients, source, lambda n, d: e + a / n**alpha + b / d**beta)


SMALLEST = 6 * 10**18  # FLOPs of the smallest runs the laws were fitted on

_LAWS = (
    _line("1", 1.0077, 20.15, "Hoffmann et al. 2022, table 3"),
    _line("2", 1.0411, 19.96, "Hoffmann et al. 2022, table A3"),
    _fit("3", 1.693, 406.4, 410.7, 0.3392, 0.2849, "Hoffmann et al. 2022, unrounded"),
    _fit("3-rounded", 1.69, 406.4, 410.7, 0.34, 0.28, "Hoffmann et al. 2022, eq. 10"),
    _fit("refit", 1.8172, 482.01, 2085.43, 0.3478, 0.3658, "Besiroglu et al. 2024"),
)

APPROACHES = tuple(law.name for law in _LAWS)


class Size(NamedTuple):
    """A compute-optimal model: parameters, tokens, its budget 6·N·D, the fitted loss where there is one."""

    law: Law
    params: int
    tokens: int
    flops: int
    loss: float | None


def law(name: str) -> Law:
    """The approach called `name`, one of APPROACHES."""
    return next(law for law in _LAWS if law.name == name)


def for_budget(flops: int) -> list[Size]:
    """What each approach would train with `flops`."""
    return [_size(law, round(law.params(flops)), flops) for law in _LAWS]


def for_params(params: int, name: str) -> Size:
    """The tokens and the budget for which `params` is optimal by approach `name`."""
    chosen = law(name)
    return _size(chosen, params, 6 * params * round(chosen.tokens(params)))


def _size(law: Law, params: int, flops: int) -> Size:
    params = max(params, 1)
    tokens = max(round(flops / 6 / params), 1)
    return Size(law, params, tokens, flops, law.loss(params, tokens) if law.loss else None)
