"""Options that would change nothing are refused by name, rather than dropped."""

from collections.abc import Container, Iterable

from dlkit.core.errors import DlkitError


def refuse(said: Container[str], names: Iterable[str], why: str, hint: str | None = None) -> None:
    """DlkitError where an option among `names` was given; `why` follows "--epochs has no effect"."""
    idle = [name for name in names if name in said]
    if idle:
        raise DlkitError(f"{' and '.join(idle)} {'has' if len(idle) == 1 else 'have'} no effect {why}", hint)
