"""CPU time of whole processes against `import typer`, side by side: python tests/bench/startup.py [ROUNDS]."""

import os
import resource
import shutil
import statistics
import subprocess
import sys

DLKIT = shutil.which("dlkit") or sys.exit("dlkit is not installed in this environment")
COMPLETE = {"_DLKIT_COMPLETE": "complete_bash", "COMP_CWORD": "1", "COMP_WORDS": "dlkit con"}
CASES = {
    "import typer": ([sys.executable, "-c", "import typer"], {}, None),
    "convshape, 3 layers": ([DLKIT, "convshape", "3x224x224", "conv:64,k7,s2,p3", "bn", "relu"], {}, 1.6),
    "convshape resnet50": ([DLKIT, "convshape", "resnet50"], {}, 1.6),
    "rf resnet50": ([DLKIT, "rf", "resnet50"], {}, 1.6),
    "convshape 224 --want 112": ([DLKIT, "convshape", "224", "--want", "112"], {}, 1.6),
    "flops resnet50": ([DLKIT, "flops", "resnet50"], {}, 1.6),
    "memory gpt2": ([DLKIT, "memory", "gpt2"], {}, 1.6),
    "convshape resnet50 --json": ([DLKIT, "convshape", "resnet50", "--json"], {}, 1.6),
    "--help": ([DLKIT, "--help"], {}, 3.0),
    "completion of a subcommand": ([DLKIT], COMPLETE, 1.6),
}

COMPILED = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
"""As installed programs run: the first round writes the bytecode for the others."""


def cpu(command: list[str], extra: dict[str, str]) -> float:
    """User and system seconds of one run, its output in a pipe."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=COMPILED | extra, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(rounds):
        for name, (command, extra, _) in CASES.items():
            times[name].append(cpu(command, extra))
    base = statistics.median(times["import typer"])
    for name, (_, _, bound) in CASES.items():
        median = statistics.median(times[name])
        wanted = f"  (at most {bound})" if bound else ""
        print(f"{name:28}{1000 * median:8.1f} ms{median / base:8.2f}{wanted}")


if __name__ == "__main__":
    main()
