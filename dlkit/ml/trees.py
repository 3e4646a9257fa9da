"""Trees as plain arrays: taken out of a model before it is saved, checked node by node before they go back in.

scikit-learn follows a tree's indices without looking at bounds: a crafted file would end the process (or worse). So
no tree object is ever read from a file, only arrays, and these must be a tree.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.tree import BaseDecisionTree
from sklearn.tree._tree import Tree

from dlkit.core.errors import bad_data

BOOSTED = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)
BITSET_WORDS = 8


def parts(model: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """A model and every object within it that has attributes, in a fixed order."""
    seen = set() if seen is None else seen
    if id(model) in seen:
        return
    seen.add(id(model))
    if isinstance(model, list | tuple):
        children: Any = model
    elif isinstance(model, dict):
        children = model.values()
    elif hasattr(model, "__dict__") and not isinstance(model, type | np.ndarray):
        yield model
        children = [value for _, value in sorted(vars(model).items())]
    else:
        return
    for child in children:
        yield from parts(child, seen)


# A forest has a pattern of its trees besides them, which was never grown: it has no `tree_`.


def take_out(model: Any) -> list[dict[str, np.ndarray]]:
    """The arrays of every tree in `model`, in the order in which `put_in` wants them. The model is left without."""
    found = []
    for part in list(parts(model)):
        if isinstance(part, BaseDecisionTree) and "tree_" in vars(part):
            found.append(_grown(part))
        elif isinstance(part, BOOSTED):
            found.append(_boosted(part))
    return _joined(found)


def put_in(model: Any, arrays: list[dict[str, np.ndarray]]) -> None:
    """Give a model its trees back. Arrays that are no trees of this model: bad data."""
    groups = iter(_split(arrays))
    for part in list(parts(model)):
        if isinstance(part, BaseDecisionTree) and "tree_" in vars(part):
            part.tree_ = _tree(part, next(groups, None))
        elif isinstance(part, BOOSTED):
            part._predictors = _predictors(part, next(groups, None))
    _check(next(groups, None) is None, "trees that belong to no model")


def _check(ok: Any, problem: str) -> None:
    if not ok:
        raise bad_data(f"the saved model is damaged: {problem}")


# --- decision trees and forests --------------------------------------------------------------------------------------


def _grown(part: BaseDecisionTree) -> dict[str, np.ndarray]:
    state = part.tree_.__getstate__()
    part.tree_ = None
    return {"nodes": state["nodes"], "values": state["values"], "depth": np.array([state["max_depth"]])}


def _tree(part: Any, arrays: dict[str, np.ndarray] | None) -> Tree:
    _check(arrays is not None and set(arrays) == {"nodes", "values", "depth"}, "a tree is missing")
    assert arrays is not None
    features, outputs = int(part.n_features_in_), _count(part)
    nodes, values = arrays["nodes"], arrays["values"]
    _check(nodes.ndim == 1 and nodes.dtype.names and len(nodes), "a tree without nodes")
    _check(values.shape == (len(nodes), 1, outputs), "a tree's values do not fit its nodes")
    left, right = nodes["left_child"], nodes["right_child"]
    _check_children(left, right, left == -1)
    _check_features(nodes["feature"][left != -1], features)
    tree = Tree(features, np.array([outputs], np.intp), 1)
    depth = int(arrays["depth"][0])
    tree.__setstate__({"max_depth": depth, "node_count": len(nodes), "nodes": nodes, "values": values})
    return tree


def _count(part: Any) -> int:
    classes = getattr(part, "n_classes_", 1)
    return int(classes) if np.ndim(classes) == 0 else int(classes[0])


def _check_children(left: np.ndarray, right: np.ndarray, is_leaf: np.ndarray) -> None:
    """Children stand after their parent, so that every walk ends, and within the tree."""
    here = np.arange(len(left))
    for child in (left, right):
        inner = child[~is_leaf].astype(np.int64)
        _check(((inner > here[~is_leaf]) & (inner < len(left))).all(), "a tree's nodes point out of it")


def _check_features(used: np.ndarray, features: int) -> None:
    used = used.astype(np.int64)
    _check(((used >= 0) & (used < features)).all(), "a tree asks for a column that is not there")


# --- histogram boosting ----------------------------------------------------------------------------------------------


def _boosted(part: Any) -> dict[str, np.ndarray]:
    trees = [tree for step in part._predictors for tree in step]
    per_step = len(part._predictors[0]) if part._predictors else 1
    part._predictors = []
    # Not needed to predict: columns come in the order and with the codes that these would give them.
    part._preprocessor = part._feature_subsample_rng = part._scorer = None
    return {
        "nodes": np.concatenate([tree.nodes for tree in trees]),
        "ends": np.cumsum([len(tree.nodes) for tree in trees]),
        "bitsets": np.concatenate([tree.raw_left_cat_bitsets for tree in trees]),
        "bitset_ends": np.cumsum([len(tree.raw_left_cat_bitsets) for tree in trees]),
        "per_step": np.array([per_step]),
    }


def _predictors(part: Any, arrays: dict[str, np.ndarray] | None) -> list[list[TreePredictor]]:
    needed = {"nodes", "ends", "bitsets", "bitset_ends", "per_step"}
    _check(arrays is not None and set(arrays) == needed, "trees are missing")
    assert arrays is not None
    trees = [
        _predictor(part, nodes, bitsets)
        for nodes, bitsets in zip(
            _cut(arrays["nodes"], arrays["ends"]), _cut(arrays["bitsets"], arrays["bitset_ends"]), strict=True
        )
    ]
    step = int(arrays["per_step"][0])
    outputs = part.n_trees_per_iteration_
    _check(step == outputs >= 1 and len(trees) % step == 0, "a step of boosting is not whole")
    return [trees[i : i + step] for i in range(0, len(trees), step)]


def _predictor(part: Any, nodes: np.ndarray, bitsets: np.ndarray) -> TreePredictor:
    _check(nodes.dtype.names and len(nodes), "a tree without nodes")
    _check(bitsets.ndim == 2 and bitsets.shape[1] == BITSET_WORDS, "categories of a split are missing")
    is_leaf = nodes["is_leaf"].astype(bool)
    _check_children(nodes["left"], nodes["right"], is_leaf)
    features = int(part.n_features_in_)
    _check_features(nodes["feature_idx"][~is_leaf], features)
    split = nodes[~is_leaf & nodes["is_categorical"].astype(bool)]
    _check((split["bitset_idx"] < len(bitsets)).all(), "a split's categories are not there")
    known = np.asarray(part._bin_mapper.is_categorical_, bool)
    _check(known.shape == (features,) and known[split["feature_idx"].astype(int)].all(), "a split on no category")
    return TreePredictor(nodes, np.zeros_like(bitsets), np.ascontiguousarray(bitsets, np.uint32))


def _cut(array: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
    rising = ends.ndim == 1 and len(ends) and (np.diff(ends, prepend=0) >= 0).all()
    _check(rising and ends[-1] == len(array), "trees do not fill their array")
    return [np.ascontiguousarray(piece) for piece in np.split(array, ends[:-1])]


# --- many small arrays as few large ones -----------------------------------------------------------------------------


def _joined(groups: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """The trees of a forest as one group: an archive of thousands of members takes long to read."""
    if len(groups) < 2 or "depth" not in groups[0]:
        return groups
    return [
        {
            "nodes": np.concatenate([group["nodes"] for group in groups]),
            "values": np.concatenate([group["values"] for group in groups]),
            "depth": np.concatenate([group["depth"] for group in groups]),
            "ends": np.cumsum([len(group["nodes"]) for group in groups]),
        }
    ]


def _split(groups: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    if len(groups) != 1 or set(groups[0]) != {"nodes", "values", "depth", "ends"}:
        return groups
    whole = groups[0]
    _check(len(whole["depth"]) == len(whole["ends"]), "a tree without a depth")
    pieces = zip(_cut(whole["nodes"], whole["ends"]), _cut(whole["values"], whole["ends"]), whole["depth"], strict=True)
    return [{"nodes": nodes, "values": values, "depth": np.array([depth])} for nodes, values, depth in pieces]
