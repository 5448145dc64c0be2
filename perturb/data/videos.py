"""Video files to train on: tables in the manner of WebVid, and folders with captions."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from perturb.data import animations
from perturb.data.captions import CAPTION_COLUMNS, FILE_COLUMNS, find_captions
from perturb.data.clips import ClipReader
from perturb.data.decoding import SUFFIXES
from perturb.data.pictures import list_files
from perturb.data.source import Crop, Sample
from perturb.data.tables import Table
from perturb.errors import UserError
from perturb.store.paths import resolve

COLUMNS = {
    "file": ("path", *FILE_COLUMNS),
    "caption": (*CAPTION_COLUMNS, "name"),
    "fps": ("fps", "frame_rate"),
    # WebVid's own tables name no file: it is page_dir/videoid.mp4
    "page": ("page_dir",),
    "id": ("videoid",),
}


class VideoFiles:
    """Captioned video files below one folder; what `VideoTable` and `VideoFolder` share.

    ``names`` are relative to ``root``; ``fps``, one text per file, is what a table says of them, ``digest`` that of the
    table. No file is touched before it is wanted.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        captions: Sequence[str],
        reader: ClipReader,
        *,
        fps: Sequence[str] | None = None,
        digest: str | None = None,
    ) -> None:
        self.root, self.names, self.captions, self.reader = root, names, captions, reader
        self.fps, self.digest = fps, digest

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int, *, frames: int, height: int, width: int, generator: torch.Generator) -> Sample:
        """A clip of video ``index``. Raises BrokenSample."""
        file = self.root / self.names[index]
        clip, fps = self.reader.read(
            file,
            str(file),
            frames=frames,
            height=height,
            width=width,
            generator=generator,
            fps="" if self.fps is None else self.fps[index],
        )
        return Sample(self.names[index], clip, self.captions[index], fps)

    def describe(self) -> dict[str, Any]:
        """For the manifest: where, how many, how clips are cut, and a digest of all that is known of the files."""
        digest = self.digest
        if digest is None:
            rows = "".join(f"{name}\0{caption}\n" for name, caption in zip(self.names, self.captions, strict=True))
            digest = hashlib.sha256(rows.encode()).hexdigest()
        return {"source": str(self.root), "count": len(self), "sha256": digest} | self.reader.describe()


def _webvid(page: str, video: str) -> str:
    return f"{page}/{video}.mp4".lstrip("/")


class VideoTable(VideoFiles):
    """The videos that a csv, jsonl or parquet table lists: ``path``, ``caption``, and ``fps`` if known.

    WebVid's own tables (``videoid``, ``page_dir``, ``name``) are understood too. Paths are relative to ``root``, null:
    to the table's folder. ``fps`` goes before what the file says. ``columns`` names the headings of file, caption and
    fps, see `Table`; ``stride`` and ``crop``: see `ClipReader`. Raises UserError for a table that cannot be read,
    missing columns, and rows without path or caption.
    """

    def __init__(
        self,
        table: str | Path,
        root: str | Path | None = None,
        stride: Mapping[str, int] | None = None,
        crop: Crop = "centre",
        columns: Mapping[str, str | None] | None = None,
    ) -> None:
        reader = ClipReader(stride=stride, crop=crop)
        self.table = resolve(table)
        rows = Table(self.table, COLUMNS, columns)
        own = not rows.has("file") and rows.has("id")
        rows.require("id" if own else "file", "caption")
        super().__init__(
            self.table.parent if root is None else resolve(root),
            rows.column("page", "id", made=_webvid) if own else rows.column("file"),
            rows.column("caption"),
            reader,
            fps=rows.column("fps") if rows.has("fps") else None,
            digest=rows.sha256,
        )

    def describe(self) -> dict[str, Any]:
        """For the manifest, see `VideoFiles.describe`; the source is the table."""
        return super().describe() | {"source": str(self.table), "root": str(self.root)}


class VideoFolder(VideoFiles):
    """The videos and animations of a folder and its subfolders, in the order of their sorted relative paths.

    ``captions``: null looks for ``.txt`` files beside the videos, then for captions.csv and its like in the folder; a
    path names a table, see `Table` for its ``columns``; "none" means no captions. ``stride`` and ``crop``: see
    `ClipReader`. Raises UserError for a missing or empty folder and missing captions.
    """

    def __init__(
        self,
        folder: str | Path,
        captions: str | Path | None = None,
        stride: Mapping[str, int] | None = None,
        crop: Crop = "centre",
        columns: Mapping[str, str | None] | None = None,
    ) -> None:
        reader = ClipReader(stride=stride, crop=crop)
        root = resolve(folder)
        files = [
            file
            for file in list_files(root, (*SUFFIXES, *animations.SUFFIXES), what="videos", setting="folder")
            if file.suffix.lower() in SUFFIXES or animations.is_animation(file)
        ]
        if not files:
            raise UserError(f"{root} holds no videos, only pictures: give a folder of videos with folder=/path")
        names = [file.relative_to(root).as_posix() for file in files]
        super().__init__(root, names, find_captions(root, files, captions, setting="captions", columns=columns), reader)
