"""The words of --augment."""

import pytest

from dlkit.core.augment import Augment, parse_augment
from dlkit.core.errors import DlkitError


def test_words_and_numbers():
    said = parse_augment("flip,crop:4,color:0.2,mixup:0.2")
    assert said == Augment(flip=True, crop=4, color=0.2, mixup=0.2) and said.mixes
    assert not parse_augment("vflip, resize:0.5").mixes


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("flop", "did you mean 'flip'"),
        ("", "''"),
        ("flip,flip", "twice"),
        ("flip:2", "takes no number"),
        ("crop", "pixels"),
        ("crop:-1", "pixels"),
        ("crop:1e99", "pixels"),
        ("resize:0", "above 0"),
        ("resize:1.5", "up to 1"),
        ("color:nan", "above 0"),
        ("mixup", "above 0"),
        ("mixup:inf", "up to 100"),
        ("crop:4,resize:0.5", "one of them"),
    ],
)
def test_a_wrong_word_is_named(text, word):
    with pytest.raises(DlkitError) as caught:
        parse_augment(text)
    assert word in f"{caught.value.message} {caught.value.hint}" and caught.value.code == 2
