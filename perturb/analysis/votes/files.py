"""The two files of a blind test: the key, written beside the page, and the votes that the page saves, one file a rater.

key     a row per clip: which run and state hides behind its name, and in which comparison it is first or second
votes   a row per vote: who saw which clip on which side, and chose which
"""

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from perturb.errors import UserError

ROLES = ("first", "second")
CHOICES = {"left": 1.0, "right": 0.0, "tie": 0.5}
"""What a vote says for the clip on the left."""
SHARED = ("comparison", "prompt_id", "seed")
SIDE = ("name", "run_id", "step")
"""What `Votes.pairs` tells of a pair, and of each of its sides."""
PARSERS: dict[Any, Callable[[str], Any]] = {int: int, float: float, str: str}


@dataclass(frozen=True)
class KeyRow:
    """One clip of a blind test. ``study`` names the page; ``role`` is first or second of the ``comparison``."""

    study: str
    question: str
    pair: str
    clip: str
    comparison: str
    role: str
    name: str
    run_id: str
    lora_seed: int
    step: int
    prompt_id: str
    seed: int


@dataclass(frozen=True)
class VoteRow:
    """One vote as the page writes it: ``choice`` left, right or tie; ``time`` ISO 8601; ``seconds`` since shown."""

    study: str
    rater: str
    pair: str
    left: str
    right: str
    choice: str
    time: str
    seconds: float

    @property
    def moment(self) -> datetime:
        """``time`` as a point in time. Raises ValueError."""
        return datetime.fromisoformat(self.time)


@dataclass(frozen=True)
class Votes:
    """All votes with what they were on, and every pair that could have been voted on.

    ``cast``: rater, pair, comparison, prompt_id, first (1: for the first side, 0: the second, ½: tie), left (for the
    clip on the left), seconds. ``pairs``, by name: comparison, prompt_id, seed; of both sides name, run_id, step.
    """

    question: str
    cast: pd.DataFrame
    pairs: pd.DataFrame
    replaced: int


def key_csv(rows: Iterable[KeyRow]) -> str:
    """The key as csv."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(KeyRow))
    writer.writerows(dataclasses.astuple(row) for row in rows)
    return buffer.getvalue()


def read_votes(files: Sequence[Path], key: Path) -> Votes:
    """Undo the blinding. Of several votes of a rater on a pair the last counts.

    Raises UserError for a file that is no such csv, votes of another page, and clips that the key does not have.
    """
    clips = {row.clip: row for row in _read(key, KeyRow)}
    pairs = _pairs(clips.values(), key)
    first = next(iter(clips.values()))
    latest: dict[tuple[str, str], VoteRow] = {}
    total = 0
    for file in files:
        for row in _read(file, VoteRow):
            _check(row, clips, first.study, file, key)
            known = latest.get((row.rater, row.pair))
            total += row != known  # the same line in two files is one vote
            if known is None or row.moment >= known.moment:
                latest[row.rater, row.pair] = row
    cast = pd.DataFrame([_undone(row, clips) for _, row in sorted(latest.items())])
    return Votes(first.question, cast, pairs, total - len(latest))


def _undone(row: VoteRow, clips: dict[str, KeyRow]) -> dict[str, object]:
    left = clips[row.left]
    for_left = CHOICES[row.choice]
    return {
        "rater": row.rater,
        "pair": row.pair,
        "comparison": left.comparison,
        "prompt_id": left.prompt_id,
        "first": for_left if left.role == ROLES[0] else 1 - for_left,
        "left": for_left,
        "seconds": row.seconds,
    }


def _pairs(rows: Iterable[KeyRow], key: Path) -> pd.DataFrame:
    """A row per pair, its two sides beside each other. Raises UserError unless each pair has both."""
    found: dict[str, dict[str, KeyRow]] = {}
    for row in rows:
        found.setdefault(row.pair, {})[row.role] = row
    for pair, sides in found.items():
        if set(sides) != set(ROLES):
            raise UserError(f"{key}: pair {pair} has {sorted(sides)} of {ROLES}. Use the key as it was written.")
    table = {
        pair: {what: getattr(sides["first"], what) for what in SHARED}
        | {f"{what}_{role}": getattr(side, what) for role, side in sides.items() for what in SIDE}
        for pair, sides in found.items()
    }
    return pd.DataFrame.from_dict(table, orient="index")


def _check(row: VoteRow, clips: dict[str, KeyRow], study: str, file: Path, key: Path) -> None:
    if row.study != study:
        raise UserError(
            f"{file} has votes on page {row.study!r}; {key} is the key of page {study!r}. Give the key that was "
            "written with the page."
        )
    shown = [clips[clip] for clip in (row.left, row.right) if clip in clips]
    if len({side.role for side in shown if side.pair == row.pair}) != len(ROLES):
        raise UserError(f"{file}: the clips {row.left!r} and {row.right!r} are no pair {row.pair!r} of {key}.")
    if row.choice not in CHOICES:
        raise UserError(f"{file}: pair {row.pair} has the choice {row.choice!r}; allowed: {tuple(CHOICES)}.")
    try:
        has_zone = row.moment.tzinfo is not None
    except ValueError:
        has_zone = False
    if not has_zone or not row.rater:
        raise UserError(f"{file}: pair {row.pair} has time {row.time!r} and rater {row.rater!r}; a vote has both.")


Kind = TypeVar("Kind", KeyRow, VoteRow)


def _read(path: Path, kind: type[Kind]) -> list[Kind]:
    """The rows of a csv file. Raises UserError for a file that is not there, has other columns, or has no row."""
    columns = [field.name for field in dataclasses.fields(kind)]
    if not path.is_file():
        raise UserError(f"{path} is not there; give the csv that was written by the page, and the key beside it.")
    with path.open(encoding="utf-8-sig", newline="") as file:  # a spreadsheet program may have put a mark in front
        reader = csv.DictReader(file)
        if reader.fieldnames is None or list(reader.fieldnames) != columns:
            raise UserError(f"{path} has the columns {reader.fieldnames}; allowed: {columns}, separated by commas.")
        rows = list(reader)
    if not rows:
        raise UserError(f"{path} has no rows: nobody voted, or the file was cut.")
    try:
        return [kind(*(PARSERS[field.type](row[field.name]) for field in dataclasses.fields(kind))) for row in rows]
    except (ValueError, TypeError) as error:  # TypeError: a line that ends too early
        raise UserError(
            f"{path} has a cell that is not of its column's type ({error}). Use the file as saved."
        ) from None
