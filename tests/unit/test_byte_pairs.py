"""CLIP's ids: those that CLIP's papers and models are known by, and what the repair of texts does to them.

Equality with the published tokenizer: tests/parity.
"""

import pytest

from perturb.models.videocrafter.byte_pairs import END, START, encode, pairs
from perturb.models.videocrafter.tokenizer import ClipTokenizer


def test_the_vocabulary_is_that_of_clip():
    ids = pairs().get_vocab()
    assert (ids["<start_of_text>"], ids["<end_of_text>"]) == (START, END) == (49406, 49407)
    assert (ids["!"], ids["!</w>"], ids["in"], ids["in</w>"], ids["th"]) == (0, 256, 512, 530, 513)
    assert sorted(ids.values()) == list(range(END + 1))


def test_what_is_joined_is_the_word_again():
    word = encode("unperturbed")
    assert "".join(str(pairs().id_to_token(piece)) for piece in word) == "unperturbed</w>"
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
