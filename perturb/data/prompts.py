"""Prompt lists: what is sampled at every perturbation step of every model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from perturb.data.tables import read_table
from perturb.errors import UserError
from perturb.store.paths import resolve
from perturb.structured import check_range

TEXT_COLUMNS = ("prompt", "caption", "text")


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """A prompt file, if any, and how many of its prompts to take (None: all)."""

    file: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        check_range("prompts.limit", self.limit, low=1)


@dataclass(frozen=True)
class Prompt:
    """One prompt; ``id`` names its clips on disk and in scores.csv."""

    id: str
    text: str


def load_prompts(file: str | Path, limit: int | None = None) -> list[Prompt]:
    """The prompts of a ``.txt`` file (one per line), or of ``.csv`` or ``.jsonl`` (``prompt`` or ``caption``, ``id``).

    Without ids, they are p000, p001, … in file order. Raises UserError for a missing or empty file, an empty or doubled
    entry, and an unusable id.
    """
    path = resolve(file)
    if limit is not None and limit < 1:
        raise UserError(f"prompts.limit must be at least 1 or null for all, but it is {limit}")
    if not path.is_file():
        raise UserError(f"no prompt file {path}: give one with prompts.file=/path/prompts.txt (one prompt per line)")
    prompts = _from_lines(path) if path.suffix == ".txt" else _from_table(path)
    if not prompts:
        raise UserError(f"{path} holds no prompts: write one prompt per line")
    _check_ids(prompts, path)
    return prompts[:limit]


def _from_lines(path: Path) -> list[Prompt]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from None
    texts = [line.strip() for line in lines if line.strip()]
    return [Prompt(id=f"p{index:03d}", text=text) for index, text in enumerate(texts)]


def _from_table(path: Path) -> list[Prompt]:
    prompts = []
    for index, row in enumerate(read_table(path)):
        text = next((row[column].strip() for column in TEXT_COLUMNS if row.get(column, "").strip()), "")
        if not text:
            raise UserError(
                f"{path}, entry {index + 1} has no prompt: it needs 'prompt' (or 'caption'); found {sorted(row)}"
            )
        prompts.append(Prompt(id=row.get("id", "").strip() or f"p{index:03d}", text=text))
    return prompts


def _check_ids(prompts: list[Prompt], path: Path) -> None:
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise UserError(f"{path} gives the id {prompt.id!r} twice: ids name the clips and must differ")
        if not all(character.isalnum() or character in "-_." for character in prompt.id) or prompt.id.startswith("."):
            raise UserError(f"{path} gives the id {prompt.id!r}: ids name files, use letters, digits, - _ and .")
        seen.add(prompt.id)
