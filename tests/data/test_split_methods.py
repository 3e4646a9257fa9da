"""Splits by group, by time, in a column's shares, by hash: whole, honest, as near to the shares as can be."""

import itertools
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlkit.core.errors import DlkitError
from dlkit.core.reading import Reading
from dlkit.core.splitting import Splitting
from dlkit.data import Rows, folds, hold_out, load, read
from dlkit.data.dataset import Place
from dlkit.data.groups import balanced, nearest_sum
from dlkit.data.split import parse_gap


def rows_of(**columns) -> Rows:
    frame = pl.DataFrame(columns)
    frame = frame.with_columns(pl.selectors.integer().cast(pl.Float64))
    return Rows(name="d", source="d", fingerprint="", place=Place("d"), frame=frame)


def check_partition(split, rows: int, whole: bool = True) -> None:
    sides = [split.train, split.valid, split.test]
    together = np.concatenate(sides)
    assert len(set(together.tolist())) == len(together)
    if whole:
        assert sorted(together) == [*range(rows)]
    for side in sides:
        assert side.dtype == np.int64 and (np.diff(side) > 0).all()


def same(first, second) -> bool:
    return all(np.array_equal(first.sides[side], second.sides[side]) for side in first.sides)


shares = st.sampled_from([(0.2, 0.0), (0.5, 0.0), (0.2, 0.1), (0.1, 0.3), (0.7, 0.0)])
seeds = st.integers(0, 2**40)


@given(st.lists(st.integers(0, 6), min_size=20, max_size=120), shares, seeds)
@settings(max_examples=100)
def test_random_and_stratified_splits_are_partitions(values, share, seed):
    rows = rows_of(c=[f"v{v}" for v in values])
    if len(set(values)) == 1:
        with pytest.raises(DlkitError, match="nothing to hold in proportion"):
            hold_out(rows, Splitting(stratify="c"), share[0], seed, share[1])
        return
    for splitting in (Splitting(), Splitting(stratify="c")):
        split = hold_out(rows, splitting, share[0], seed, share[1])
        check_partition(split, len(values))
        assert abs(len(split.valid) - share[0] * len(values)) <= 1
        assert abs(len(split.test) - share[1] * len(values)) <= 1
        assert same(split, hold_out(rows, splitting, share[0], seed, share[1]))
    values = np.array(values)
    for side, part in (("valid", share[0]), ("test", share[1])):
        found = values[split.sides[side]] if part else []
        for value in set(values.tolist()):
            assert abs(np.count_nonzero(found == value) - part * np.count_nonzero(values == value)) < 2.01


@given(st.lists(st.integers(0, 9), min_size=6, max_size=60), shares, seeds, st.booleans())
@settings(max_examples=100)
def test_groups_stay_whole(groups, share, seed, stratified):
    rows = rows_of(g=groups, c=["ab"[g % 3 == 0] for g in groups])
    splitting = Splitting(group="g", stratify="c" if stratified else None)
    try:
        split = hold_out(rows, splitting, share[0], seed, share[1])
    except DlkitError as refused:
        # One group, fewer groups than sides, or a side of one row.
        assert refused.code == 65
        return
    check_partition(split, len(groups))
    sides = [set(np.array(groups)[rows].tolist()) for rows in (split.train, split.valid, split.test)]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert all(sides[: 3 if share[1] else 2])
    assert same(split, hold_out(rows, splitting, share[0], seed, share[1]))


@given(st.lists(st.integers(1, 30), min_size=2, max_size=11), st.floats(0.02, 0.98), seeds)
@settings(max_examples=150)
def test_group_sizes_come_as_near_as_any_choice(sizes, share, seed):
    sizes = np.array(sizes)
    target = round(share * sizes.sum())
    chosen = nearest_sum(sizes, target, np.random.default_rng(seed))
    assert 0 < chosen.sum() < len(sizes)
    best = min(
        abs(sum(some) - target) for n in range(1, len(sizes)) for some in itertools.combinations(sizes.tolist(), n)
    )
    assert abs(sizes[chosen].sum() - target) == best


