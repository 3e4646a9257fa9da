"""Every kind of fault, planted in small tables, is found by the check that it belongs to, and named."""

import numpy as np
import polars as pl
import pytest

from dlkit.core.errors import DlkitError
from dlkit.core.reading import Reading
from dlkit.ml.checks import duplicates, images, leak, together
from dlkit.ml.checks.adversarial import Settings
from dlkit.ml.checks.adversarial import check as told_apart
from dlkit.ml.checks.drift import check_drift, check_target_drift
from dlkit.ml.checks.neighbours import check_near_duplicates
from dlkit.ml.checks.schema import check_labels, check_schema
from dlkit.ml.checks.sides import open_sides
from dlkit.ml.checks.units import units_of
from dlkit.ml.engine import Engine
from dlkit.ml.splitcheck import examine


def table(rows: int, seed: int = 0, **more) -> pl.DataFrame:
    """A plain table: two numbers, a colour, a label."""
    rng = np.random.default_rng(seed)
    plain = {
        "a": rng.normal(size=rows),
        "b": rng.gamma(2, 3, rows),
        "colour": rng.choice(["red", "green", "blue"], rows),
        "y": rng.choice(["no", "yes"], rows),
    }
    return pl.DataFrame(plain | {name: make(rng) if callable(make) else make for name, make in more.items()})


def assert_found(finding, verdict: str, *words: str) -> None:
    assert finding.verdict == verdict, finding
    for word in words:
        assert word in finding.detail, finding


def adversarial(sides, units=None, later=False, model=None):
    return told_apart(sides, Settings(model=model), Engine(1), units, later)


# --- schema and labels -----------------------------------------------------------------------------------------------


def test_an_honest_split_passes_and_says_what_was_looked_at(sides):
    honest = sides(table(300), table(100, 1), target="y")
    assert_found(check_schema(honest), "pass", "4 columns")
    assert_found(check_labels(honest), "pass", "all 2 classes of valid")
    assert_found(duplicates.check_duplicates(honest), "pass", "0 of 100 rows", "0 with the same 'y'")
    assert_found(duplicates.check_conflicts(honest), "pass", "none is in train with another label")
    assert_found(check_near_duplicates(honest), "pass", "median distance")
    assert_found(together.check_groups(honest), "pass", "no --group")
    assert_found(together.check_time(honest), "pass", "no --time")
    assert_found(leak.check_target_leak(honest), "pass", "3 columns")
    assert_found(check_drift(honest, None, False)[0], "pass", "3 columns compared")
    assert_found(check_target_drift(honest, None, False), "pass", "'y'")


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        (lambda f: f.drop("b"), "fail", ["valid lacks 'b'"]),
        (lambda f: f.with_columns(z=pl.lit(1)), "warn", ["train lacks 'z'"]),
        (lambda f: f.drop("y"), "warn", ["valid lacks the target 'y'"]),
        (lambda f: f.with_columns(b=pl.lit("n/k")), "fail", ["'b' is numbers in train and text in valid"]),
        (lambda f: f.with_columns(pl.col("colour") + "."), "fail", ["'red.' of valid is 'red' of train"]),
        (lambda f: f.with_columns(pl.col("colour").str.to_uppercase()), "fail", ["but for case"]),
        (lambda f: f.with_columns((" " + pl.col("colour")).alias("colour")), "fail", ["but for blanks"]),
        (lambda f: f.with_columns(colour=pl.lit("mauve")), "warn", ["100 % of valid", "'mauve'"]),
        (lambda f: f.with_columns(a=pl.when(pl.col("a") > 0).then(None).otherwise("a")), "warn", ["'a' is missing in"]),
    ],
)  # fmt: skip
def test_schema(sides, change, verdict, words):
    assert_found(check_schema(sides(table(300), change(table(100, 1)), target="y")), verdict, *words)


def test_columns_that_say_the_same_are_named(sides):
    twins = [table(n, s).with_columns(code=pl.col("colour").str.len_chars()) for n, s in ((300, 0), (100, 1))]
    assert_found(check_schema(sides(*twins)), "pass", "colour and code")


def test_an_empty_column_has_no_type_of_its_own(sides):
    empty = table(100, 1).with_columns(b=pl.lit(None), colour=pl.lit(None))
    assert "numbers" not in check_schema(sides(table(300), empty)).detail


