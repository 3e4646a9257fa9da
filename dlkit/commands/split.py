"""Split a data set honestly: at random, in a column's shares, by group, by time; rows are kept byte for byte.

Examples:
  dlkit split titanic.csv --stratify survived
  dlkit split taxis.csv --time pickup --gap 1d --test 0.1
  dlkit split visits.csv --group patient --folds 5
  dlkit split users.csv --hash user_id --column split
  dlkit split photos/ --link --out photos-split
  dlkit split titanic.csv --roles

Writes train and valid (and test) into a new directory, in the source's own format and
compression; either all files appear or none. --group keeps whoever is in one side out of
the other; --time makes validation strictly later; both together leave rows out, and say
how many. --hash puts a value on the same side in tomorrow's file too.
Next: dlkit splitcheck, which looks whether a split can be trusted.
"""

from typing import Annotated

import typer

from dlkit.commands import _options as opt
from dlkit.core.reading import Reading
from dlkit.core.result import Result
from dlkit.core.splitting import Splitting


@opt.reading(without=("task", "drop", "text", "id", "image_size"))
@opt.splitting("stratify", "group", "time", "gap", "hash")
def command(
    reading: Reading,
    splitting: Splitting,
    *,
    data: opt.Data,
    valid: Annotated[
        float | None,
        typer.Option(help="Share held out for validation.", parser=opt.share, metavar="SHARE", rich_help_panel="Split",
                     show_default="0.2"),
    ] = None,
    test: Annotated[
        float | None,
        typer.Option(help="Share held out for a test.", parser=opt.share, metavar="SHARE", rich_help_panel="Split"),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="So many folds instead of one split.", rich_help_panel="Split")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Another draw.", rich_help_panel="Split")] = 0,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="The directory to make.", show_default="NAME-split")
    ] = None,
    column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Write the table once, with a column that says the side.")
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="Folders of links to the images, not a manifest.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing: show sizes and shares.")] = False,
    roles: Annotated[bool, typer.Option("--roles", help="Show what each column is taken for, split nothing.")] = False,
) -> Result:  # fmt: skip
    from dlkit.data import divide

    order = divide.Order(valid, test or 0.0, seed, folds, out, column, link, dry_run)
    if roles:
        return divide.roles(data, reading, splitting, order)
    return divide.split(data, reading, splitting, order)
