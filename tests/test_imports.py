"""The import firewall: who may import what, and what a command may have loaded when it is done."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support import environment

import dlkit

PACKAGE = Path(dlkit.__file__).parent
HEAVY = {"torch", "numpy", "sklearn", "scipy", "polars", "PIL", "safetensors", "pydantic", "rich"}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((PACKAGE / folder).rglob("*.py"))]
    assert found
    return found


def test_core_imports_only_the_standard_library():
    for path in files("core"):
        outside = {
            name
            for name in imported(path)
            if name.partition(".")[0] not in sys.stdlib_module_names and not name.startswith("dlkit")
        }
        allowed = "rich" if path.name in ("render.py", "console.py") else "-"
        assert not {name for name in outside if name.partition(".")[0] != allowed}, path
        ours = {name for name in imported(path) if name.startswith("dlkit.")}
        assert all(name.startswith("dlkit.core") for name in ours), path


@pytest.mark.parametrize(("library", "home"), [("torch", "nn"), ("safetensors", "nn"), ("sklearn", "ml")])
def test_each_heavy_library_has_one_home(library, home):
    for path in PACKAGE.rglob("*.py"):
        if home not in path.relative_to(PACKAGE).parts:
            assert not {name for name in imported(path) if name.partition(".")[0] == library}, path


def test_the_layers_point_one_way():
    below = {"data": ("core", "data"), "nn": ("core", "data", "nn"), "ml": ("core", "data", "ml")}
    for folder, allowed in below.items():
        for path in files(folder):
            ours = {name.split(".")[1] for name in imported(path) if name.startswith("dlkit.")}
            assert ours <= {*allowed, "__version__"}, path


def loaded(tmp_path: Path, *args: str, code: int = 0, **extra: str) -> set[str]:
    """The top-level modules in memory after a command line has run, its output in a pipe."""
    program = (
        "import sys; from dlkit.cli import run; code = run(sys.argv[1:]); "
        "print(*sorted({m.partition('.')[0] for m in sys.modules}), file=sys.stderr); sys.exit(code)"
    )
    env = environment(**extra)
    words = [sys.executable, "-c", program, *args]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == code, done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("words", "code", "unneeded"),
    [
        (["train", "iris", "--plot", "x.jpg"], 2, "numpy"),
        (["lrfind", "iris", "--plot", "x.jpg"], 2, "numpy"),
        (["splitcheck", "iris", "iris", "--plot", "x.jpg"], 2, "numpy"),
        (["predict", "RUN", "iris", "--nproc", "2", "--out", "x.foo"], 2, "torch"),
        (["predict", "RUN", "iris", "--nproc", "2", "--out", "no/x.csv"], 73, "torch"),
        (["baseline", "iris", "--embed", "RUN", "--metric", "rmse"], 2, "torch"),
    ],
)
def test_what_cannot_be_written_or_scored_is_refused_before_the_libraries_load(
    tmp_path, finished_run, words, code, unneeded
):
    words = [str(finished_run) if word == "RUN" else word for word in words]
    assert unneeded not in loaded(tmp_path, *words, code=code)


@pytest.mark.parametrize(
    "words",
    [
        ["convshape", "224", "-k", "7"],
        ["convshape", "resnet50"],
        ["convshape", "resnet50", "--json"],
        ["flops", "llama-2-7b", "--tokens", "2T"],
        ["flops", "--budget", "1e24"],
        ["memory", "resnet50", "--fit", "h100"],
        ["models"],
        ["rf", "resnet50"],
        ["models", "vgg16"],
        ["--help"],
        ["train", "--help"],
        ["lrfind", "--help"],
        ["baseline", "--help"],
        ["splitcheck", "--help"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_a_calculator_loads_nothing_heavy(tmp_path, words):
    assert not loaded(tmp_path, *words) & HEAVY


def test_training_loads_neither_scikit_learn_nor_rich_in_a_pipe(tmp_path):
    modules = loaded(tmp_path, "train", "iris", "--epochs", "1")
    assert "torch" in modules and not modules & {"sklearn", "scipy", "rich", "pydantic"}


def test_a_baseline_loads_neither_torch_nor_dask(tmp_path):
    words = ["baseline", "iris", "--models", "tree", "--tries", "1", "--folds", "2", "--budget", "10m"]
    modules = loaded(tmp_path, *words)
    assert "sklearn" in modules and not modules & {"torch", "pydantic", "distributed"}


def test_completion_loads_nothing_heavy(tmp_path):
    code = (
        "import sys, dlkit.cli\n"
        "try: dlkit.cli.main()\n"
        "finally: print(*sorted({m.partition('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    env = environment(_DLKIT_COMPLETE="complete_bash", COMP_WORDS="dlkit co", COMP_CWORD="1")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.stdout.split() == ["convshape"]
    assert not set(done.stderr.splitlines()[-1].split()) & HEAVY
