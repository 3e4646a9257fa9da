"""What a check found: a verdict, the number it rests on, and one line that says what was looked at and what to do."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "warn", "fail", "skip"]
CHECKS = (
    *("schema", "labels", "adversarial", "duplicates", "near_duplicates", "conflicts"),
    *("groups", "time", "target_leak", "drift", "target_drift"),
)


@dataclass(frozen=True)
class Finding:
    """One row of the answer. `value` and `threshold` are in the check's own unit; None where it has no number."""

    check: str
    verdict: Verdict
    detail: str
    value: float | None = None
    threshold: float | None = None

    def row(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("check", "verdict", "value", "threshold", "detail")}


def skip(check: str, why: str) -> Finding:
    return Finding(check, "skip", why)


def listed(names: Iterable[object], most: int = 3) -> str:
    """'a', 'b', 'c' and 4 more."""
    shown = [f"{name!r}" if isinstance(name, str) else str(name) for name in names]
    rest = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def chance(p: float) -> str:
    """A p-value: p = 0.013, p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def percent(share: float) -> str:
    """A share as a person reads it: 12 %, 3.4 %, 0.02 %."""
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.095 else f"{100 * share:.2g} %"