@pytest.mark.parametrize(
    ("label", "verdict", "words"),
    [
        ("yes.", "fail", ["'yes.' of valid is 'yes' of train", "trailing dot"]),
        ("Yes", "fail", ["case"]),
        ("maybe", "fail", ["never seen 'maybe'", "not in valid: 'yes'"]),
        ("no", "warn", ["not in valid: 'yes'"]),
    ],
)
def test_labels(sides, label, verdict, words):
    valid = table(100, 1).with_columns(y=pl.when(pl.col("y") == "yes").then(pl.lit(label)).otherwise("y"))
    assert_found(check_labels(sides(table(300), valid, target="y")), verdict, *words)


def test_one_row_of_a_rare_class_is_no_failure(sides):
    valid = table(200, 1).with_columns(y=pl.when(pl.int_range(200) == 7).then(pl.lit("rare")).otherwise("y"))
    assert_found(check_labels(sides(table(300), valid, target="y")), "warn", "'rare'")


def test_two_spellings_in_train_alone(sides):
    train = table(300).with_columns(y=pl.when(pl.int_range(300) < 9).then(pl.lit("NO")).otherwise("y"))
    assert_found(check_labels(sides(train, table(100, 1), target="y")), "fail", "'NO'", "'no'")


# --- copies ----------------------------------------------------------------------------------------------------------


def copied(change=lambda frame: frame, share: float = 0.3) -> tuple[pl.DataFrame, pl.DataFrame]:
    train, valid = table(300), table(100, 1)
    count = round(share * 100)
    return train, pl.concat([change(train[:count]), valid[count:]])


def test_copied_rows(sides):
    assert_found(
        duplicates.check_duplicates(sides(*copied(), target="y")), "fail", "30 of 100 rows", "30 with the same 'y'"
    )


def test_copies_with_another_label_are_conflicts(sides):
    flip = {"yes": "no", "no": "yes"}
    both = sides(*copied(lambda f: f.with_columns(pl.col("y").replace(flip))), target="y")
    assert_found(duplicates.check_duplicates(both), "fail", "30 of 100 rows", "0 with the same 'y'")
    assert_found(duplicates.check_conflicts(both), "fail", "30 of 100 rows", "another 'y'")


def test_copies_trimmed_and_rounded(sides):
    rough = sides(
        *copied(lambda f: f.with_columns(pl.col("a") * (1 + 1e-9), pl.col("colour").str.to_titlecase() + " "))
    )
    assert_found(duplicates.check_duplicates(rough), "fail", "0 of 100 rows of valid are in train", "30 once trimmed")


def test_an_id_does_not_hide_a_copy(sides):
    train, valid = copied()
    numbered = [f.with_columns(row_id=pl.int_range(s, s + f.height)) for f, s in ((train, 0), (valid, 5000))]
    assert_found(duplicates.check_duplicates(sides(*numbered)), "fail", "30 of 100 rows")


