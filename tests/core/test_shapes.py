"""What `convshape` answers beside the plain table: several inputs, blocks, formulas, positions in what was typed."""

import re

import pytest

from dlkit.core import blocks, shapes, zoo
from dlkit.core.errors import DlkitError
from dlkit.core.graph import walk
from dlkit.core.spec import parse


def test_one_input_has_the_plain_summary():
    result = shapes.table(["3x8x8", "conv:4,k3", "relu"])
    assert result.summary == {"input": [3, 8, 8], "output": [4, 6, 6], "params": 112, "macs": 3888, "flops": 7776,
                              "rf": [3, 3]}  # fmt: skip
    names = ["layer", "op", "output", "params", "macs", "rf", "jump"]
    assert [column.name for column in result.columns] == names == list(next(iter(result.rows)))


def test_several_inputs_each_have_their_rows():
    result = shapes.table(["3x8x8", "3x9x9", "conv:4,k3", "relu"])
    alone = [list(shapes.table([shape, "conv:4,k3", "relu"]).rows) for shape in ("3x8x8", "3x9x9")]
    assert [{k: v for k, v in row.items() if k != "input"} for row in result.rows] == alone[0] + alone[1]
    assert [row["input"] for row in result.rows] == [[3, 8, 8]] * 2 + [[3, 9, 9]] * 2
    assert result.summary["output"] == [[4, 6, 6], [4, 7, 7]]
    assert result.summary[result.headline] == "4x6x6\n4x7x7"
    assert result.columns[0].name == "input"


def test_a_named_network_takes_several_inputs():
    result = shapes.table(["3x224x224", "3x256x256", "resnet18"])
    assert result.summary["params"] == [11_689_512] * 2 and len(result.overview) < 40


# Blocks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.names())
def test_blocks_hold_every_layer_once(name):
    net = parse(name)
    steps = walk(net.graph, net.input)
    for depth in (1, 2, 3, 20):
        indices = [i for block in blocks.blocks(net.graph, steps, depth) for i in block.layers]
        assert sorted(indices) == list(range(len(steps)))


def test_blocks_of_resnet50():
    rows = list(shapes.table(["resnet50"], depth=1).rows)
    assert [row["layer"] for row in rows[:3]] == ["conv1…maxpool1", "sum1…relu4", "sum2…relu10"]
    assert rows[2]["op"] == "2 × sum (9 layers) relu"
    assert sum(row["params"] for row in rows) == 25_557_032
    assert [row["output"][0] for row in rows] == [64, 256, 256, 512, 512, 1024, 1024, 2048, 2048, 2048, 1000]
    assert len(list(shapes.table(["resnet50"], depth=2).rows)) > 3 * len(rows)


def test_a_join_is_opened_a_level_at_a_time():
    text = ["8x8x8", "cat(conv:8,k1 sum(conv:8,k1 | ) | relu)", "conv:4,k1"]
    layers = [[row["layer"] for row in shapes.table(text, depth=depth).rows] for depth in (1, 2, 3)]
    assert layers == [["cat1", "conv3"], ["conv1", "sum1", "relu1", "cat1", "conv3"],
                      ["conv1", "conv2", "sum1", "relu1", "cat1", "conv3"]]  # fmt: skip


def test_alike_neighbours_count_together():
    (row,) = shapes.table(["8x8x8", "3*(conv:8,k3,p1 bn relu)"], depth=1).rows
    assert (row["layer"], row["op"], row["params"]) == ("conv1…relu3", "3 × conv:8,k3,p1 bn relu", 3 * (8 * 73 + 16))


def test_only_a_long_network_has_an_overview():
    assert shapes.table(["3x8x8", "conv:4,k3"]).overview is None
    assert shapes.table(["resnet50"], depth=0).overview is None
    assert shapes.table(["resnet50"], explain=True).overview is None
    assert len(list(shapes.table(["resnet50"]).rows)) == 174 > len(shapes.table(["resnet50"]).overview)


# Formulas ------------------------------------------------------------------------------------------


def value(text):
    """What a formula comes to, its signs written as Python has them."""
    text = text.replace("−", "-").replace("·", "*")
    text = re.sub(r"⌊(.*?)⌋", lambda m: f"({m[1].replace(')/', ')//')})", text)
    text = re.sub(r"⌈(.*?)⌉", lambda m: f"(-(-{m[1].replace(')/', ')//')}))", text)
    assert re.fullmatch(r"[0-9()*+/ -]+", text), text
    return eval(text)


def equations(text):
    """Each `a = b` in a formula."""
    text = re.sub(r"\(a last window.*?\)|params |MACs |channels|[DHWL]: ", "", text)
    return [part.split(" = ") for part in re.split("[;,]", text) if " = " in part]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("3x224x224 conv:64,k7,s2,p3", 3),
        ("3x20x30 conv:8,k3x5,s2x1,p1.2x0.1,d2,bias=0", 4),
        ("8x20 conv:8,k3,g4,psame", 3),
        ("8x9x9 maxpool:k3,s2,ceil_mode=1", 1),
        ("8x4x4 maxpool:k2,s3,ceil_mode=1", 1),
        ("8x3x3 maxpool:k2,s3,ceil_mode=1", 1),
        ("8x6x6 convt:4,k4,s2,p1", 3),
        ("8x6x5 convt:4,k3x4,s2,p1,op1x0,g2", 4),
        ("8x6x6 flatten linear:10", 3),
        ("8x6x6 cat(conv:3,k1 | bn | )", 5),
        ("512 linear:10,bias=0", 2),
        ("6x9x9 yolo:3,80", 3),
        ("8x6x6 gn:4", 1),
        ("8x9x9 dwconv:k3,p1,m2", 3),
    ],
)
def test_formulas_come_to_what_they_say(text, count):
    rows = list(shapes.table(text.split(" ", 1), explain=True).rows)
    found = [equation for row in rows for equation in equations(row["formula"])]
    assert len(found) == count, rows
    for left, right in found:
        assert value(left) == int(right), rows


def test_formulas_are_those_of_the_row():
    for row in shapes.table(["googlenet"], explain=True).rows:
        stated = [int(right) for _, right in equations(row["formula"])]
        assert row["params"] in (0, *stated) and row["macs"] in (0, *stated)
        assert {row["output"][0], row["output"][-1]} & set(stated) or "shape" in row["formula"] or "→" in row["formula"]


# Positions -----------------------------------------------------------------------------------------


def test_positions_count_from_what_was_typed():
    with pytest.raises(DlkitError, match="unknown layer 'cnov' at position 12"):
        shapes.table(["3x8x8", "relu", "cnov:4,k3"])
    with pytest.raises(DlkitError, match=r"conv1 .* at position 12 cannot take 3x8x8") as caught:
        shapes.table(["3x8x8", "relu", "conv:4,k9"])
    line, carets = caught.value.context.split("\n")
    assert line == "3x8x8 relu conv:4,k9" and carets.index("^") == line.index("conv")


def test_a_file_may_bring_a_shape_that_the_command_line_overrules(tmp_path):
    path = tmp_path / "net.dlk"
    path.write_text("3x8x8\nconv:4,k3\n")
    assert shapes.table([f"@{path}"]).summary["output"] == [4, 6, 6]
    assert shapes.table(["3x10x10", f"@{path}"]).summary["output"] == [4, 8, 8]
