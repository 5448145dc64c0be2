"""CLIP's byte-pair encoding: a text → the ids of its pieces.

A text is repaired, unescaped and put in lower case; words, digits and runs of other signs are taken apart, and the
bytes of each are joined pair by pair, first the pair that comes first in the list of merges. Source: Radford et al.
2021; byte pairs: Sennrich et al. 2016. OpenCLIP and OpenAI encode alike.
"""

from __future__ import annotations

import gzip
import html
import math
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise

from perturb.store.paths import resolve

MERGES = "package:weights/clip/merges.txt.gz"
START, END = 49406, 49407
SPELLED = {"<start_of_text>": START, "<end_of_text>": END}
"""What a text that spells an end is read as."""
CLOSES = "</w>"
"""Stands behind the last piece of a word."""
KEPT_WORDS = 2**16
"""Words whose ids are remembered: 15 MB."""


@dataclass(frozen=True)
class Vocabulary:
    """``letters`` of the 256 bytes · ``rank`` of a pair among the merges · ``ids`` of every piece."""

    letters: tuple[str, ...]
    rank: dict[tuple[str, str], int]
    ids: dict[str, int]


@cache
def vocabulary() -> Vocabulary:
    """Bytes that Latin-1 prints stand for themselves, the others for the characters from U+0100 on.

    Ids: 256 letters, printed ones first; the same at the end of a word; what every merge makes.
    """
    printed = [byte for byte in range(ord("!"), 256) if chr(byte).isprintable()]
    others = [byte for byte in range(256) if byte not in printed]
    letters = {byte: chr(byte) for byte in printed} | {byte: chr(256 + k) for k, byte in enumerate(others)}
    lines = gzip.decompress(resolve(MERGES).read_bytes()).decode().splitlines()
    merges = [(first, second) for first, second in (line.split(" ") for line in lines)]
    singles = list(letters.values())
    pieces = [*singles, *(letter + CLOSES for letter in singles), *(first + second for first, second in merges)]
    return Vocabulary(
        letters=tuple(letters[byte] for byte in range(256)),
        rank={pair: place for place, pair in enumerate(merges)},
        ids={piece: place for place, piece in enumerate(pieces)},
    )


def encode(text: str) -> list[int]:
    """The ids of a text, without start and end.

    >>> encode("A photo of a cat.")
    [320, 1125, 539, 320, 2368, 269]
    """
    import ftfy

    repaired = html.unescape(html.unescape(ftfy.fix_text(text)))
    return [i for word in _pattern().findall(" ".join(repaired.split()).lower()) for i in _ids(word)]


@cache
def _pattern():
    import regex  # knows letters and numbers of all scripts, which re does not

    ends = "|".join(SPELLED)
    return regex.compile(rf"{ends}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE)


@lru_cache(KEPT_WORDS)
def _ids(word: str) -> tuple[int, ...]:
    if word in SPELLED:
        return (SPELLED[word],)
    known = vocabulary()
    pieces = [known.letters[byte] for byte in word.encode()]
    pieces[-1] += CLOSES
    while len(pieces) > 1:
        best = min(pairwise(pieces), key=lambda pair: known.rank.get(pair, math.inf))
        if best not in known.rank:
            break
        pieces = _joined(pieces, best)
    return tuple(known.ids[piece] for piece in pieces)


def _joined(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """With every occurrence of the pair, from left to right, made one piece."""
    made: list[str] = []
    rest = iter(range(len(pieces)))
    for k in rest:
        if tuple(pieces[k : k + 2]) == pair:
            made.append("".join(pair))
            next(rest)
        else:
            made.append(pieces[k])
    return made