def test_repeats_of_a_table_of_few_values_are_no_copies(sides):
    few = pl.DataFrame({"a": np.arange(400) % 3, "b": np.arange(400) // 3 % 5})
    assert_found(duplicates.check_duplicates(sides(few[:300], few[300:])), "warn", "the table's own repeats")


def test_one_copy_is_a_warning(sides):
    assert_found(duplicates.check_duplicates(sides(*copied(share=0.01))), "warn", "1 of 100 rows")


def test_near_copies(sides):
    rng = np.random.default_rng(5)
    jitter = lambda f: f.with_columns(pl.col("a") + pl.Series(1e-3 * rng.normal(size=f.height)))  # noqa: E731
    near = sides(*copied(jitter))
    assert_found(duplicates.check_duplicates(near), "pass")
    assert_found(check_near_duplicates(near), "fail", "nearer to train")


# --- groups and time -------------------------------------------------------------------------------------------------


def patients(first: int, last: int, seed: int) -> pl.DataFrame:
    """Ten rows for each patient; a patient has a level, an age and a sex."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(first, last), 10)
    levels = np.random.default_rng(99).normal(size=(1000, 3))[who]
    names = [f"P{i:03}" for i in who]
    more = {"age": who * 7 % 20, "sex": (who % 2), "patient": names, "y": rng.choice(["no", "yes"], len(who))}
    noise = 0.1 * rng.normal(size=levels.shape)
    return pl.DataFrame({name: (levels + noise)[:, i] for i, name in enumerate("abc")} | more)


def test_groups_on_both_sides(sides):
    torn = sides(patients(0, 30, 0), patients(25, 40, 1), groups=["patient"])
    assert_found(
        together.check_groups(torn), "fail", "5 in both", "33 % of valid", "'P025'", "dlkit split --group patient"
    )
    whole = sides(patients(0, 30, 0), patients(30, 40, 1), groups=["patient"])
    assert_found(together.check_groups(whole), "pass", "30 values of 'patient' in train, 10 in valid, 0 in both")


def test_groups_nobody_named(sides):
    assert_found(
        together.check_groups(sides(patients(0, 30, 0), patients(0, 30, 1))), "warn", "'patient' looks like a group"
    )
    assert_found(together.check_groups(sides(patients(0, 30, 0), patients(30, 40, 1))), "pass", "keeps 'patient' whole")
    unnamed = [patients(0, 30, s).rename({"patient": "who"}) for s in (0, 1)]
    assert_found(together.check_groups(sides(*unnamed)), "warn", "'who' looks like a group")


def test_an_id_that_repeats_is_an_id(sides):
    named = sides(
        *(
            patients(a, b, 0).with_columns(patient_id=pl.col("patient").str.slice(1).cast(int))
            for a, b in ((0, 30), (30, 40))
        )
    )
    assert "patient_id" not in named.features


def dated(start: int, rows: int, seed: int) -> pl.DataFrame:
    days = pl.select(pl.datetime(2024, 1, 1) + pl.duration(hours=pl.int_range(start, start + rows))).to_series()
    return table(rows, seed, seen=days)


def test_time(sides):
    assert_found(
        together.check_time(sides(dated(0, 300, 0), dated(300, 99, 1), time="seen")),
        "pass",
        "2024-01-13 11:00 in train",
        "2024-01-13 12:00",
    )
    mixed = sides(dated(0, 300, 0), dated(250, 100, 1), time="seen")
    assert_found(together.check_time(mixed), "fail", "50 % of valid is not later", "dlkit split --time seen")
    assert_found(together.check_time(sides(dated(0, 300, 0), dated(250, 100, 1))), "warn", "'seen' looks like time")
    assert_found(
        together.check_time(sides(dated(0, 300, 0), dated(300, 99, 1))), "pass", "a split by time", "--time seen"
    )
    years = [table(n, n, year=2000 + np.arange(n) % 7) for n in (300, 100)]
    assert_found(together.check_time(sides(*years)), "warn", "'year' looks like time")


def test_time_that_is_text_is_refused(sides):
    with pytest.raises(DlkitError) as caught:
        together.check_time(sides(table(300), table(100, 1), time="colour"))
    assert caught.value.code == 65 and "colour" in caught.value.message


# --- leaks of the target ---------------------------------------------------------------------------------------------


def labelled(make) -> list[pl.DataFrame]:
    return [make(table(n, s)) for n, s in ((300, 0), (100, 1))]


def test_the_target_under_another_name(sides):
    alias = labelled(lambda f: f.with_columns(alive=pl.col("y").replace({"yes": "1x", "no": "0x"})))
    assert_found(
        leak.check_target_leak(sides(*alias, target="y")),
        "fail",
        "'alive' is the target under another name",
        "--drop alive",
    )


def test_numbers_that_no_float32_holds_are_looked_at_as_well():
    labels = np.arange(60) % 2
    assert leak.predicts(np.where(labels == 1, 1e40, -1e40), labels, True) == 1.0


def test_a_column_that_predicts_almost_alone(sides):
    rng = np.random.default_rng(0)
    near = labelled(
        lambda f: f.with_columns(score=(pl.col("y") == "yes").cast(float) + pl.Series(0.1 * rng.normal(size=f.height)))
    )
    assert_found(leak.check_target_leak(sides(*near, target="y")), "fail", "'score' alone predicts")
    some = labelled(
        lambda f: f.with_columns(score=(pl.col("y") == "yes").cast(float) + pl.Series(0.5 * rng.normal(size=f.height)))
    )
    assert_found(leak.check_target_leak(sides(*some, target="y")), "pass", "the most telling 'score'")


def test_a_function_of_the_target(sides):
    band = labelled(lambda f: f.with_columns(band=(pl.col("b") // 4).clip(0, 3).cast(pl.String)))
    assert_found(leak.check_target_leak(sides(*band, target="b")), "fail", "'band' is a function of the target")
    log = labelled(lambda f: f.with_columns(log=pl.col("b").log()))
    assert_found(leak.check_target_leak(sides(*log, target="b")), "fail", "'log' is a function of the target")
    units = labelled(lambda f: f.with_columns(cents=100 * pl.col("b") + 3))
    assert_found(leak.check_target_leak(sides(*units, target="b")), "fail", "'cents' is the target under another name")
    group = labelled(lambda f: f.with_columns(even=pl.col("colour").replace({"red": "x", "green": "x", "blue": "z"})))
    assert_found(leak.check_target_leak(sides(*group, target="colour")), "fail", "'even' is a function of the target")


def test_the_order_of_the_rows(sides):
    ordered = sides(table(300).sort("y"), table(100, 1), target="y")
    assert_found(leak.check_target_leak(ordered), "warn", "the order of train's rows predicts 'y'")


# --- drift -----------------------------------------------------------------------------------------------------------


def test_drift(sides):
    moved = sides(table(300), table(100, 1).with_columns(pl.col("a") + 2))
    finding, found = check_drift(moved, None, False)
    assert_found(finding, "fail", "1 of 3 columns differ: 'a' (KS 0.")
    assert {one.column for one in found} == {"a", "b", "colour"}
    assert check_drift(moved, None, True)[0].verdict == "warn"
    blue = sides(table(300), table(100, 1).with_columns(colour=pl.lit("blue")))
    assert_found(check_drift(blue, None, False)[0], "fail", "'colour' (shares 0.")


def test_target_drift(sides):
    rare = table(300, 1).filter((pl.col("y") == "yes") | (pl.int_range(300) % 5 == 0))
    assert_found(check_target_drift(sides(table(300), rare, target="y"), None, False), "fail", "'y' (shares 0.")
    high = sides(table(300), table(100, 1).with_columns(pl.col("b") + 9), target="b")
    assert_found(check_target_drift(high, None, False), "fail", "'b' (KS")


# --- the classifier --------------------------------------------------------------------------------------------------


def test_a_shift_is_told_with_its_column(sides):
    found = adversarial(sides(table(300), table(100, 1).with_columns(pl.col("a") + 4)))
    assert_found(found.finding, "fail", "`a` alone separates the sides: AUC 0.9", "300 + 100 rows", "3 columns")
    assert found.p_value < 0.001 and [one.name for one in found.columns] == ["a"]


def test_rows_copied_between_the_sides_make_an_auc_below_a_half(sides):
    found = adversarial(sides(table(200), table(200)))
    assert_found(found.finding, "fail", "rows are shared between the sides")
    assert found.finding.value < 0.35 and found.columns == ()


def test_too_few_rows_to_tell(sides):
    found = adversarial(sides(table(100), table(49, 1).with_columns(pl.col("a") + 9)))
    assert_found(found.finding, "skip", "too few rows to tell", "AUC 1.000")
    assert_found(adversarial(sides(table(100), table(1, 1))).finding, "skip", "too few rows to tell")


def test_fifty_rows_and_no_alarm(sides):
    found = adversarial(sides(table(200), table(50, 1)))
    assert found.finding.verdict == "pass" and found.separation.high - found.separation.low > 0.2


def test_sides_of_one_to_a_hundred(sides):
    found = adversarial(sides(table(6000), table(60, 1).with_columns(pl.col("b") + 20)))
    assert_found(found.finding, "fail", "`b`", "1,200 + 60 rows (drawn from 6,060)")


def test_ids_and_dates_are_judged_apart(sides):
    both = [
        f.with_columns(row_id=pl.int_range(s, s + f.height))
        for f, s in ((dated(0, 300, 3), 0), (dated(300, 100, 53), 300))
    ]
    found = adversarial(sides(*both), model="linear")
    assert_found(
        found.finding, "pass", "3 columns", "`seen` alone separates the sides: AUC 1.00; values of valid are all later"
    )
    assert {one.name for one in found.columns} == {"row_id", "seen"}
    alone = [f.select("row_id") for f in both]
    assert_found(adversarial(sides(*alone)).finding, "skip", "no column that varies", "`row_id`")


def test_a_split_by_time_is_expected_to_differ(sides):
    moved = sides(dated(0, 300, 0), dated(300, 100, 1).with_columns(pl.col("a") + 4), time="seen")
    assert together.is_later(moved)
    assert_found(adversarial(moved, later=True, model="linear").finding, "warn", "split by time")


def test_an_honest_split_of_groups(sides):
    """Rows of a patient know each other: by rows the sides are told apart, by groups they are not."""
    honest = patients(0, 30, 0), patients(30, 40, 1)
    by_rows = adversarial(sides(*(frame.drop("patient") for frame in honest)))
    assert by_rows.finding.verdict == "fail" and by_rows.separation.auc > 0.9
    named = sides(*honest, groups=["patient"])
    by_groups = adversarial(named, units_of([named.frame["patient"]]))
    assert by_groups.finding.verdict == "pass" and "whole groups" in by_groups.finding.detail


@pytest.mark.slow
def test_groups_that_differ_are_told_apart(sides):
    moved = sides(patients(0, 30, 0), patients(30, 40, 1).with_columns(pl.col("a") + 9), groups=["patient"])
    found = adversarial(moved, units_of([moved.frame["patient"]]))
    assert_found(found.finding, "fail", "`a`")
    assert found.p_value <= 0.05


@pytest.mark.parametrize("column", ["colour", "y"])
def test_groups_that_are_torn_leave_rows_to_be_judged(sides, column):
    torn = sides(table(150), table(60, 1), groups=[column])
    found = examine(torn, Settings(model="linear"), Engine(1))
    assert {one.check: one.verdict for one in found.findings}["groups"] == "fail"
    assert "whole groups" not in found.found.finding.detail


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_numbers_at_the_ends_of_floats(sides, scale):
    ends = [table(n, s).with_columns(pl.col("a") * scale) for n, s in ((150, 0), (60, 1))]
    found = examine(sides(*ends), Settings(model="linear"), Engine(1))
    assert all(one.verdict != "fail" for one in found.findings)


# --- images ----------------------------------------------------------------------------------------------------------


def pictures(count: int, seed: int, size: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (count, 3, 6, 6)).astype(float)
    grid = np.minimum(np.arange(size) * 6 // size, 5)
    return np.clip(coarse[:, :, grid][:, :, :, grid] + rng.normal(0, 3, (count, 3, size, size)), 0, 255).astype(
        np.uint8
    )


def photo_sides(tmp_path, train: np.ndarray, valid: np.ndarray):
    for name, x in (("train", train), ("valid", valid)):
        np.savez(tmp_path / f"{name}.npz", X=x, y=np.arange(len(x)) % 2)
    return open_sides(str(tmp_path / "train.npz"), str(tmp_path / "valid.npz"), Reading())


def test_images_that_look_the_same(tmp_path):
    train, valid = pictures(80, 0), pictures(60, 1)
    honest = photo_sides(tmp_path, train, valid)
    assert_found(images.check_same_looks(honest), "pass", "0 of 60 images")
    assert_found(duplicates.check_duplicates(honest), "pass", "0 of 60 images")
    lighter = np.clip(train[:9].astype(int) * 0.9 + 12, 0, 255).astype(np.uint8)
    found = images.check_same_looks(photo_sides(tmp_path, train, np.concatenate([lighter, valid])))
    assert_found(found, "fail", "9 of 69 images", "is like row")
    assert_found(
        duplicates.check_duplicates(photo_sides(tmp_path, train, np.concatenate([train[:5], valid]))), "fail", "5 of 65"
    )


def test_another_camera_is_told_by_its_brightness(tmp_path):
    train, valid = pictures(120, 0), (pictures(60, 1) * 0.6).astype(np.uint8)
    both = photo_sides(tmp_path, train, valid)
    seen = images.embedded(both, None)
    assert {"brightness", "contrast", "sharpness", "red", "pattern 1"} <= set(seen.features)
    found = adversarial(seen, model="linear")
    assert found.finding.verdict == "fail" and {"brightness", "contrast"} & {one.name for one in found.columns}


def test_the_mean_of_cells_is_exact():
    x = np.arange(2 * 3 * 6 * 4, dtype=float).reshape(2, 3, 6, 4)
    assert np.allclose(images.downsampled(x, 2).reshape(2, 3, 2, 2), x.reshape(2, 3, 2, 3, 2, 2).mean((3, 5)))
    assert np.allclose(images.downsampled(x, 8).reshape(2, 3, 8, 8).mean((2, 3)), x.mean((2, 3)))


def test_images_of_another_shape_are_refused(tmp_path):
    with pytest.raises(DlkitError, match="3x32x32 and 3x16x16"):
        photo_sides(tmp_path, pictures(8, 0), pictures(8, 1, 16))