def test_groups_are_drawn_by_chance():
    """Every group validates at some seed, the large and the small."""
    sizes = np.array([40, 30, 20, 10, 5, 5, 5, 5, 3, 2])
    seen = sum(nearest_sum(sizes, 40, np.random.default_rng(seed)) for seed in range(200))
    assert (seen > 0).all() and (seen < 200).all()


def test_many_groups_are_quick_and_exact():
    rng = np.random.default_rng(0)
    sizes = np.concatenate([rng.integers(1, 40, 20_000), [50_000, 90_001]])
    assert sizes[nearest_sum(sizes, 100_003, rng)].sum() == 100_003
    even = np.full(1000, 7)
    assert even[nearest_sum(even, 1401, rng)].sum() == 1400


def spread(counts: np.ndarray, side: np.ndarray, sides: int) -> float:
    """StratifiedGroupKFold's own measure: the mean over classes of the deviation of their shares over the folds."""
    found = np.stack([counts[side == s].sum(0) for s in range(sides)]) / counts.sum(0)
    return float(found.std(axis=0).mean())


@pytest.mark.parametrize("seed", range(3))
def test_stratified_groups_are_no_worse_than_scikit_learns(seed):
    from sklearn.model_selection import StratifiedGroupKFold

    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(60), rng.integers(1, 40, 60))
    lean = rng.beta(0.6, 0.6, 60)
    classes = (rng.random(len(groups)) < lean[groups]).astype(int) + 2 * (rng.random(len(groups)) < 0.05)
    counts = np.zeros((60, 4), int)
    np.add.at(counts, (groups, classes), 1)
    counts = counts[:, counts.sum(0) > 0]
    theirs = np.zeros(60, int)
    folder = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    for i, (_, valid) in enumerate(folder.split(classes, classes, groups)):
        theirs[groups[valid]] = i
    ours = balanced(counts, np.full(5, 0.2), np.random.default_rng(seed))
    assert spread(counts, ours, 5) <= spread(counts, theirs, 5) + 1e-12
    sizes = [np.bincount(side, counts.sum(1), 5) for side in (ours, theirs)]
    assert np.ptp(sizes[0]) <= np.ptp(sizes[1]) + 1


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=3, max_size=9), seeds)
@settings(max_examples=60)
def test_few_stratified_groups_against_every_deal(counts, seed):
    counts = np.array(counts) + np.array([1, 0])
    share = np.array([0.7, 0.3])
    side = balanced(counts, share, np.random.default_rng(seed))
    kept = counts[:, counts.sum(0) > 0]
    parts = np.column_stack([kept / kept.sum(0), counts.sum(1) / counts.sum()])

    def cost(deal) -> float:
        off = np.stack([parts[deal == s].sum(0) - share[s] for s in (0, 1)])
        return np.sqrt((off**2).sum(0)).mean()

    deals = [np.array(d) for d in itertools.product((0, 1), repeat=len(counts)) if 0 < sum(d) < len(counts)]
    assert cost(side) == pytest.approx(min(map(cost, deals)))


@given(st.lists(st.integers(0, 12), min_size=8, max_size=60), shares, st.integers(0, 3))
@settings(max_examples=100)
def test_time_goes_forward_and_ties_are_never_cut(times, share, gap):
    rows = rows_of(t=times)
    try:
        split = hold_out(rows, Splitting(time="t", gap=str(gap) if gap else None), share[0], 0, share[1])
    except DlkitError as refused:
        assert refused.code == 65
        return
    check_partition(split, len(times), whole=not gap)
    times = np.array(times)
    sides = [times[rows] for rows in split.sides.values()]
    for before, after in itertools.pairwise(sides):
        assert after.min() - before.max() > gap
    if not gap and not share[1]:
        best = min(abs(np.count_nonzero(times >= cut) - share[0] * len(times)) for cut in set(times) - {times.min()})
        assert abs(len(split.valid) - share[0] * len(times)) <= best + 1e-9


def test_a_gap_of_dates():
    start = datetime(2024, 1, 1)
    rows = rows_of(t=[start + timedelta(hours=i) for i in range(100)])
    split = hold_out(rows, Splitting(time="t", gap="1d"), 0.2)
    assert split.valid.tolist() == [*range(80, 100)] and split.train.tolist() == [*range(56)]
    assert any("24 rows" in note for note in split.notes)


