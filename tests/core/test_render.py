"""How a result becomes text: what foreign text may not do to the reader of a TSV."""

from dlkit.core import render
from dlkit.core.result import Column, Result


def test_control_characters_are_written_out(capsys):
    text = "a\tb\nc\rd\\e\x1b[31mf\x00g\x7fh\x9bi ü é"
    render.write(Result([Column("name")], [{"name": text}], {}, "name"), "x", "0", "tsv", False)
    assert capsys.readouterr().out == "name\na\\tb\\nc\\rd\\\\e\\x1b[31mf\\x00g\\x7fh\\x9bi ü é\n"
