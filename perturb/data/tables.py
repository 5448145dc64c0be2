"""Tables of files and texts: csv with a header, one JSON object per line, or parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from perturb.errors import UserError


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a ``.csv`` or ``.jsonl`` file as text. Raises UserError naming the line that cannot be read."""
    return list(iterate_table(path))


def read_columns(path: Path, wanted: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Columns of a ``.csv``, ``.jsonl`` or ``.parquet`` file as texts, an empty text where a cell is empty.

    ``wanted``: name → the headings it may have in the file, the first one found is read; names that the file does not
    have are absent from the result. Raises UserError for a file that cannot be read.
    """
    if not path.is_file():
        raise UserError(f"no table {path}: give a .csv, .jsonl or .parquet file")
    if path.suffix == ".parquet":
        return _parquet_columns(path, wanted)
    if path.suffix not in (".csv", ".jsonl"):
        raise UserError(f"{path} ends in {path.suffix!r}: allowed are .csv, .jsonl and .parquet")
    columns: dict[str, list[str]] = {}
    count = 0
    for row in iterate_table(path):
        for name, headings in wanted.items():
            heading = next((heading for heading in headings if heading in row), None)
            if heading is None:
                continue
            cells = columns.setdefault(name, [])
            cells += [""] * (count - len(cells))  # rows of a jsonl file need not all have the same names
            cells.append(row[heading].strip())
        count += 1
    return {name: cells + [""] * (count - len(cells)) for name, cells in columns.items()}


def require(
    path: Path, columns: Mapping[str, Sequence[str]], wanted: Mapping[str, Sequence[str]], names: Sequence[str]
) -> None:
    """Raise UserError unless every one of ``names`` is among the columns that were read, and has no empty cell."""
    for name in names:
        if name not in columns:
            options = " or ".join(wanted[name])
            raise UserError(f"{path} has no column {options}; it has {', '.join(_headings(path)) or 'no rows'}")
        empty = [str(number) for number, text in enumerate(columns[name], 1) if not text]
        if empty:
            found = f"{len(empty)} of {len(columns[name])} rows of {path} have no {name}"
            raise UserError(f"{found}, e.g. row {', '.join(empty[:3])}: fill them in or take them out")


def _headings(path: Path) -> list[str]:
    """The headings of a table, of its first entry for jsonl; for messages."""
    if path.suffix == ".parquet":
        return list(_parquet().read_schema(path).names)
    return list(next(iterate_table(path), {}))


def iterate_table(path: Path) -> Iterator[dict[str, str]]:
    """`read_table` row by row, so that a long table never lies in memory as dictionaries."""
    if path.suffix not in (".csv", ".jsonl"):
        raise UserError(f"{path} ends in {path.suffix!r}: allowed are .txt, .csv and .jsonl")
    try:
        with path.open(encoding="utf-8-sig", newline="" if path.suffix == ".csv" else "\n") as file:
            if path.suffix == ".csv":
                table = csv.DictReader(file)
                for row in table:
                    yield _cells(row, path, table.line_num)
            else:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield _parse(line, path, number)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from None
    except csv.Error as error:
        raise UserError(f"{path} is not a csv table: {error}") from None


def _cells(row: dict[str | None, Any], path: Path, number: int) -> dict[str, str]:
    # DictReader puts surplus cells under None and fills missing ones with None
    if any(row.get(None) or ()):
        raise UserError(f'{path}, line {number} has more cells than the header: put a text with commas in "quotes"')
    return {key: value or "" for key, value in row.items() if key is not None}


def _parse(line: str, path: Path, number: int) -> dict[str, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {number} is not JSON: {error.msg}") from None
    if not isinstance(row, dict):
        raise UserError(f"{path}, line {number} is not a JSON object: {line.strip()[:60]}")
    return {str(key): _text(value) for key, value in row.items()}


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _parquet_columns(path: Path, wanted: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    parquet = _parquet()
    try:
        names = parquet.read_schema(path).names
        chosen = {name: next((h for h in options if h in names), None) for name, options in wanted.items()}
        table = parquet.read_table(path, columns=[heading for heading in chosen.values() if heading is not None])
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise UserError(f"{path} cannot be read as parquet: {error}") from None
    return {
        name: ["" if value is None else str(value).strip() for value in table.column(heading).to_pylist()]
        for name, heading in chosen.items()
        if heading is not None
    }


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError("parquet tables need pyarrow: pip install 'perturb[data]', or give a .csv or .jsonl") from None
    return parquet
