"""CLIP's ids: those that CLIP's papers and models are known by, and what the repair of texts does to them.

Equality with the published tokenizer: tests/parity.
"""

import pytest

from perturb.models.videocrafter import byte_pairs
from perturb.models.videocrafter.byte_pairs import END, START, encode, vocabulary
from perturb.models.videocrafter.tokenizer import ClipTokenizer


def test_the_vocabulary_is_that_of_clip():
    ids = vocabulary().ids
    assert len(ids) == START == 49406
    assert (ids["!"], ids["!</w>"], ids["in"], ids["in</w>"], ids["th"]) == (0, 256, 512, 530, 513)
    assert sorted(ids.values()) == list(range(START))
    assert sorted(map(ord, vocabulary().letters))[:3] == [33, 34, 35]
    assert len(set(vocabulary().letters)) == 256


def test_pairs_are_joined_in_the_order_of_the_merges():
    assert byte_pairs._joined(["a", "a", "a", "b"], ("a", "a")) == ["aa", "a", "b"]
    known = vocabulary()
    word = encode("unperturbed")
    pieces = [piece for i in word for piece, place in known.ids.items() if place == i]
    assert "".join(pieces) == "unperturbed</w>"
    assert len(word) > 1


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("A  Cat\n", "a cat"),
        ("it’s “fine”", 'it\'s "fine"'),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("Ａ ﬁg", "a fig"),
        ("schÃ¶n", "schön"),
    ],
)
def test_a_text_is_repaired_first(text: str, same: str):
    assert encode(text) == encode(same)
    assert encode(text) != encode(text + " x")


def test_words_digits_and_signs_are_taken_apart():
    assert encode("4k") == encode("4") + encode("k")
    assert encode("12") == encode("1") + encode("2")
    assert encode("can't stop!!") == [i for part in ("can", "'t", "stop", "!!") for i in encode(part)]
    assert encode("½ 日本") == encode("½") + encode("日本")


def test_a_text_may_spell_an_end_and_is_padded_behind_its_own():
    assert encode("<end_of_text> cat") == [END, *encode("cat")]
    row = ClipTokenizer(6, pad=END)(["! <end_of_text>"])[0].tolist()
    assert row == [START, 256, END, END, END, END]
    assert ClipTokenizer(6)(["! <end_of_text>"])[0].tolist() == [START, 256, END, END, 0, 0]
    assert ClipTokenizer(4)(["a photo of a cat"])[0].tolist() == [START, 320, 1125, END]
    assert ClipTokenizer(4)([]).shape == (0, 4)
