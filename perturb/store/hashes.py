"""SHA-256 of files; without torch, so that a finished run answers at once."""

import hashlib
from collections.abc import Mapping
from pathlib import Path


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, streamed; of a folder: of the sorted lines ``<file hash>  <name>`` of the files in it."""
    path = Path(path)
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    names = sorted(item.relative_to(path).as_posix() for item in path.rglob("*") if item.is_file())
    return sha256_of({name: path / name for name in names})


def sha256_of(files: Mapping[str, Path]) -> str:
    """One SHA-256 for several named files; it does not depend on where they lie."""
    lines = "".join(f"{sha256(file)}  {name}\n" for name, file in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
