"""What a terminal shows of a board."""

from support import plain


def test_a_terminal_shows_the_columns_that_fit_and_the_remark(terminal):
    ran = terminal("baseline", "iris", "--models", "knn", "--tries", "1", "--folds", "2", columns=80)
    shown = plain(ran.out).splitlines()
    header = next(line for line in shown if "model" in line and "accuracy" in line)
    assert "brier" not in header and "stage" not in header and "memory" not in header and header.split()[-1] == "remark"
    knn = next(line for line in shown if line.strip().startswith("knn"))
    assert "n_neighbors 5" in knn and " %" in knn and len(knn.rstrip()) <= 80
