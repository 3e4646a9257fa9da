"""Text as numbers and back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlkit.core.errors import DlkitError, ExitCode
from dlkit.data.vocabulary import UNKNOWN, fit_vocabulary, vocabulary_from_json

SAMPLE = "the cat sat on the mat; the dog sat on the cat. Ünïcödé 😀\n" * 40
FORMS = ["char", "byte", "bpe:300"]


def fitted(form):
    if form.startswith("bpe"):
        pytest.importorskip("tokenizers")
    return fit_vocabulary(form, SAMPLE)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_encoded_comes_back(form):
    vocabulary = fitted(form)
    again = vocabulary_from_json(vocabulary.to_json(), "schema")
    for text in (SAMPLE, "the cat", ""):
        tokens = vocabulary.encode(text)
        assert tokens.dtype == "int32" and len(tokens) <= 4 * len(text)
        assert not len(tokens) or (tokens.min() >= 0 and tokens.max() < vocabulary.size)
        assert vocabulary.decode(tokens.tolist()) == text == again.decode(again.encode(text).tolist())


@settings(max_examples=100)
@given(st.text())
def test_any_text_survives_bytes_and_known_characters(text):
    known = fit_vocabulary("char", text + "x")
    assert known.decode(known.encode(text).tolist()) == text
    clean = text.encode("utf-8", "ignore").decode()
    assert fit_vocabulary("byte", "").decode(fit_vocabulary("byte", "").encode(clean).tolist()) == clean


def test_characters_that_training_has_not_seen_are_one_token():
    vocabulary = fit_vocabulary("char", "abc")
    assert vocabulary.size == 4
    assert vocabulary.encode("azc").tolist() == [1, 0, 3] and vocabulary.decode([1, 0, 3]) == f"a{UNKNOWN}c"


def test_pairs_are_fewer_than_bytes():
    assert len(fitted("bpe:300").encode(SAMPLE)) < 0.7 * len(fitted("byte").encode(SAMPLE))


@pytest.mark.parametrize("form", ["word", "bpe", "bpe:10", "bpe:1e3", "bpe:99999999", "char:3", ""])
def test_a_wrong_form_is_named(form):
    with pytest.raises(DlkitError, match="--vocab") as caught:
        fit_vocabulary(form, SAMPLE)
    assert caught.value.code == ExitCode.USAGE


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"kind": "word"}, {"kind": "char"}, {"kind": "char", "characters": "ba"},
     {"kind": "char", "characters": ""}, {"kind": "char", "characters": 3}, {"kind": ["char"]}],
)  # fmt: skip
def test_a_damaged_vocabulary_is_bad_data(data):
    with pytest.raises(DlkitError) as caught:
        vocabulary_from_json(data, "schema")
    assert caught.value.code == ExitCode.BAD_DATA


def test_a_damaged_model_of_pairs_is_bad_data():
    pytest.importorskip("tokenizers")
    with pytest.raises(DlkitError) as caught:
        vocabulary_from_json({"kind": "bpe", "model": {"version": "9"}}, "schema")
    assert caught.value.code == ExitCode.BAD_DATA
