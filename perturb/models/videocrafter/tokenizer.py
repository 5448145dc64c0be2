"""Prompts to token ids. Axes: b batch, l tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from perturb.errors import UserError
from perturb.models.videocrafter import byte_pairs
from perturb.models.videocrafter.spec import TextSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer as WordTokenizer

LOG = logging.getLogger(__name__)
START, END, PAD, UNKNOWN = "<start>", "<end>", "<pad>", "<unk>"


class Tokenizer(Protocol):
    """Prompts → ids ``b l`` (int64); every row has the same fixed length l."""

    def __call__(self, prompts: Sequence[str]) -> Tensor: ...


class ClipTokenizer:
    """CLIP's byte-pair encoding: start 49406, end 49407, then ``pad``; over-long texts are cut, their last id 49407.

    The first text that is cut, a caption say, is warned of. Source: OpenCLIP's, which VideoCrafter uses, pads with 0;
    OpenAI's, which Stable Diffusion 1 uses, with 49407.
    """

    def __init__(self, tokens: int = 77, pad: int = 0) -> None:
        self.tokens, self.pad, self.warned = tokens, pad, False

    @staticmethod
    def of(spec: TextSpec) -> ClipTokenizer:
        """The one that the encoder was trained with."""
        return ClipTokenizer(spec.tokens, byte_pairs.END if spec.origin == "openai" else 0)

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        rows = [[byte_pairs.START, *byte_pairs.encode(prompt), byte_pairs.END] for prompt in prompts]
        cut = [prompt for prompt, row in zip(prompts, rows, strict=True) if len(row) > self.tokens]
        if cut and not self.warned:
            self.warned = True
            words = "a text is longer than the %d tokens that the model reads; the rest of it is left out, as of any "
            LOG.warning(words + "other like it: %s…", self.tokens, cut[0][:60])
        ids = torch.full((len(rows), self.tokens), self.pad)
        for place, row in enumerate(rows):
            kept = row if len(row) <= self.tokens else [*row[: self.tokens - 1], byte_pairs.END]
            ids[place, : len(kept)] = torch.tensor(kept)
        return ids

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        """How many ids each prompt needs, start and end included."""
        return [len(byte_pairs.encode(prompt)) + 2 for prompt in prompts]


class FileTokenizer:
    """One id per word, from a ``tokenizer.json`` of the ``tokenizers`` library (a WordLevel vocabulary).

    <start> words <end> <pad> … up to ``tokens`` ids. Raises UserError for words outside the vocabulary and for prompts
    that are too long: a small model has no meaning for them, and cutting in silence would change the experiment.
    """

    def __init__(self, path: str | Path, tokens: int) -> None:
        from tokenizers import Tokenizer as WordTokenizer

        if not Path(path).is_file():
            raise UserError(f"tokenizer file {path} does not exist")
        self._setup(WordTokenizer.from_file(str(path)), tokens)

    @classmethod
    def from_words(cls, words: Iterable[str], tokens: int) -> FileTokenizer:
        """A tokenizer that knows exactly ``words`` (lower case; ids in their order, after the four special ones)."""
        from tokenizers import Tokenizer as WordTokenizer
        from tokenizers import models, normalizers, pre_tokenizers

        names = [PAD, START, END, UNKNOWN, *dict.fromkeys(word.lower() for word in words)]
        vocabulary = {name: i for i, name in enumerate(names)}
        inner = WordTokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        inner.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer = cls.__new__(cls)
        tokenizer._setup(inner, tokens)
        return tokenizer

    def _setup(self, inner: WordTokenizer, tokens: int) -> None:
        self.inner, self.tokens = inner, tokens
        special = {name: inner.token_to_id(name) for name in (START, END, PAD, UNKNOWN)}
        absent = [name for name, i in special.items() if i is None]
        if absent:
            raise UserError(f"the tokenizer file lacks the special words {', '.join(absent)}")
        self.start, self.end, self.pad, self.unknown = special.values()

    @property
    def vocabulary(self) -> list[str]:
        """The words a prompt may use, sorted."""
        return sorted(set(self.inner.get_vocab()) - {START, END, PAD, UNKNOWN})

    def save(self, path: str | Path) -> None:
        """Writes the ``tokenizer.json`` that the constructor reads."""
        self.inner.save(str(path))

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([self._row(prompt) for prompt in prompts], dtype=torch.long).reshape(-1, self.tokens)

    def _row(self, prompt: str) -> list[int]:
        encoding = self.inner.encode(prompt, add_special_tokens=False)
        special = {self.unknown, self.start, self.end, self.pad}
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        strange = [prompt[begin:end] for i, (begin, end) in spans if i in special]
        if strange:
            raise UserError(
                f"prompt {prompt!r} has words this model does not know: {', '.join(dict.fromkeys(strange))}; "
                f"it knows: {', '.join(self.vocabulary)}"
            )
        ids = [self.start, *encoding.ids, self.end]
        if len(ids) > self.tokens:
            raise UserError(
                f"prompt {prompt!r} has {len(encoding.ids)} words; this model reads at most {self.tokens - 2}"
            )
        return ids + [self.pad] * (self.tokens - len(ids))


def check_lengths(tokenizer: Tokenizer, prompts: Mapping[str, str]) -> None:
    """Warn of prompts (id → text) of which the model reads but the beginning; UserError where two have the same one."""
    if not isinstance(tokenizer, ClipTokenizer) or not prompts:
        return  # others refuse what is too long
    lengths = tokenizer.lengths(list(prompts.values()))
    cut = [name for name, length in zip(prompts, lengths, strict=True) if length > tokenizer.tokens]
    if not cut:
        return
    tokenizer.warned = True  # of all of them, below
    rows = dict(zip(prompts, map(tuple, tokenizer(list(prompts.values())).tolist()), strict=True))
    first: dict[tuple[int, ...], str] = {}
    for name, row in rows.items():
        other = first.setdefault(row, name)
        if {name, other} & set(cut) and prompts[other] != prompts[name]:
            raise UserError(
                f"the prompts {other} and {name} differ only beyond the {tokenizer.tokens} tokens that the model "
                "reads: shorten them, or leave one out"
            )
    LOG.warning(
        "%d of %d prompts are longer than the %d tokens that the model reads; the rest of them is left out: %s",
        *(len(cut), len(prompts), tokenizer.tokens, ", ".join(cut[:5])),
    )
