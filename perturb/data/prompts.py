"""Prompt lists: what is sampled at every perturbation step of every model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perturb.data.captions import read_text
from perturb.data.tables import SUFFIXES, Table
from perturb.errors import UserError
from perturb.store.hashes import sha256
from perturb.store.paths import resolve
from perturb.structured import check_range

TEXT_COLUMNS = ("prompt", "caption", "text")
IMAGE_COLUMNS = ("image", "last_image")
COLUMNS = {"prompt": TEXT_COLUMNS, "id": ("id", "prompt_id"), **{name: (name,) for name in IMAGE_COLUMNS}}
LONGEST_ID = 200  # bytes: file names may have 255, and an id's gets "_s", the seed and ".npy"


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """A prompt file, if any, how many of its prompts to take (None: all), and the headings of an unusual table."""

    file: str | None = None
    limit: int | None = None
    columns: dict[str, str] | None = None

    def __post_init__(self) -> None:
        check_range("prompts.limit", self.limit, low=1)

    def load(self) -> "list[Prompt]":
        """The prompts of the file. Raises UserError as `load_prompts` does."""
        return load_prompts(str(self.file), self.limit, self.columns)


@dataclass(frozen=True)
class Prompt:
    """One prompt; ``id`` names its clips on disk and in scores.csv.

    ``images``: the files of its image, or of its first and its last frame; empty: it has none of its own.
    """

    id: str
    text: str
    images: tuple[str, ...] = ()

    def digests(self) -> list[str]:
        """SHA-256 of each of its images. Raises UserError for one that is not there."""
        missing = [file for file in self.images if not Path(file).is_file()]
        if missing:
            raise UserError(
                f"prompt {self.id} has no image file {missing[0]}: paths are relative to the table's folder"
            )
        return [sha256(Path(file)) for file in self.images]


def load_prompts(
    file: str | Path, limit: int | None = None, columns: Mapping[str, str | None] | None = None
) -> list[Prompt]:
    """The prompts of a ``.txt`` file (one per line), or of ``.csv`` or ``.jsonl`` (``prompt`` or ``caption``, ``id``).

    A table may give an ``image`` for each, and a ``last_image`` for interpolation, relative to its folder. Without ids,
    they are p000, p001, … in file order. ``columns``: see `Table`. Raises UserError for a missing or empty file, an
    empty or doubled entry, and an unusable id.
    """
    path = resolve(file)
    if limit is not None and limit < 1:
        raise UserError(f"prompts.limit must be at least 1 or null for all, but it is {limit}")
    if not path.is_file():
        raise UserError(f"no prompt file {path}: give one with prompts.file=/path/prompts.txt (one prompt per line)")
    prompts = _from_lines(path) if path.suffix.lower() == ".txt" else _from_table(path, columns)
    if not prompts:
        raise UserError(f"{path} holds no prompts: write one prompt per line")
    _check_ids(prompts, path)
    return prompts[:limit]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty. Raises UserError."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _from_lines(path: Path) -> list[Prompt]:
    return [Prompt(id=f"p{index:03d}", text=text) for index, text in enumerate(read_lines(path))]


def _from_table(path: Path, columns: Mapping[str, str | None] | None) -> list[Prompt]:
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} ends in {path.suffix!r}: allowed are .txt, .csv, .jsonl and .parquet")
    table = Table(path, COLUMNS, columns)
    rows = list(table.require("prompt").texts()) if len(table) else []
    # a prompt is one line: a csv cell of several has most likely swallowed the rows below its quote
    for row in rows if path.suffix.lower() == ".csv" else ():
        if "\n" in row["prompt"]:
            first, second = row["prompt"].splitlines()[:2]
            raise UserError(f"{path}: the prompt {first!r} goes on in the next line with {second!r}; close its quote")
    return [
        Prompt(id=row["id"] or f"p{index:03d}", text=row["prompt"], images=_images(row, path))
        for index, row in enumerate(rows)
    ]


def _images(row: Mapping[str, str], path: Path) -> tuple[str, ...]:
    first, last = (row[name] for name in IMAGE_COLUMNS)
    if last and not first:
        raise UserError(f"{path}: the prompt {row['prompt'][:40]!r} has a last_image and no image; give both")
    return tuple(str(path.parent / file) for file in (first, last) if file)


def _check_ids(prompts: list[Prompt], path: Path) -> None:
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise UserError(f"{path} gives the id {prompt.id!r} twice: ids name the clips and must differ")
        if len(prompt.id.encode()) > LONGEST_ID:
            raise UserError(
                f"{path} gives the id {prompt.id[:40]}…, too long for a file name: at most {LONGEST_ID} bytes"
            )
        if not all(character.isalnum() or character in "-_." for character in prompt.id) or prompt.id.startswith("."):
            raise UserError(f"{path} gives the id {prompt.id!r}: ids name files, use letters, digits, - _ and .")
        seen.add(prompt.id)
