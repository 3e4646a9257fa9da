"""What `models` answers, and the completion of network words."""

from dlkit.core import spec, zoo
from dlkit.core.graph import totals, walk
from dlkit.core.result import Column, Result, Row

COLUMNS = [
    Column("name"),
    Column("input", "shape"),
    Column("params", "int"),
    Column("macs", "si", "MACs"),
    Column("description"),
]


def listing() -> Result:
    """Every named network with its usual input, parameters and MACs."""
    rows = [_row(name) for name in zoo.names()]
    return Result(COLUMNS, rows, {"models": len(rows)}, "models", notes=["print one with 'dlkit models NAME'"])


def _row(name: str) -> Row:
    net = spec.parse(name)
    about = zoo.info(name.partition(":")[0])
    shape = net.input or about.input
    whole = totals(walk(net.graph, shape))
    return {
        "name": name,
        "input": list(shape),
        "params": whole.params,
        "macs": whole.macs,
        "description": about.summary,
    }


def source(name: str) -> Result:
    """The text of one named network, options and all (resnet50:classes=10), with its counts in the summary."""
    bare, _, options = name.partition(":")
    zoo.info(bare)
    row = _row(name)
    overrides = dict(option.split("=") for option in options.split(",")) if options else {}
    text = zoo.text(bare, **{key: int(value) for key, value in overrides.items()})
    return Result(COLUMNS, [row], {**row, "text": text}, "text", text=text)


def names(incomplete: str) -> list[str]:
    return [name for name in zoo.names() if name.startswith(incomplete)]
