"""Captions of a folder of images or videos: text files beside them, or one csv or jsonl table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from posixpath import normpath

from perturb.data.tables import Table
from perturb.errors import UserError
from perturb.store.paths import resolve

TABLES = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
# Hugging Face's image folders say file_name, JourneyDB img_path and prompt, LAION-COCO top_caption
FILE_COLUMNS = ("file", "file_name", "image", "path", "video", "img_path", "image_path", "filename")
CAPTION_COLUMNS = ("caption", "text", "prompt", "top_caption")
COLUMNS = {"file": FILE_COLUMNS, "caption": CAPTION_COLUMNS}
NO_CAPTIONS = "none"


def find_captions(
    folder: Path,
    files: Sequence[Path],
    captions: str | Path | None,
    *,
    setting: str = "images.captions",
    columns: Mapping[str, str | None] | None = None,
) -> list[str]:
    """One caption per file: from ``captions`` (a table, or "none"), else from ``.txt`` files or a table in the folder.

    ``columns``: see `Table`. Raises UserError naming the first files that have none, and the ``setting`` by which to
    give them.
    """
    if captions == NO_CAPTIONS:
        return [""] * len(files)
    table = _table_path(folder, files, captions, setting)
    found = _beside(files) if table is None else _from_table(Table(table, COLUMNS, columns), folder, files)
    missing = [file.relative_to(folder).as_posix() for file, text in zip(files, found, strict=True) if not text]
    if missing:
        where = "a .txt file beside each" if table is None else f"a row in {table}"
        raise UserError(
            f"{len(missing)} of {len(files)} files in {folder} have no caption, e.g. {', '.join(missing[:3])}: "
            f"expected {where}; give a table with {setting}=/path/captions.csv, "
            f"or {setting}=none to train without captions"
        )
    return found


def _table_path(folder: Path, files: Sequence[Path], captions: str | Path | None, setting: str) -> Path | None:
    """The table to read, or None for text files beside the files."""
    if captions is not None:
        path = resolve(captions)
        candidates = [path] if path.is_absolute() else [path, folder / path]
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        raise UserError(f"no captions file {path}: give a .csv or .jsonl with {setting}=/path/captions.csv")
    if any(file.with_suffix(".txt").is_file() for file in files):
        return None
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def _beside(files: Sequence[Path]) -> list[str]:
    texts = [file.with_suffix(".txt") for file in files]
    return [" ".join(read_text(text).split()) if text.is_file() else "" for text in texts]


def read_text(file: Path) -> str:
    """What a text file holds. Raises UserError."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error}") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None


def _from_table(table: Table, folder: Path, files: Sequence[Path]) -> list[str]:
    """Captions by the path relative to the folder; rows of files that are not there are passed over."""
    table.require("file", "caption")
    names = [file.relative_to(folder).as_posix() for file in files]
    captions = dict.fromkeys(names, "")
    for row in table.texts():
        name = normpath(row["file"])
        if captions.get(name):
            raise UserError(f"{table.path} names {name} a second time: each file has one caption")
        if name in captions:
            captions[name] = row["caption"]
    return [captions[name] for name in names]
