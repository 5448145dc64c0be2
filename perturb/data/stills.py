"""Stills to train on: tables of image files, Hugging Face datasets on disk, and image sets as a training source.

Axes: c channels (RGB), t frames, h w pixels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from perturb.data.captions import CAPTION_COLUMNS, FILE_COLUMNS
from perturb.data.images import (
    ImageFiles,
    ImageFolder,
    ImageSet,
    Policy,
    check_settings,
    cover_size,
    decode_image,
    resize_and_crop,
)
from perturb.data.source import BrokenSample, Crop, Sample, check_choice, crop_offset
from perturb.data.tables import Table
from perturb.errors import UserError
from perturb.store.paths import resolve

COLUMNS = {"file": FILE_COLUMNS, "caption": CAPTION_COLUMNS, "key": ("key",)}
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture")


class ImageTable(ImageFiles):
    """The images that a csv, jsonl or parquet table lists, in its order: ``file`` (or ``path``) and ``caption``.

    JourneyDB's (``img_path``, ``prompt``) and img2dataset's of LAION-COCO (``key``, ``top_caption``) are understood
    too. Paths are relative to ``root``, null: to the table's folder. ``columns`` names the headings of file and
    caption, see `Table`. ``max_corrupt_fraction``: see `ImageFolder`. Raises UserError for a table that cannot be read,
    missing columns and empty captions.
    """

    def __init__(
        self,
        table: str | Path,
        root: str | Path | None = None,
        as_video: Policy = "single_frame",
        max_corrupt_fraction: float | None = 0.05,
        columns: Mapping[str, str | None] | None = None,
    ) -> None:
        check_settings(as_video, max_corrupt_fraction)
        path = resolve(table)
        rows = Table(path, COLUMNS, columns)
        own = not rows.has("file") and rows.has("key")
        rows.require("key" if own else "file", "caption")
        super().__init__(
            path.parent if root is None else resolve(root),
            rows.column("key", made=_img2dataset) if own else rows.column("file"),
            rows.column("caption"),
            as_video=as_video,
            max_corrupt_fraction=max_corrupt_fraction,
            digest=rows.sha256,
        )
        self.table, self.columns = path, {name: heading for name, heading in (columns or {}).items() if heading}

    def describe(self) -> dict[str, Any]:
        """For the manifest, see `ImageFiles.describe`; the source is the table."""
        return super().describe() | {"source": str(self.table), "root": str(self.folder), "columns": self.columns}


class SavedDataset:
    """The images of a Hugging Face dataset written by ``save_to_disk``; memory-mapped, decoded when wanted.

    ``split`` names one of a dataset with several; ``image`` and ``caption`` name the columns, null: the first usual
    name there is. Raises UserError for a folder that is no such dataset, and for unknown splits and columns.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str | None = None,
        image: str | None = None,
        caption: str | None = None,
        as_video: Policy = "single_frame",
    ) -> None:
        check_settings(as_video)
        self.as_video: Policy = as_video
        self.folder = resolve(folder)
        table = _split(_load_from_disk(self.folder), split, self.folder)
        self.columns = (
            _column(table, image, IMAGE_COLUMNS, "image", self.folder),
            _column(table, caption, CAPTION_COLUMNS, "caption", self.folder),
        )
        self._fingerprint = table._fingerprint
        self._images = _undecoded(table.select_columns([self.columns[0]]), self.columns[0])
        self._captions = table.select_columns([self.columns[1]])

    def __len__(self) -> int:
        return len(self._captions)

    def picture(self, index: int) -> Tensor:
        """Image ``index``, upright and on white, at its own size: c h w in [0, 1]. Raises BrokenSample."""
        cell = self._images[index][self.columns[0]]
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        name = f"{self.folder}[{index}]"
        if not isinstance(content, bytes):
            raise BrokenSample(name, f"its column {self.columns[0]!r} holds no image")
        return decode_image(content, name)

    def load(self, index: int, height: int, width: int) -> Tensor:
        """Image ``index``, its shorter side resized and the centre cropped: c h w in [−1, 1]."""
        return resize_and_crop(self.picture(index), height, width) * 2 - 1

    def caption(self, index: int) -> str:
        """The caption of image ``index``. Raises BrokenSample where the cell holds no text."""
        text = self._captions[index][self.columns[1]]
        if not isinstance(text, str):
            raise BrokenSample(f"{self.folder}[{index}]", f"its caption is no text but {text!r:.60}")
        return text

    def describe(self) -> dict[str, Any]:
        """For the manifest; the digest is the dataset's own fingerprint."""
        return {
            "source": str(self.folder),
            "count": len(self),
            "as_video": self.as_video,
            "columns": list(self.columns),
            "skipped": [],
            "fingerprint": self._fingerprint,
        }


