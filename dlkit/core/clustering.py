"""What the user says about clustering: the same for the command and for what does the work."""

from dataclasses import dataclass, field

from dlkit.core.errors import DlkitError, nearest
from dlkit.core.reading import Reading

MODELS = ("kmeans", "em")
COVARIANCES = ("full", "tied", "diag", "spherical")
MOST = 200
"""Clusters that are tried at most."""


@dataclass(frozen=True)
class Clustering:
    """The fields are the command line's arguments and options, with their defaults.

    ks           numbers of clusters to try
    covariances  forms of a Gaussian component's covariance
    criterion    bic or silhouette; None: BIC where there is EM, else silhouette
    scale        standard, none, or auto: as the columns' spreads ask for
    starts       fits from different beginnings, of which the best is kept
    resamples    bootstrap samples on which the stability rests
    """

    data: str
    ks: tuple[int, ...] = tuple(range(2, 13))
    models: tuple[str, ...] = MODELS
    covariances: tuple[str, ...] = COVARIANCES
    criterion: str | None = None
    scale: str = "auto"
    starts: int = 10
    resamples: int = 20
    seed: int = 0
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        if self.criterion == "bic" and "em" not in self.models:
            raise DlkitError("--criterion bic: K-means has no likelihood", "--models em, or --criterion silhouette")
        if self.covariances != COVARIANCES and "em" not in self.models:
            raise DlkitError("--covariance has no effect: K-means has none", "it is for --models em")


def parse_ks(text: str) -> tuple[int, ...]:
    """`2:12` -> 2 … 12; `3`; `2,4,8`."""
    low, colon, high = text.partition(":")
    try:
        ks = list(range(int(low), int(high) + 1)) if colon else [int(part) for part in text.split(",")]
    except ValueError:
        ks = []
    if not ks or min(ks) < 2 or max(ks) > MOST:
        raise ValueError(
            f"must be numbers of clusters from 2 to {MOST}, such as 2:12, 3 or 2,4,8. Got {text!r} instead."
        )
    return tuple(sorted(set(ks)))


def parse_names(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """`kmeans,em` -> both, each of them known."""
    names = text.split(",")
    for name in names:
        if name not in known:
            raise DlkitError(f"--{option} {name}: there is no such thing", nearest(name, known))
    return tuple(dict.fromkeys(names))
