"""Whole processes of the calculators beside their peers, in turns: python tests/bench/calculators.py [ROUNDS].

Wall time, CPU time and peak memory of `dlkit convshape resnet50` and `dlkit flops resnet50`, of torchinfo and fvcore on
torchvision's ResNet-50, and of a bare `import torch`. The peers run in the Python that PEERS names, which has torch,
torchvision, torchinfo and fvcore; what it lacks is left out. `--published` counts the published figures in the tests.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DLKIT = shutil.which("dlkit") or sys.exit("dlkit is not installed in this environment")
PEERS = os.environ.get("PEERS", sys.executable)

# torchvision has no operators of its own in some builds; its definitions import once two of them are declared
_RESNET = (
    "import torch\n"
    "library = torch.library.Library('torchvision', 'FRAGMENT')\n"
    "for name, second in (('nms', 'scores'), ('qnms', 'scores')):\n"
    "    if not hasattr(torch.ops.torchvision, name):\n"
    "        library.define(f'{name}(Tensor dets, Tensor {second}, float iou_threshold) -> Tensor')\n"
    "import warnings; warnings.simplefilter('ignore')\n"
    "from torchvision.models import resnet50\n"
)
_TORCHINFO = _RESNET + "import torchinfo; print(torchinfo.summary(resnet50(), (1, 3, 224, 224), verbose=0))"
_FVCORE = (
    _RESNET
    + "from fvcore.nn import FlopCountAnalysis, flop_count_table\n"
    + "print(flop_count_table(FlopCountAnalysis(resnet50().eval(), torch.zeros(1, 3, 224, 224))))"
)
CASES = {
    "dlkit convshape resnet50": [DLKIT, "convshape", "resnet50"],
    "dlkit flops resnet50": [DLKIT, "flops", "resnet50"],
    "torchinfo resnet50": [PEERS, "-c", _TORCHINFO],
    "fvcore resnet50": [PEERS, "-c", _FVCORE],
    "import torch": [PEERS, "-c", "import torch"],
}

COMPILED = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
"""As installed programs run: the bytecode that the first round writes is there for the others."""


class Cost(NamedTuple):
    """Seconds of wall and CPU time, and the peak of resident memory in MiB."""

    wall: float
    cpu: float
    peak: float


def measured(command: list[str]) -> Cost | None:
    """One run, its output in a pipe; None where it fails."""
    start = time.perf_counter()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, env=COMPILED)
    assert process.stdout
    process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    return None if process.returncode else Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def compare(rounds: int) -> None:
    found: dict[str, list[Cost]] = {name: [] for name in CASES}
    for name, command in CASES.items():
        measured(command)  # once for the disk's cache and the bytecode
        found[name] = []
    for _ in range(rounds):
        for name, command in CASES.items():
            cost = measured(command)
            if cost:
                found[name].append(cost)
    table = {
        name: Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))
        for name, costs in found.items()
        if costs
    }
    print(f"medians of {rounds} rounds, in turns; in parentheses over {next(iter(table))}")
    base = next(iter(table.values()))
    for name, cost in table.items():
        ratios = [f"({mine / own:.1f}×)" for mine, own in zip(cost, base, strict=True)]
        cells = f"{cost.wall:8.3f} s {ratios[0]:>8}{cost.cpu:9.3f} s {ratios[1]:>8}{cost.peak:9.0f} MiB {ratios[2]:>8}"
        print(f"{name:26}{cells}")
    for name in CASES.keys() - table.keys():
        print(f"{name:26} not there: {PEERS} lacks it")


def published() -> None:
    """Count the tests marked `published`, file by file."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-m", "published", "tests/core"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    names = [line for line in done.stdout.splitlines() if "::" in line]
    files: dict[str, int] = {}
    for name in names:
        key = name.partition("[")[0]
        files[key] = files.get(key, 0) + 1
    for key, times in files.items():
        print(f"{times:4}  {key}")
    print(f"{len(names):4}  published figures held by tests")


if __name__ == "__main__":
    if "--published" in sys.argv:
        published()
    else:
        compare(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