@runtime_checkable
class Pictures(Protocol):
    """Image sets that also give whole pictures: what random crops are cut from."""

    def picture(self, index: int) -> Tensor:
        """Image ``index`` at its own size: c h w in [0, 1]. Raises BrokenSample."""
        ...


class StillSource:
    """An image set as a training source: every sample has one frame (t = 1) and no frame rate (fps = 0).

    ``crop``: "centre", or "random" for sets that give whole pictures.
    """

    def __init__(self, images: ImageSet, *, crop: Crop = "centre") -> None:
        self.images = images
        self.crop: Crop = check_choice("crop", crop, Crop)
        if crop == "random" and not isinstance(images, Pictures):
            raise UserError(f"crop=random needs whole pictures, which {type(images).__name__} has not; use crop=centre")

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int, *, frames: int, height: int, width: int, generator: torch.Generator) -> Sample:
        """Still ``index``. How it stands in for ``frames`` frames is the caller's policy. Raises BrokenSample."""
        del frames
        if self.crop == "random" and isinstance(self.images, Pictures):
            pixels = fit_picture(self.images.picture(index), height, width, self.crop, generator)
        else:
            pixels = self.images.load(index, height, width)
        return Sample(str(index), pixels[:, None], self.images.caption(index), fps=0.0)

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return self.images.describe() | {"crop": self.crop}


def still_folder(
    folder: str | Path,
    captions: str | Path | None = None,
    crop: Crop = "centre",
    max_corrupt_fraction: float | None = None,
    columns: Mapping[str, str | None] | None = None,
) -> StillSource:
    """A folder of images as a training source, see `ImageFolder`; by default no image is read before it is wanted."""
    images = ImageFolder(folder, captions, max_corrupt_fraction=max_corrupt_fraction, columns=columns)
    return StillSource(images, crop=crop)


def still_table(
    table: str | Path,
    root: str | Path | None = None,
    crop: Crop = "centre",
    max_corrupt_fraction: float | None = None,
    columns: Mapping[str, str | None] | None = None,
) -> StillSource:
    """A table of images as a training source, see `ImageTable`; by default no image is read before it is wanted."""
    return StillSource(ImageTable(table, root, max_corrupt_fraction=max_corrupt_fraction, columns=columns), crop=crop)


def still_dataset(
    folder: str | Path,
    split: str | None = None,
    image: str | None = None,
    caption: str | None = None,
    crop: Crop = "centre",
) -> StillSource:
    """A Hugging Face dataset on disk as a training source, see `SavedDataset`."""
    return StillSource(SavedDataset(folder, split, image, caption), crop=crop)


def _img2dataset(key: str) -> str:
    """Where img2dataset puts an image: in a folder per shard, named by all but the last four digits of the key."""
    return f"{key[:-4]}/{key}.jpg"


def fit_picture(picture: Tensor, height: int, width: int, crop: Crop, generator: torch.Generator) -> Tensor:
    """c h w in [0, 1] of any size → c height width in [−1, 1], its proportions kept."""
    tall, wide = cover_size((picture.shape[1], picture.shape[2]), height, width)
    place = crop_offset((tall - height, wide - width), crop, generator)
    return resize_and_crop(picture, height, width, place) * 2 - 1


def _load_from_disk(folder: Path) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(
            "Hugging Face datasets need the datasets package: pip install 'perturb[data]', or give a folder or a table"
        ) from None
    try:
        return datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is no dataset saved with save_to_disk ({error}); save one with dataset.save_to_disk(folder)"
        ) from None


def _split(loaded: Any, split: str | None, folder: Path) -> Any:
    """The one table of what was loaded."""
    splits = list(loaded) if isinstance(loaded, dict) else []
    if split in splits or (split is None and len(splits) == 1):
        return loaded[split or splits[0]]
    if splits or split is not None:
        allowed = f"allowed: {', '.join(splits)}" if splits else "it has no splits; leave split out"
        raise UserError(f"{folder}: split is {split!r}; {allowed}")
    return loaded


def _column(table: Any, given: str | None, usual: tuple[str, ...], name: str, folder: Path) -> str:
    wanted = usual if given is None else (given,)
    found = next((column for column in wanted if column in table.column_names), None)
    if found is None:
        raise UserError(
            f"{folder} has no column {' or '.join(wanted)}; it has {', '.join(table.column_names)}: "
            f"name one with {name}=…"
        )
    return found


def _undecoded(table: Any, column: str) -> Any:
    """The table with the bytes of its images, so that they are read like any other image file."""
    import datasets

    is_image = isinstance(table.features[column], datasets.Image)
    return table.cast_column(column, datasets.Image(decode=False)) if is_image else table
