"""CLIP's byte-pair encoding: a text → the ids of its pieces.

A text is repaired, unescaped and put in lower case; words, digits and runs of other signs are taken apart, and the
bytes of each are joined pair by pair, first the pair that comes first in the list of merges. Source: Radford et al.
2021; byte pairs: Sennrich et al. 2016. OpenCLIP and OpenAI encode alike.
"""

import gzip
import html
from functools import cache

import regex  # knows the letters and numbers of more scripts than re and tokenizers do
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from perturb.store.paths import resolve

MERGES = "package:weights/clip/merges.txt.gz"
START, END = 49406, 49407
SPELLED = ("<start_of_text>", "<end_of_text>")
"""What a text that spells an end is read as: these two ids."""
CLOSES = "</w>"
"""Stands behind the last piece of a word."""
WORDS = regex.compile(
    rf"{'|'.join(SPELLED)}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)


def encode(text: str) -> list[int]:
    """The ids of a text, without start and end.

    >>> encode("A photo of a cat.")
    [320, 1125, 539, 320, 2368, 269]
    """
    import ftfy

    repaired = html.unescape(html.unescape(ftfy.fix_text(text)))
    words = WORDS.findall(" ".join(repaired.split()).lower())
    return pairs().encode(words, is_pretokenized=True, add_special_tokens=False).ids


@cache
def pairs() -> Tokenizer:
    """Words → ids, in this order: letters of the 256 bytes, the same at the end of a word, what every merge makes."""
    lines = gzip.decompress(resolve(MERGES).read_bytes()).decode().splitlines()
    merges = [(first, second) for first, second in (line.split(" ") for line in lines)]
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(letter + CLOSES for letter in letters), *map("".join, merges), *SPELLED]
    made = Tokenizer(BPE({piece: place for place, piece in enumerate(pieces)}, merges, end_of_word_suffix=CLOSES))
    made.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    made.add_special_tokens(list(SPELLED))
    return made
