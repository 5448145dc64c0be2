"""Tables of files and texts: csv with a header, one JSON object per line, or parquet; rows are read when wanted.

A heading names a column, or with dots a value within: ``Task2.Caption``. Of a table only the places of its rows are
kept, so that one of millions of rows opens in seconds and takes little memory.
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from perturb.data.source import BrokenSample
from perturb.data.table_files import Csv, Jsonl, Parquet, Row, reason
from perturb.errors import UserError

SUFFIXES = (".csv", ".jsonl", ".parquet")
CHECKED = 20_000  # rows that are read at the start; they take half a second


class Table:
    """The rows of a table file by their number.

    ``wanted``: name → the headings it may have, of which each row's first that is not empty is taken. ``columns``: name
    → the only heading it has, given by the user, null: any of them. The quotes of a csv file are followed to its end;
    what stands in a row is looked at in up to `CHECKED` of them, in even distances. UserError, with the line, for one
    that cannot be read; what is found later is a BrokenSample.
    """

    def __init__(
        self,
        path: Path,
        wanted: Mapping[str, Sequence[str]],
        columns: Mapping[str, str | None] | None = None,
    ) -> None:
        if not path.is_file():
            raise UserError(f"no table {path}: give a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path} ends in {path.suffix!r}: allowed are .csv, .jsonl and .parquet")
        self.path, self.required = path, ()
        self.wanted = {name: tuple(headings) for name, headings in wanted.items()} | _named(columns, wanted)
        kinds = {".csv": Csv, ".jsonl": Jsonl, ".parquet": Parquet}
        try:
            self._rows = kinds[path.suffix.lower()](path, {h for group in self.wanted.values() for h in group})
            self.sha256 = self._rows.sha256
            self._look()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> dict[str, str]:
        """The wanted texts of a row, an empty one where it has none. Raises BrokenSample, with its line."""
        try:
            row = self._rows.read(number)
            texts = {name: _first(row, headings) for name, headings in self.wanted.items()}
            lacking = [name for name in self.required if not texts[name]]
            if lacking:
                raise ValueError(f"has no {lacking[0]}; it has {', '.join(row) or 'nothing'}")
        except (ValueError, csv.Error, RecursionError, OSError) as error:
            raise BrokenSample(f"{self.path}, {self._rows.place(number)}", reason(error)) from None
        return texts

    def column(self, *names: str, made: Callable[..., str] | None = None) -> "Column":
        """The texts of one name; of several, what ``made`` makes of them."""
        return Column(self, names, made or str)

    def texts(self) -> Iterator[dict[str, str]]:
        """All rows. Raises UserError for one that cannot be read."""
        return (self.row(number) for number in range(len(self)))

    def has(self, name: str) -> bool:
        """Whether the table gives this at all: its header does, or any row that is looked at."""
        return any(heading in self.headings for heading in self.wanted[name])

    def require(self, *names: str) -> "Table":
        """The table itself, where every row that is looked at has these; for the others it is seen when they are read.

        Raises UserError.
        """
        if not len(self):
            raise UserError(f"{self.path} holds no rows below its headings ({', '.join(self._rows.shown())})")
        for name in names:
            if not self.has(name):
                options, found = " or ".join(self.wanted[name]), ", ".join(self._rows.shown())
                raise UserError(f"{self.path} has no column {options}; it has {found}: name one with columns.{name}=…")
            if places := self._lacking[name]:
                found = f"{len(places)} of {self._looked} rows of {self.path} have no {name}"
                raise UserError(f"{found}, e.g. {', '.join(places[:3])}: fill them in or take them out")
        self.required = names
        return self

    def _look(self) -> None:
        """Find out what the table has, and which rows lack something."""
        count = len(self)
        looked_at = range(count) if count <= CHECKED else np.linspace(0, count - 1, CHECKED).astype(int).tolist()
        self.headings, self._looked = set(self._rows.header), len(looked_at)
        self._lacking: dict[str, list[str]] = {name: [] for name in self.wanted}
        for number in looked_at:
            try:
                row = self._rows.read(number)
                texts = {name: _first(row, headings) for name, headings in self.wanted.items()}
            except (ValueError, csv.Error, RecursionError) as error:
                raise UserError(f"{self.path}, {self._rows.place(number)} {reason(error)}") from None
            for name, text in texts.items():
                self.headings.update(h for h in self.wanted[name] if _inside(row, h) is not None)
                if not text:
                    self._lacking[name].append(self._rows.place(number))


class Column(Sequence[str]):
    """Texts of a table's rows, read when wanted. Raises BrokenSample for a row that cannot be read."""

    def __init__(self, table: Table, names: Sequence[str], made: Callable[..., str]) -> None:
        self.table, self.names, self.made = table, names, made

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        row = self.table.row(range(len(self))[index])
        return self.made(*(row[name] for name in self.names))


def _named(columns: Mapping[str, str | None] | None, wanted: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The headings that a user names, each the only one of its column; those that are null are left open."""
    given = {name: heading for name, heading in (columns or {}).items() if heading is not None}
    for name, heading in given.items():
        if name not in wanted or not isinstance(heading, str):
            raise UserError(f"columns.{name}={heading!r}; allowed: a heading for {', '.join(wanted)}")
    return {name: (heading,) for name, heading in given.items()}


def _first(row: Row, headings: Sequence[str]) -> str:
    """The first text of a row under one of these headings that is not empty."""
    for heading in headings:
        value = _inside(row, heading)
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            raise ValueError(f"has {type(value).__name__} {str(value)[:40]!r} under {heading!r}, where a text belongs")
        if text := "" if value is None else str(value).strip():
            text.encode()  # half a surrogate pair, which JSON can hold, is no text: a ValueError
            return text
    return ""


def _inside(row: Row, heading: str) -> Any:
    """What lies under a heading, or under the parts of it one in the other."""
    if heading in row:
        return row[heading]
    found: Any = row
    for part in heading.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found
