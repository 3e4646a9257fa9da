"""The walk: what a step holds, where fields are local, and that its cost grows with the layers."""

import subprocess
import sys

import pytest
from support import python_calls

from dlkit.core.field import WHOLE
from dlkit.core.graph import SOURCE, totals, walk
from dlkit.core.spec import parse


def test_a_step():
    first, second, *_ = walk(parse("relu conv:64,k7,s2,p3").graph, (3, 224, 224))
    assert (first.name, first.sources, first.activations) == ("relu1", (SOURCE,), 3 * 224 * 224)
    assert (second.name, second.op, second.text) == ("conv1", "conv", "conv:64,k7,s2,p3")
    assert (second.inputs, second.output) == (((3, 224, 224),), (64, 112, 112))
    assert (second.params, second.macs) == (9_472, 118_013_952)
    assert [(f.size, f.stride, f.padding) for f in second.field] == [(7, 2, 3)] * 2


def test_names_are_unique():
    steps = walk(parse("65*relu 3*relu6 gap").graph, (3, 4, 4))
    assert len({step.name for step in steps}) == 69
    assert [step.name for step in steps[60:69]] == ["relu61", *(f"relu{i}" for i in range(62, 66)),
                                                    "relu6_1", "relu6_2", "relu6_3", "gap1"]  # fmt: skip


def test_totals_take_the_last_map():
    steps = walk(parse("conv:8,k3 conv:8,k3,s2 gap linear:10").graph, (3, 32, 32))
    whole = totals(steps)
    assert (whole.last_map, whole.field[0].size, whole.output) == (1, 5, (10,))
    assert [step.field for step in steps[2:]] == [WHOLE, WHOLE]


def test_a_map_that_sees_everything_or_cannot_be_said_is_the_last_map_all_the_same():
    gated = walk(parse("conv:8,k3 mul(gap sigmoid | ) conv:8,k3 gap linear:10").graph, (3, 32, 32))
    assert totals(gated)[3:5] == (WHOLE, 4)
    crossed = walk(parse("conv:8,k3 sum(conv:8,k2,s2,p1 | ) relu gap").graph, (3, 4, 4))
    assert totals(crossed)[3:5] == (None, 3)


def test_a_network_without_maps_has_no_field():
    assert totals(walk(parse("linear:10 relu linear:2").graph, (4,)))[3:5] == (None, None)


@pytest.mark.parametrize(
    "text", ["{}*(conv:8,k3,p1 relu)", "{}*(sum(conv:8,k3,p1 | ) bn)", "{}*(cat(conv:4,k1 | conv:4,k3,p1) relu)"]
)
def test_ten_thousand_layers_in_linear_time(text):
    def work(times):
        graph = parse(text.format(times)).graph
        steps = walk(graph, (8, 32, 32))
        assert len(steps) == len(graph) >= 2 * times

    work(100)
    assert python_calls(lambda: work(5000)) < 2.2 * python_calls(lambda: work(2500))


def test_ten_thousand_different_layers():
    def work(layers):
        text = " ".join(f"conv:{i + 1},k3,p1" for i in range(layers))
        assert walk(parse(text).graph, (1, 8, 8))[-1].output == (layers, 8, 8)

    assert python_calls(lambda: work(10_000)) < 2.2 * python_calls(lambda: work(5_000))


def test_only_the_standard_library_is_imported():
    code = (
        "import sys; before = set(sys.modules)\n"
        "import dlkit.core.spec, dlkit.core.graph, dlkit.core.zoo\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
        "third = {m for m in new - set(sys.stdlib_module_names) if not m.startswith('__editable__')}\n"
        "print(*sorted(third | new & {'dataclasses', 'fractions', 'decimal'}))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["dlkit"]
