"""How `lrfind` looks for a learning rate."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Search:
    """start, end, steps  first and last rate of a sweep, and how many lie from one to the other
    spacing            geometric or linear
    seeds              sweeps, each with fresh weights and its own order of rows
    rule               what the suggestion is read by: minimum is the rate of the lowest loss, divided by 10; consensus
                       the median of valley, steep and minimum
    verify             epochs of the short runs that choose between rates around the suggestion; None: no such runs
    """

    start: float = 1e-6
    end: float = 10.0
    steps: int = 150
    spacing: str = "geometric"
    seeds: int = 3
    rule: str = "minimum"
    verify: int | None = None
