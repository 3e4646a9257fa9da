"""Whole groups dealt out so that sides come as near to their shares, in rows and in classes, as the groups allow."""

import itertools

import numpy as np

# Pairs of groups that are tried for an exchange: the most promising of each side.
MOST_PAIRS = 400
MOST_STEPS = 5000
# Above this many groups chance alone deals them out well enough to start from.
MOST_GREEDY = 20_000
# So few groups are dealt out several times, in another order each, and the best deal counts.
TRIES, MOST_TRIED = 32, 200
# Of more sides than this, those that are worst off exchange groups.
MOST_SIDES = 10
# Where there are no more deals than this, all are looked at.
MOST_DEALS = 4096


def nearest_sum(sizes: np.ndarray, target: int, rng: np.random.Generator) -> np.ndarray:
    """G bool: groups, neither none nor all, whose G int `sizes` add up as nearly to `target` as any choice does.

    Groups are drawn at random; only as many of the last ones as it takes are then chosen for their size.
    """
    order = rng.permutation(len(sizes))
    ordered = sizes[order]
    chosen = _drawn(ordered, target)
    goal = abs(int(ordered[chosen].sum()) - target)
    picked = np.flatnonzero(chosen)
    if goal or not 0 < len(picked) < len(sizes):
        goal = min(abs(total - target) for total in _reachable(ordered, target))
        keep = len(picked)
        while True:
            fixed = picked[:keep]
            found = _complete(ordered, fixed, target, goal, rng)
            if found is not None:
                chosen = found
                break
            keep //= 2
    mask = np.zeros(len(sizes), bool)
    mask[order[chosen]] = True
    return mask


def _drawn(sizes: np.ndarray, target: int) -> np.ndarray:
    """G bool: each group in turn, unless it would go beyond `target`."""
    chosen, room = np.zeros(len(sizes), bool), target
    # All before the first that does not fit fit: the rest is looked at one by one.
    start = int(np.searchsorted(np.cumsum(sizes), target, side="right"))
    chosen[:start] = True
    room -= int(sizes[:start].sum())
    for group in np.flatnonzero(sizes[start:] <= room) + start:
        if sizes[group] <= room:
            chosen[group] = True
            room -= int(sizes[group])
        if not room:
            break
    return chosen


def _layers(sizes: np.ndarray, limit: int) -> tuple[list[int], list[int], list[int]]:
    """(distinct sizes, how often each is there, before and after each: sums within `limit` as the bits of an integer).

    A size that is there m times is taken 1, 2, 4, … times together, so that log m steps reach every count.
    """
    distinct, counts = np.unique(sizes, return_counts=True)
    mask = (1 << (limit + 1)) - 1
    layers = [1]
    for size, count in zip(distinct.tolist(), counts.tolist(), strict=True):
        bits, left, step = layers[-1], count, 1
        while left:
            take = min(step, left)
            bits |= (bits << (size * take)) & mask
            left -= take
            step *= 2
        layers.append(bits)
    return distinct.tolist(), counts.tolist(), layers


def _reachable(sizes: np.ndarray, target: int) -> list[int]:
    """The sums next below and above `target` of some, not all, of the sizes."""
    total = int(sizes.sum())
    _, _, layers = _layers(sizes, total)
    bits = layers[-1] & ~1 & ~(1 << total)
    below, above = bits & ((1 << (target + 1)) - 1), bits >> target
    found = [below.bit_length() - 1] if below else []
    return [*found, *([target + (above & -above).bit_length() - 1] if above else [])]


