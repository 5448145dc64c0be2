"""The rows of table files by their number: csv, one JSON object per line, parquet."""

import csv
import hashlib
import io
import json
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perturb.errors import UserError

CHUNK = 1 << 24  # bytes

Row = Mapping[str, Any]


class Lines:
    """A text file by lines: where each begins, and the digest of all."""

    header: Sequence[str] = ()

    def __init__(self, path: Path, headings: set[str]) -> None:
        del headings
        self.path, self._file = path, path.open("rb")
        self.starts, self.numbers, self.sha256 = self._index()

    def __len__(self) -> int:
        return len(self.numbers)

    def _index(self) -> tuple[np.ndarray, np.ndarray, str]:
        """Where rows begin (and the last one ends), in bytes; the line of each; the digest of the file."""
        digest, ends, offset = hashlib.sha256(), [np.zeros(1, np.int64)], 0
        with self.path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                ends.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == 0x0A) + (offset + 1))
                offset += len(chunk)
        starts = np.concatenate([*ends, [offset]]) if int(ends[-1][-1:].sum()) != offset else np.concatenate(ends)
        whole = np.flatnonzero(np.diff(starts) > 2)  # longer than \r\n
        return starts, whole, digest.hexdigest()

    def _text(self, begin: int, end: int) -> str:
        return os.pread(self._file.fileno(), end - begin, begin).decode("utf-8-sig" if begin == 0 else "utf-8")

    def place(self, number: int) -> str:
        """For messages."""
        return f"line {self.numbers[number] + 1}"


class Jsonl(Lines):
    """One JSON object per line."""

    def read(self, number: int) -> Row:
        """One row. Raises ValueError, csv.Error or RecursionError where it is none."""
        line = int(self.numbers[number])
        text = self._text(int(self.starts[line]), int(self.starts[line + 1]))
        try:
            row = json.loads(text)
        except ValueError as error:
            raise ValueError(f"is not JSON: {getattr(error, 'msg', error)}") from None
        if not isinstance(row, dict):
            raise ValueError(f"is not a JSON object: {text.strip()[:60]}")
        return row

    def shown(self) -> Sequence[str]:
        """The headings, for messages; of jsonl those of the first row."""
        return list(self.read(0)) if len(self) else ()


class Csv(Lines):
    """Commas, quotes, and a header; a row ends where its quotes are closed."""

    def _index(self) -> tuple[np.ndarray, np.ndarray, str]:
        digest, starts, numbers, offset = hashlib.sha256(), array("q"), array("q"), 0

        def lines() -> Iterator[str]:
            nonlocal offset
            with self.path.open("rb") as file:
                for line in file:
                    digest.update(line)
                    text = line.decode("utf-8" if offset else "utf-8-sig")
                    offset += len(line)
                    yield text

        reader = csv.reader(lines(), strict=True)
        number = 0
        try:
            self.header = [heading.strip() for heading in next(reader, [])]
            begin, number = offset, reader.line_num
            for row in reader:
                if row:
                    starts.append(begin)
                    numbers.append(number)
                    if len(row) > len(self.header) and any(row[len(self.header) :]):
                        raise csv.Error('has more cells than the header: put a text with commas in "quotes"')
                begin, number = offset, reader.line_num
        except (csv.Error, ValueError) as error:
            raise UserError(f"{self.path}, line {number + 1} {reason(error)}") from None
        doubled = sorted({heading for heading in self.header if self.header.count(heading) > 1})
        if doubled:
            raise UserError(f"{self.path} has two columns {doubled[0]!r}: rename one")
        starts.append(offset)
        return np.frombuffer(starts, np.int64), np.frombuffer(numbers, np.int64), digest.hexdigest()

    def read(self, number: int) -> Row:
        """One row. Raises ValueError, csv.Error or RecursionError where it is none."""
        text = self._text(int(self.starts[number]), int(self.starts[number + 1]))
        cells = next(csv.reader(io.StringIO(text, newline=""), strict=True), [])
        return dict(zip(self.header, cells, strict=False))

    def shown(self) -> Sequence[str]:
        """The headings, for messages; of jsonl those of the first row."""
        return self.header


class Parquet:
    """The columns that are wanted, as Arrow keeps them."""

    def __init__(self, path: Path, headings: set[str]) -> None:
        parquet = _parquet()
        try:
            with parquet.ParquetFile(path) as file:
                self.all = _flat(file.schema_arrow.empty_table()).column_names
                self.header = [name for name in self.all if name in headings]
                self.cells = _flat(file.read(columns=self.header)).select(self.header)
        except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
            raise UserError(f"{path} cannot be read as parquet: {error}") from None
        with path.open("rb") as content:
            self.sha256 = hashlib.file_digest(content, "sha256").hexdigest()

    def __len__(self) -> int:
        return self.cells.num_rows if self.header else 0

    def read(self, number: int) -> Row:
        """One row. Raises ValueError, csv.Error or RecursionError where it is none."""
        return {name: self.cells.column(name)[number].as_py() for name in self.header}

    def place(self, number: int) -> str:
        """For messages."""
        return f"row {number + 1}"

    def shown(self) -> Sequence[str]:
        """The headings, for messages; of jsonl those of the first row."""
        return self.all


def reason(error: Exception) -> str:
    """What is wrong with a row, for messages."""
    match error:
        case UnicodeDecodeError():
            return f"is not UTF-8 text: {error}"
        case UnicodeEncodeError():
            return f"holds half a character: {error}"
        case RecursionError():
            return "is nested too deeply"
        case csv.Error() if "more cells" not in str(error):
            return f"is not csv: {error}; a quote that is not closed? (one within a text is written twice)"
    return str(error)


def _flat(table: Any) -> Any:
    """Nested columns under their names joined by dots."""
    from pyarrow import types

    while any(types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError("parquet tables need pyarrow: pip install 'perturb[data]', or give a .csv or .jsonl") from None
    return parquet
