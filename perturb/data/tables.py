"""Small tables that people write by hand: csv with a header, or one JSON object per line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from perturb.errors import UserError


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a ``.csv`` or ``.jsonl`` file as text. Raises UserError naming the line that cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from None
    if path.suffix == ".csv":
        table = csv.DictReader(io.StringIO(text, newline=""))
        return [_cells(row, path, table.line_num) for row in table]
    if path.suffix == ".jsonl":
        return [_parse(line, path, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    raise UserError(f"{path} ends in {path.suffix!r}: allowed are .txt, .csv and .jsonl")


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
        raise UserError(f"{path}, line {number} is not a JSON object: {line[:60]}")
    return {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in row.items()}
