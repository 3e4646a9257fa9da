"""Reading and splitting a large CSV, beside plain polars: python tests/bench/data.py [ROWS].

CPU seconds and peak memory of whole processes, on a table of 20 columns: 12 of decimals, 3 of integers, 3 of words,
one of dates, one of 50,000 groups.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

SPLITS = {
    "split": [],
    "split --stratify": ["--stratify", "word1"],
    "split --group": ["--group", "user"],
    "split --group --stratify": ["--group", "user", "--stratify", "word1"],
    "split --time": ["--time", "when"],
    "split --group --time": ["--group", "user", "--time", "when"],
    "split --hash": ["--hash", "user"],
    "split --column": ["--column", "side"],
}
POLARS_SPLIT = (
    "import polars as pl; f = pl.read_csv('big.csv', try_parse_dates=True).sample(fraction=1, shuffle=True, seed=0); "
    "n = f.height // 5; f[n:].write_csv('train.csv'); f[:n].write_csv('valid.csv')"
)


def make(path: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    columns: dict[str, np.ndarray] = {f"x{i}": rng.normal(size=rows).round(4) for i in range(1, 13)}
    columns |= {f"n{i}": rng.integers(0, 1000, rows) for i in range(1, 4)}
    words = np.array(["alpha", "beta", "gamma", "delta", "epsilon"])
    columns |= {f"word{i}": words[rng.integers(0, 5, rows)] for i in range(1, 4)}
    seconds = np.datetime64("2020-01-01T00:00:00", "ms") + 1000 * rng.integers(0, 10**8, rows)
    frame = pl.DataFrame(columns | {"when": seconds, "user": rng.integers(0, 50_000, rows)})
    frame.with_columns(pl.col("when").dt.strftime("%Y-%m-%d %H:%M:%S")).write_csv(path)


def measure(words: list[str], folder: str) -> tuple[float, float]:
    """(CPU seconds, peak MB) of one process."""
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed: {' '.join(words)}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    python, dlkit = [sys.executable, "-c"], [sys.executable, "-m", "dlkit"]
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder, "big.csv"), rows)
        cases = {
            "polars: read": [*python, "import polars as pl; pl.read_csv('big.csv', try_parse_dates=True)"],
            "data.read": [*python, "from dlkit.data import read; read('big.csv')"],
            "polars: read, shuffle, write": [*python, POLARS_SPLIT],
        }
        for i, (name, words) in enumerate(SPLITS.items()):
            cases[name] = [*dlkit, "split", "big.csv", "-q", "--out", f"out{i}", *words]
        print(f"{rows:,} rows × 20 columns, {Path(folder, 'big.csv').stat().st_size / 1e6:.0f} MB")
        for name, words in cases.items():
            seconds, peak = measure(words, folder)
            print(f"{name:30} {seconds:6.1f} s CPU {peak:8.0f} MB peak")


if __name__ == "__main__":
    main()