@pytest.mark.parametrize(("text", "is_date"), [("7", True), ("7d", False), ("-1d", True), ("1y", True), ("", True)])
def test_gaps_that_are_none(text, is_date):
    with pytest.raises(DlkitError, match="--gap"):
        parse_gap(text, is_date)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), min_size=8, max_size=60), st.integers(0, 2))
@settings(max_examples=100)
def test_groups_and_time_together(pairs, gap):
    groups, times = map(np.array, zip(*pairs, strict=True))
    rows = rows_of(g=groups.tolist(), t=times.tolist())
    try:
        split = hold_out(rows, Splitting(group="g", time="t", gap=str(gap) if gap else None))
    except DlkitError as refused:
        assert refused.code == 65
        return
    check_partition(split, len(pairs), whole=False)
    assert times[split.valid].min() - times[split.train].max() > gap
    assert not set(groups[split.train].tolist()) & set(groups[split.valid].tolist())


def test_groups_apart_in_time_lose_no_row():
    rows = rows_of(g=[i // 10 for i in range(100)], t=[*range(100)])
    split = hold_out(rows, Splitting(group="g", time="t"))
    assert split.valid.tolist() == [*range(80, 100)] and len(split.train) == 80


@given(st.lists(st.integers(0, 30), min_size=20, max_size=80), st.integers(2, 5), seeds)
@settings(max_examples=40)
def test_folds_validate_every_row_once(values, k, seed):
    rows = rows_of(g=values, c=["ab"[v % 2] for v in values])
    for splitting in (Splitting(), Splitting(stratify="c"), Splitting(group="g"), Splitting(group="g", stratify="c")):
        try:
            found = folds(rows, splitting, k, seed)
        except DlkitError as refused:
            assert refused.code == 65
            continue
        assert len(found) == k
        assert sorted(np.concatenate([split.valid for split in found])) == [*range(len(values))]
        for split in found:
            check_partition(split, len(values))
            if splitting.group:
                seen = np.array(values)
                assert not set(seen[split.train].tolist()) & set(seen[split.valid].tolist())
            else:
                assert abs(len(split.valid) - len(values) / k) <= 1


def test_folds_in_time_grow():
    rows = rows_of(t=[i // 2 for i in range(60)], g=[i % 7 for i in range(60)])
    found = folds(rows, Splitting(time="t"), 5)
    assert [len(split.valid) for split in found] == [10] * 5
    for split in found:
        assert split.train.tolist() == [*range(split.valid[0])]
    apart = rows_of(t=[*range(60)], g=[i // 5 for i in range(60)])
    for split in folds(apart, Splitting(time="t", group="g"), 5):
        assert split.train.max() < split.valid.min() and split.train.max() // 5 < split.valid.min() // 5


def test_a_hash_depends_on_the_value_alone():
    names = [f"user{i}" for i in range(2000)]
    today = hold_out(rows_of(u=names), Splitting(hash="u"), 0.2, test=0.1)
    check_partition(today, 2000)
    assert abs(len(today.valid) - 400) < 70 and abs(len(today.test) - 200) < 55
    tomorrow = names[::-1][:1500] + ["new", "user7", "user7"] * 20
    later = hold_out(rows_of(u=tomorrow), Splitting(hash="u"), 0.2, test=0.1)
    side = {names[i]: name for name, rows in today.sides.items() for i in rows}
    for name, rows in later.sides.items():
        assert all(side.get(tomorrow[i], name) == name for i in rows)
    other = hold_out(rows_of(u=names), Splitting(hash="u"), 0.2, seed=1)
    assert not np.array_equal(other.valid, today.valid)


def test_a_hash_of_numbers_is_that_of_their_text(write):
    content = "id,x\n" + "".join(f"{i},1\n" for i in range(200))
    whole = read(write("a.csv", content))
    mixed = read(write("b.csv", content + "a1,1\n0.5,1\n"), Reading(text=["id"]))
    first, second = (hold_out(rows, Splitting(hash="id")) for rows in (whole, mixed))
    assert first.valid.tolist() == [i for i in second.valid.tolist() if i < 200]


def test_a_column_that_says_the_side(write):
    content = "x,side\n" + "1,train\n2,Val\n3,valid\n4,TRAIN\n5,test\n"
    split = hold_out(read(write("a.csv", content)), Splitting(split="side"))
    assert (split.train.tolist(), split.valid.tolist(), split.test.tolist()) == ([0, 3], [1, 2], [4])
    flags = "x,v\n" + "1,0\n2,1\n3,1\n4,0\n"
    assert hold_out(read(write("b.csv", flags)), Splitting(split="v")).valid.tolist() == [1, 2]
    for cell, words in (("maybe", "'maybe' is no side"), ("", "missing")):
        with pytest.raises(DlkitError, match=f"line 3, column 'side': .*{words}") as caught:
            hold_out(read(write("c.csv", f"x,side\n1,train\n2,{cell}\n3,valid\n")), Splitting(split="side"))
        assert caught.value.code == 65


def test_columns_that_split_are_no_features(write):
    content = "who,when,x,y\n" + "".join(f"{'abcd'[i % 4]},{i},{i % 7},{i % 2}\n" for i in range(80))
    path = write("a.csv", content)
    splitting = Splitting(group="who", time="when")
    dataset = load(path, splitting.reading(Reading(drop=["when"])))
    assert {c.name for c in dataset.columns if c.role.is_used} == {"x"}
    assert dataset.frame.columns == ["who", "when", "x"]
    kept = load(path, splitting.reading(Reading(categorical=["who"])))
    assert {c.name for c in kept.columns if c.role.is_used} >= {"who", "x"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"hash": "u", "group": "g"},
        {"split": "s", "time": "t"},
        {"time": "t", "stratify": "c"},
        {"gap": "7d"},
    ],
)
def test_what_does_not_go_together_is_refused(wrong):
    with pytest.raises(DlkitError) as caught:
        Splitting(**wrong)
    assert caught.value.code == 2 and caught.value.message.count("--") >= 2


@pytest.mark.parametrize(
    ("splitting", "share", "code", "words"),
    [
        (Splitting(group="gruop"), (0.2, 0), 2, "'gruop'"),
        (Splitting(group="one"), (0.2, 0), 65, "one group"),
        (Splitting(group="two"), (0.2, 0.2), 65, "2 groups of 'two' cannot be on 3 sides"),
        (Splitting(time="one"), (0.2, 0), 65, "the same in all rows"),
        (Splitting(time="word"), (0.2, 0), 65, "text such as 'a'"),
        (Splitting(time="some"), (0.2, 0), 65, "row 3 has no 'some'"),
        (Splitting(time="two", group="one"), (0.2, 0.1), 2, "--test"),
        (Splitting(), (0.6, 0.5), 2, "leave rows to train on"),
        (Splitting(time="two", gap="99"), (0.5, 0), 65, "0 rows to train on"),
    ],
)
def test_refusals(splitting, share, code, words):
    rows = rows_of(one=[1] * 8, two=[1, 2] * 4, word=list("abcdefgh"), some=[1, 2, None, 4, 5, 6, 7, 8])
    with pytest.raises(DlkitError) as caught:
        hold_out(rows, splitting, *share[:1], test=share[1])
    assert caught.value.code == code and words in caught.value.message


def test_missing_groups_are_one_group():
    rows = rows_of(g=["a", None, "b", None, "c", None, "d", "e"])
    for seed in range(20):
        split = hold_out(rows, Splitting(group="g"), 0.4, seed)
        assert len({1, 3, 5} & set(split.valid.tolist())) in (0, 3) and split.notes


def test_real_taxis(shared):
    rows = read(str(shared("taxis.csv")))
    split = hold_out(rows, Splitting(time="pickup"), 0.2)
    pickup = rows.frame["pickup"]
    assert pickup.gather(split.train).max() < pickup.gather(split.valid).min()
    assert abs(len(split.valid) - 0.2 * rows.rows) < 3
    split = hold_out(rows, Splitting(group="pickup_zone", stratify="payment"), 0.2)
    zone, payment = rows.frame["pickup_zone"], rows.frame["payment"]
    assert not set(zone.gather(split.train)) & set(zone.gather(split.valid))
    cash = [(payment.gather(side) == "cash").mean() for side in (split.train, split.valid)]
    assert abs(cash[0] - cash[1]) < 0.005 and abs(len(split.valid) / rows.rows - 0.2) < 0.005
