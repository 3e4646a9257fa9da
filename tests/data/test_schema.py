"""The schema: fitted on training rows alone, the same after a round trip, and equal to scikit-learn's encoders."""

import copy
import datetime
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from dlkit.core.errors import DlkitError
from dlkit.core.reading import Reading
from dlkit.data import Schema, fit_schema, hold_out, load


def csv_of(columns: dict) -> str:
    return pl.DataFrame(columns).write_csv()


def mixed(n: int = 80, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    start = datetime.datetime(2024, 1, 1)
    return {
        "number": [None if i % 9 == 4 else round(float(v), 3) for i, v in enumerate(rng.normal(5, 3, n))],
        "colour": [None if i % 11 == 3 else str(c) for i, c in enumerate(rng.choice(["red", "green", "blue"], n))],
        "when": [(start + datetime.timedelta(hours=5 * i)).isoformat() for i in range(n)],
        "name": [f"name {i}" for i in range(n)],
        "y": [round(float(v), 3) for v in rng.normal(100, 20, n)],
    }


def fitted(write, columns: dict | None = None, **options):
    """(dataset, training rows, schema)."""
    dataset = load(write("a.csv", csv_of(columns or mixed())), Reading(target="y", **options))
    train = hold_out(dataset, valid=0.25).train
    return dataset, train, fit_schema(dataset, train)


def round_trip(schema: Schema) -> Schema:
    return Schema.from_json(json.loads(json.dumps(schema.to_json(), allow_nan=False)))


def test_features(write):
    dataset, train, schema = fitted(write)
    assert schema.features == (
        *("number", "number missing"),
        *("colour=blue", "colour=green", "colour=red", "colour missing"),
        *("when days", "when hour sin", "when hour cos", "when weekday sin", "when weekday cos"),
    )
    assert schema.input_shape == (11,) and schema.slices["colour"] == slice(2, 6)
    x = schema.inputs(dataset)
    assert x.shape == (80, 11) and x.dtype == np.float32 and np.isfinite(x).all() and x.flags.c_contiguous
    assert np.array_equal(schema.inputs(dataset, train), x[train])
    assert (x[:, 2:6].sum(1) == 1).all()
    assert x[4, :2].tolist() == [0, 1] and x[3, 5] == 1


def test_equal_to_scikit_learn(write):
    dataset, train, schema = fitted(write)
    x = schema.inputs(dataset)
    numbers = dataset.frame["number"].to_numpy()[:, None]
    scaled = StandardScaler().fit(numbers[train]).transform(numbers)
    np.testing.assert_allclose(x[:, :1], np.nan_to_num(scaled), rtol=1e-6)
    colours = dataset.frame["colour"].fill_null("~").to_numpy()[:, None]
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(colours[train]).transform(colours)
    assert np.array_equal(x[:, 2:6], one_hot)
    y = StandardScaler().fit(dataset.labels[train][:, None]).transform(dataset.labels[:, None])[:, 0]
    np.testing.assert_allclose(schema.targets(dataset), y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(schema.unscale(y), dataset.labels)


def test_dates_against_python(write):
    dataset, train, schema = fitted(write)
    x = schema.inputs(dataset)[:, schema.slices["when"]]
    for row in (0, 7, 33):
        moment = datetime.datetime.fromisoformat(mixed()["when"][row])
        hour, week = 2 * np.pi * moment.hour / 24, 2 * np.pi * moment.weekday() / 7
        np.testing.assert_allclose(x[row, 1:], [np.sin(hour), np.cos(hour), np.sin(week), np.cos(week)], atol=1e-6)
    days = np.array([i * 5 / 24 for i in range(80)])
    np.testing.assert_allclose(x[:, 0], (days - days[train].mean()) / days[train].std(), rtol=1e-4, atol=1e-6)


def test_dates_without_hours_have_no_feature_for_them(write):
    columns = mixed() | {"when": [f"2024-{m}-01" for m in ("01", "04", "07", "10")] * 20, "day": ["2024-01-01"] * 80}
    assert {f for f in fitted(write, columns)[2].features if f.startswith("when hour")} == set()


def test_only_training_rows_have_an_influence(write):
    """Whatever is done to the other rows, the schema stays as it is."""
    dataset, train, schema = fitted(write)
    rest = np.setdiff1d(np.arange(80), train)
    frame = dataset.frame.with_row_index("row").with_columns(
        [
            pl.when(pl.col("row").is_in(rest.tolist())).then(value).otherwise(pl.col(name)).alias(name)
            for name, value in (
                ("number", pl.lit(1e6)),
                ("colour", pl.lit("ultraviolet")),
                ("when", pl.lit(datetime.datetime(1900, 1, 1))),
            )
        ]
    )
    labels = dataset.labels.copy()
    labels[rest] = -1e9
    import dataclasses

    other = dataclasses.replace(dataset, frame=frame.drop("row").cast(dict(dataset.frame.schema)), labels=labels)
    assert fit_schema(other, train) == schema
    assert not schema.inputs(other, rest)[:, schema.slices["colour"]].any()


def test_round_trip(write):
    dataset, _, schema = fitted(write)
    again = round_trip(schema)
    assert again == schema and np.array_equal(again.inputs(dataset), schema.inputs(dataset))
    for name in ("iris", "digits"):
        dataset = load(name)
        schema = fit_schema(dataset, np.arange(0, dataset.rows, 2))
        assert round_trip(schema) == schema


def test_many_categories(write):
    values = [f"c{i:03}" for i in range(70) for _ in range(2 + (i < 64))] + ["c069"] * 5
    columns = {"c": values, "y": [i % 2 for i in range(len(values))]}
    dataset = load(write("a.csv", csv_of(columns)), Reading(target="y"))
    schema = fit_schema(dataset, np.arange(dataset.rows))
    assert len(schema.features) == 65 and "c=c069" in schema.features and schema.features[-1] == "c other"
    x = schema.inputs(dataset)
    assert (x.sum(1) == 1).all() and x[:, -1].sum() == 3 + 5 * 2
    unseen = load(write("b.csv", csv_of({"c": ["zzz", "zzz", "c000", "c000"], "y": [0, 1, 1, 0]})), Reading(target="y"))
    assert schema.inputs(unseen).argmax(1).tolist() == [64, 64, 0, 0]


def test_a_column_without_information_on_the_training_side_is_left_out(write):
    columns = mixed() | {"flat": [1.0] * 79 + [2.0], "word": ["a"] * 79 + ["b"], "gap": [7.0] * 40 + [None] * 40}
    dataset = load(write("a.csv", csv_of(columns)), Reading(target="y", categorical=["word"]))
    schema = fit_schema(dataset, np.arange(79))
    assert not {"flat", "word=a"} & set(schema.features)
    gap = schema.inputs(dataset)[:, schema.slices["gap"]]
    assert gap[0].tolist() == [0, 0] and gap[-1].tolist() == [0, 1]


def test_columns_are_found_by_name(write, tmp_path):
    dataset, _, schema = fitted(write)
    columns = mixed()
    shuffled = {name: columns[name] for name in sorted(columns, reverse=True)} | {"new": [1, 2] * 40}
    other = load(write("b.csv", csv_of(shuffled)), Reading(target="y"))
    assert np.array_equal(schema.inputs(other), schema.inputs(dataset))
    del columns["number"]
    with pytest.raises(DlkitError, match="no column 'number'") as caught:
        schema.inputs(load(write("c.csv", csv_of(columns)), Reading(target="y")))
    assert caught.value.code == 65


def test_a_cell_that_training_would_not_have_read_is_named(write):
    _, _, schema = fitted(write)
    for name, value in (("number", "many"), ("when", "yesterday")):
        columns = {k: v[:6] for k, v in mixed().items()}
        columns[name] = [str(v) if v is not None else None for v in columns[name]]
        columns[name][3] = value
        dataset = load(write("b.csv", csv_of(columns)), Reading(target="y"))
        for rows in (None, np.array([5, 3, 1])):
            with pytest.raises(DlkitError, match=f"line 5, column '{name}': '{value}' is not a ") as caught:
                schema.inputs(dataset, rows)
            assert caught.value.code == 65


def test_types_that_can_be_read_as_trained_are(write):
    codes = {"code": [1, 2, 3, 3] * 10, "y": [0.5 * i for i in range(40)]}
    dataset = load(write("a.csv", csv_of(codes)), Reading(target="y", categorical=["code"]))
    schema = fit_schema(dataset, np.arange(40))
    plain = load(write("a.csv", csv_of(codes)), Reading(target="y"))
    assert plain.frame["code"].dtype == pl.Float64
    assert np.array_equal(schema.inputs(plain), schema.inputs(dataset))
    _, _, schema = fitted(write)
    columns = {k: v[:6] for k, v in mixed().items()} | {"number": [None] * 6, "when": [None] * 6}
    x = schema.inputs(load(write("b.csv", csv_of(columns)), Reading(target="y", categorical=["colour"])))
    assert (x[:, 1] == 1).all() and not x[:, schema.slices["when"]].any()


def test_classes_are_matched_by_name(write):
    dataset = load(write("a.csv", csv_of({"x": [1, 2, 3, 4, 5, 6], "y": ["a", "b", "c"] * 2})))
    schema = fit_schema(dataset, np.arange(6))
    part = load(write("b.csv", csv_of({"x": [1, 2, 3], "y": ["c", "b", "c"]})))
    assert part.labels.tolist() == [1, 0, 1] and schema.targets(part).tolist() == [2, 1, 2]
    unknown = load(write("c.csv", csv_of({"x": [1, 2, 3], "y": ["c", "d", "c"]})))
    with pytest.raises(DlkitError, match="'d'"):
        schema.targets(unknown)
    with pytest.raises(DlkitError, match="regression"):
        schema.targets(load(write("d.csv", csv_of({"x": [1, 2, 3], "y": [0.5, 0.7, 0.9]}))))


def test_images():
    digits, iris = load("digits"), load("iris")
    rows = np.arange(0, digits.rows, 3)
    schema = fit_schema(digits, rows)
    pixels = digits.arrays[rows].astype(float)
    np.testing.assert_allclose([schema.pixel_mean[0], schema.pixel_std[0]], [pixels.mean(), pixels.std()])
    assert schema.input_shape == (1, 8, 8) and schema.features == ()
    assert np.array_equal(schema.inputs(digits, rows), digits.arrays[rows]) and schema.inputs(digits).dtype == np.uint8
    for wrong, other in ((iris, schema), (digits, fit_schema(iris, np.arange(150)))):
        with pytest.raises(DlkitError) as caught:
            other.inputs(wrong)
        assert caught.value.code == 65


def test_float_images(write, tmp_path):
    x = np.random.default_rng(0).normal(3, 2, (3000, 2, 4, 5)).astype(np.float32)
    x[:, 1] = 5
    np.savez(tmp_path / "a.npz", X=x, y=np.arange(3000) % 3)
    schema = fit_schema(load(str(tmp_path / "a.npz")), np.arange(2500))
    np.testing.assert_allclose(schema.pixel_mean, [x[:2500, 0].mean(dtype=float), 5], rtol=1e-6)
    np.testing.assert_allclose(schema.pixel_std, [x[:2500, 0].std(dtype=float), 1], rtol=1e-6)


def paths(value, at=()):
    """Every place in a JSON value."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*at, key))


def replaced(value, at, new):
    value = copy.deepcopy(value)
    if not at:
        return new
    place = value
    for key in at[:-1]:
        place = place[key]
    place[at[-1]] = new
    return value


WRONG = [None, True, -1, 0, 1e400, float("nan"), 10**400, "x", "", [], {}, [1], ["a", "a"], {"kind": "numeric"}]


def test_a_touched_schema_is_read_the_same_or_refused(write):
    """Any part replaced by anything: bad data, or a schema that writes itself as it was read."""
    _, _, table = fitted(write)
    refused = 0
    for good in (table.to_json(), fit_schema(load("digits"), np.arange(99)).to_json()):
        for at in paths(good):
            for new in WRONG:
                data = replaced(good, at, new)
                try:
                    assert Schema.from_json(data).to_json() == data
                except DlkitError as error:
                    assert error.code == 65
                    refused += 1
    assert refused > 700


@pytest.mark.parametrize("extra", [("junk",), ("columns", 0, "junk")])
def test_nothing_is_ignored(write, extra):
    data = replaced(fitted(write)[2].to_json(), extra, 1)
    with pytest.raises(DlkitError, match="junk"):
        Schema.from_json(data)


@given(st.lists(st.floats(-1e300, 1e300) | st.none(), min_size=4, max_size=30))
@settings(max_examples=150, deadline=None)
def test_any_numbers_become_finite_features_or_bad_data(values):
    import dataclasses

    from dlkit.data.roles import describe

    series = pl.Series("x", values, dtype=pl.Float64)
    dataset = load("iris")
    dataset = dataclasses.replace(
        dataset,
        frame=pl.DataFrame([series]),
        columns=(describe(series, True),),
        labels=dataset.labels[: len(values)],
    )
    try:
        schema = fit_schema(dataset, np.arange(len(values) // 2, len(values)))
    except DlkitError as error:
        assert error.code == 65
        return
    x = schema.inputs(dataset)
    assert np.isfinite(x).all() and round_trip(schema) == schema