def _complete(
    sizes: np.ndarray, fixed: np.ndarray, target: int, goal: int, rng: np.random.Generator
) -> np.ndarray | None:
    """G bool: the `fixed` groups and others, their sum `goal` away from `target`; None where that cannot be."""
    chosen = np.zeros(len(sizes), bool)
    chosen[fixed] = True
    rest = np.flatnonzero(~chosen)
    have = int(sizes[fixed].sum())
    distinct, counts, layers = _layers(sizes[rest], max(target + goal - have, 0))
    for want in (target - goal - have, target + goal - have):
        usable = want > 0 if not len(fixed) else want >= 0
        if usable and have + want < sizes.sum() and layers[-1] >> want & 1:
            break
    else:
        return None
    for size, count, layer in zip(distinct[::-1], counts[::-1], layers[-2::-1], strict=True):
        packed = np.frombuffer((layer & ((2 << want) - 1)).to_bytes(want // 8 + 1, "little"), np.uint8)
        reached = np.unpackbits(packed, bitorder="little")
        left = want - size * np.arange(min(count, want // size) + 1)
        taken = int(rng.choice(np.flatnonzero(reached[left])))
        chosen[rest[sizes[rest] == size][:taken]] = True
        want -= taken * size
    return chosen


def balanced(counts: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The side of each group (G int64): sides that hold each class, and rows in all, as nearly in `shares` as found.

    counts  G×C rows of each class in each group; shares  S, which add up to 1

    Minimised is the sum, over sides and classes, of the squared difference between the share of the class's rows that
    a side has and the one it should have: greedily as scikit-learn's StratifiedGroupKFold deals (the most uneven groups
    first), then by moving and exchanging groups as long as that helps.
    """
    kept = counts.sum(0) > 0
    parts = counts[:, kept] / counts[:, kept].sum(0)
    parts = np.column_stack([parts, counts.sum(1) / counts.sum()])
    if len(shares) ** len(parts) <= MOST_DEALS:
        return _best_of_all(parts, shares, rng)
    tries = [
        _balance(parts, shares, rng)
        for _ in range(TRIES if len(parts) <= MOST_TRIED and len(shares) <= MOST_SIDES else 1)
    ]
    return min(tries, key=lambda tried: tried[0])[1]


def _best_of_all(parts: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The best deal (G int64) of those that leave no side without a group; one of them by chance where several are."""
    deals = rng.permutation(np.indices([len(shares)] * len(parts)).reshape(len(parts), -1).T)
    on = deals[:, :, None] == np.arange(len(shares))
    deals, on = deals[on.any(1).all(1)], on[on.any(1).all(1)]
    off = np.einsum("dgs,gc->dsc", on, parts) - shares[:, None]
    return np.asarray(deals[np.argmin(_distance(off))])


def _distance(off: np.ndarray) -> np.ndarray:
    """How far off sides are (… from …×S×C): the root of the sum of squares over sides, its mean over classes."""
    return np.asarray(np.sqrt((off**2).sum(-2)).mean(-1))


def _balance(parts: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """(how far off the sides are, the side of each group)."""
    order = rng.permutation(len(parts))
    parts = parts[order]
    side = _dealt(parts, shares, rng)
    _fill_empty(side, parts, len(shares))
    off = np.stack([parts[side == s].sum(0) for s in range(len(shares))]) - shares[:, None]
    # Of very many groups a random part is enough to move.
    _improve(side[:MOST_GREEDY], parts[:MOST_GREEDY], off)
    sides = np.empty(len(side), np.int64)
    sides[order] = side
    return float(_distance(off)), sides


def _dealt(parts: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if len(parts) > MOST_GREEDY:
        return rng.choice(len(shares), size=len(parts), p=shares)
    side = np.zeros(len(parts), np.int64)
    off = np.repeat(-shares[:, None], parts.shape[1], axis=1)
    for group in np.argsort(-parts.std(axis=1), kind="stable"):
        # What adding the group changes in the sum of squares, side by side.
        side[group] = np.argmin(off @ parts[group])
        off[side[group]] += parts[group]
    return side


def _fill_empty(side: np.ndarray, parts: np.ndarray, sides: int) -> None:
    """Every side gets a group: the smallest of the side that has the most groups."""
    for empty in np.flatnonzero(np.bincount(side, minlength=sides) == 0):
        giver = np.flatnonzero(side == np.argmax(np.bincount(side, minlength=sides)))
        side[giver[np.argmin(parts[giver, -1])]] = empty


def _improve(side: np.ndarray, parts: np.ndarray, off: np.ndarray) -> None:
    """Move one group, or exchange two, the best first, until neither helps. No side is left without a group.

    Changes `side` and `off`: by how much each side's share (S×C) of each class is off.
    """
    norms = (parts**2).sum(1)
    for _ in range(MOST_STEPS):
        step = _best_move(side, parts, norms, off) or _best_exchange(side, parts, norms, off)
        if step is None:
            return
        for group, to in step:
            off[side[group]] -= parts[group]
            off[to] += parts[group]
            side[group] = to


def _best_move(side: np.ndarray, parts: np.ndarray, norms: np.ndarray, off: np.ndarray) -> list[tuple[int, int]] | None:
    gain = parts @ off.T
    gain = 2 * norms[:, None] + 2 * (gain - gain[np.arange(len(side)), side][:, None])
    alone = np.bincount(side, minlength=len(off)) < 2
    gain[alone[side]] = 0
    gain[np.arange(len(side)), side] = 0
    group, to = np.unravel_index(np.argmin(gain), gain.shape)
    return [(int(group), int(to))] if gain[group, to] < -1e-12 else None


def _best_exchange(
    side: np.ndarray, parts: np.ndarray, norms: np.ndarray, off: np.ndarray
) -> list[tuple[int, int]] | None:
    best, step = -1e-12, None
    worst = np.argsort(-(off**2).sum(1), kind="stable")[:MOST_SIDES].tolist()
    for a, b in itertools.combinations(sorted(worst), 2):
        pull = parts @ (off[b] - off[a])
        here, there = (_promising(np.flatnonzero(side == s), sign * pull + norms) for s, sign in ((a, 1), (b, -1)))
        gain = 2 * (norms[here] + pull[here])[:, None] + 2 * (norms[there] - pull[there])[None]
        gain -= 4 * parts[here] @ parts[there].T
        i, j = np.unravel_index(np.argmin(gain), gain.shape)
        if gain[i, j] < best:
            best, step = gain[i, j], [(int(here[i]), b), (int(there[j]), a)]
    return step


def _promising(groups: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """The groups whose move alone costs least, no more than MOST_PAIRS."""
    if len(groups) <= MOST_PAIRS:
        return groups
    return groups[np.argpartition(cost[groups], MOST_PAIRS)[:MOST_PAIRS]]
