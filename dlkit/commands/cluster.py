"""Find clusters by K-means and Gaussian mixtures, how many there are, and how far to believe it.

Examples:
  dlkit cluster iris
  dlkit cluster penguins.csv --target species --k 2:6
  dlkit cluster customers.csv --models kmeans --k 3 --out segments
  dlkit predict segments new_customers.csv

Every number of clusters is tried, with every form of covariance. BIC (EM) or the silhouette
(K-means) chooses; a terminal shows the curve. Then: sizes, centres in the columns' own units,
which columns tell the clusters apart, and whether they come back on bootstrap samples. The
run directory holds each row's cluster (clusters.csv) and what `predict` needs for new rows.
A target is left out, and only compared with (ARI, NMI).
"""

from typing import Annotated, Any, Literal

import typer

from dlkit.commands import _options as opt
from dlkit.core.clustering import COVARIANCES, MODELS, Clustering, parse_ks, parse_names
from dlkit.core.reading import Reading
from dlkit.core.result import Result

_SEARCH = "Search"


def _ks(text: str) -> tuple[int, ...]:
    try:
        return parse_ks(text)
    except ValueError as problem:
        raise typer.BadParameter(str(problem)) from None


@opt.reading(without=("task",))
def command(
    reading: Reading,
    data: opt.Data,
    *,
    k: Annotated[
        Any, typer.Option("--k", help="How many: 2:12, 3 or 2,4,8.", parser=_ks, metavar="K", rich_help_panel=_SEARCH)
    ] = "2:12",
    models: Annotated[str, typer.Option(help="kmeans, em or both.", rich_help_panel=_SEARCH)] = ",".join(MODELS),
    covariance: Annotated[
        str, typer.Option(help="Forms of a mixture's covariance.", rich_help_panel=_SEARCH)
    ] = ",".join(COVARIANCES),
    criterion: Annotated[
        Literal["bic", "silhouette"] | None,
        typer.Option(help="What chooses.", rich_help_panel=_SEARCH, show_default="bic where there is em"),
    ] = None,
    scale: Annotated[
        Literal["auto", "standard", "none"],
        typer.Option(help="Standardise columns; auto: where their spreads differ tenfold.", rich_help_panel=_SEARCH),
    ] = "auto",
    starts: Annotated[
        int, typer.Option(min=1, help="Beginnings of K-means; EM has a third.", rich_help_panel=_SEARCH)
    ] = 10,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Samples for the stability; 0: none.", rich_help_panel=_SEARCH)
    ] = 20,
    seed: opt.Seed = 0,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="The run directory to make.", show_default="runs/DATA-cluster-N")
    ] = None,
) -> Result:  # fmt: skip
    names = parse_names("models", models, MODELS), parse_names("covariance", covariance, COVARIANCES)
    options = Clustering(data, k, *names, criterion, scale, starts, bootstrap, seed, reading)
    from dlkit.ml.clusters import cluster

    return cluster(options, out)
