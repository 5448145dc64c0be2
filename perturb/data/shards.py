"""webdataset shards to train on: which there are, and what a sample in them holds.

A shard is a tar file in which the files of one sample share their name up to the first dot: 000017.mp4, 000017.txt. In
names with more dots (a.1.mp4, a.1.txt) the rest must belong together, and no second sample may begin alike (a.2.mp4).
"""

import glob
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from perturb.data.animations import SUFFIXES as ANIMATION_SUFFIXES
from perturb.data.captions import CAPTION_COLUMNS
from perturb.data.clips import ClipReader
from perturb.data.decoding import SUFFIXES as VIDEO_SUFFIXES
from perturb.data.images import decode_image
from perturb.data.pictures import SUFFIXES as IMAGE_SUFFIXES
from perturb.data.shard_stream import Raw, digest_of_names
from perturb.data.source import BrokenSample, Crop, Sample, check_choice
from perturb.data.stills import fit_picture
from perturb.errors import UserError
from perturb.store.paths import resolve
from perturb.structured import check_range

TEXTS = ("txt", "text", "caption")


class Shards:
    """Shards, and how the samples in them are decoded.

    ``shards``: see `expand_shards`. ``shuffle``: how many encoded samples wait in memory for the next one to be drawn
    from them.
    """

    def __init__(self, shards: str | Sequence[str], shuffle: int) -> None:
        check_range("shuffle", shuffle, low=1)
        self.urls, self.shuffle = expand_shards(shards), shuffle

    def decode(
        self, raw: Raw, name: str, *, frames: int, height: int, width: int, generator: torch.Generator
    ) -> Sample:
        """One sample; ``name`` is for messages. Raises BrokenSample."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """For the manifest: how many shards, and a digest of their names."""
        found = {"source": self.urls[0], "shards": len(self.urls), "sha256_of_names": digest_of_names(self.urls)}
        return found | {"shuffle": self.shuffle}


class VideoShards(Shards):
    """Shards of videos: a video, its caption (.txt, or .json with ``caption``), in .json also ``fps``.

    ``stride`` and ``crop``: see `ClipReader`.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        stride: Mapping[str, int] | None = None,
        crop: Crop = "centre",
        shuffle: int = 256,
    ) -> None:
        self.reader = ClipReader(stride=stride, crop=crop)
        super().__init__(shards, shuffle)

    def decode(
        self, raw: Raw, name: str, *, frames: int, height: int, width: int, generator: torch.Generator
    ) -> Sample:
        """A clip of one video. Raises BrokenSample."""
        key = _member(raw, VIDEO_SUFFIXES) or _wanted(raw, (*VIDEO_SUFFIXES, *ANIMATION_SUFFIXES), name)
        notes = _notes(raw, key, name)
        caption = _caption(raw, key, notes, name)
        fps = "" if notes.get("fps") is None else str(notes["fps"])
        clip, rate = self.reader.read(
            raw[key], name, frames=frames, height=height, width=width, generator=generator, fps=fps
        )
        return Sample(_key(raw), clip, caption, rate)

    def describe(self) -> dict[str, Any]:
        """For the manifest, see `Shards.describe`; and how clips are cut."""
        return super().describe() | self.reader.describe()


class ImageShards(Shards):
    """Shards of stills: an image and its caption (.txt, or .json with ``caption``). Every sample has one frame.

    ``crop``: "centre" or "random".
    """

    def __init__(self, shards: str | Sequence[str], crop: Crop = "centre", shuffle: int = 1024) -> None:
        self.crop: Crop = check_choice("crop", crop, Crop)
        super().__init__(shards, shuffle)

    def decode(
        self, raw: Raw, name: str, *, frames: int, height: int, width: int, generator: torch.Generator
    ) -> Sample:
        """One still (t = 1, fps = 0). Raises BrokenSample."""
        del frames
        key = _wanted(raw, IMAGE_SUFFIXES, name)
        picture = decode_image(raw[key], name)
        caption = _caption(raw, key, _notes(raw, key, name), name)
        return Sample(_key(raw), fit_picture(picture, height, width, self.crop, generator)[:, None], caption, 0.0)

    def describe(self) -> dict[str, Any]:
        """For the manifest, see `Shards.describe`; and the crop."""
        return super().describe() | {"crop": self.crop}


def expand_shards(shards: str | Sequence[str]) -> list[str]:
    """The shards that texts name: tar files, folders of them, globs, braces ({000..099}), and URLs with braces.

    URLs are opened by webdataset: http, https, gs, hf, file, and ``pipe:`` followed by a shell command. Raises
    UserError for a local shard that is not there, and for one named twice.
    """
    import braceexpand

    found: list[str] = []
    for text in [shards] if isinstance(shards, str) else shards:
        try:
            expanded = list(braceexpand.braceexpand(str(text)))
        except ValueError as error:
            raise UserError(
                f"shards is {text!r}, whose braces do not match ({error}); write them as {{000..099}}"
            ) from None
        for one in expanded:
            is_url = "://" in one or one.startswith(("pipe:", "file:"))
            found += [one] if is_url else _local(one)
    if len(set(found)) < len(found):
        raise UserError(f"shards names {len(found) - len(set(found))} shards twice; take the doubles out: {shards}")
    return found


def _local(text: str) -> list[str]:
    """A tar file, those of a folder, or those that a glob matches; absolute, so that no name is taken for a URL."""
    path = resolve(text).absolute()
    if path.is_dir():
        found = sorted(str(file) for file in path.glob("*.tar"))
    elif glob.has_magic(text):
        found = sorted(glob.glob(str(path)))  # noqa: PTH207 (the pattern may be absolute)
    else:
        found = [str(path)] if path.is_file() else []
    if not found:
        raise UserError(
            f"no shard {path}: give a .tar file, a folder of them, a glob, or braces as in {{000..099}}.tar"
        )
    return found


def _key(raw: Raw) -> str:
    return f"{str(raw['__url__']).rpartition('/')[2]}/{raw['__key__']}"


def _member(raw: Raw, suffixes: Sequence[str]) -> str | None:
    """The member with one of these suffixes: alone, else the only one behind further dots."""
    found = [key for key in raw if not key.startswith("__") and f".{key.rpartition('.')[2]}" in suffixes]
    plain = [key for key in found if "." not in key]
    return plain[0] if plain else found[0] if len(found) == 1 else None


def _wanted(raw: Raw, suffixes: Sequence[str], name: str) -> str:
    """`_member`, which must be there."""
    key = _member(raw, suffixes)
    if key is None:
        files = sorted(key for key in raw if not key.startswith("__"))
        several = sum(f".{file.rpartition('.')[2]}" in suffixes for file in files) > 1
        why = ": a name ends at its first dot, so these became one sample; rename them" if several else ""
        raise BrokenSample(name, f"holds {', '.join(files)}; wanted: one of {', '.join(suffixes)}{why}")
    return key


def _beside(raw: Raw, key: str, suffix: str) -> str | None:
    """The member with another suffix that belongs to ``key``: the same up to its last dot, or the suffix alone."""
    return next((other for other in (f"{key.rpartition('.')[0]}.{suffix}", suffix) if other in raw), None)


def _notes(raw: Raw, key: str, name: str) -> dict[str, Any]:
    """What the sample's .json says, nothing where there is none."""
    beside = _beside(raw, key, "json")
    if beside is None:
        return {}
    try:
        notes = json.loads(raw[beside])
    except (ValueError, RecursionError) as error:
        raise BrokenSample(name, f"its .json cannot be read: {error}") from None
    if not isinstance(notes, dict):
        raise BrokenSample(name, "its .json is no object")
    return notes


def _caption(raw: Raw, key: str, notes: Mapping[str, Any], name: str) -> str:
    found: list[Any] = []
    try:
        found += [raw[beside].decode("utf-8-sig") for suffix in TEXTS if (beside := _beside(raw, key, suffix))]
    except UnicodeDecodeError as error:
        raise BrokenSample(name, f"its caption is not UTF-8 text: {error}") from None
    found += [notes[column] for column in CAPTION_COLUMNS if notes.get(column) is not None]
    if wrong := next((text for text in found if not isinstance(text, str)), None):
        raise BrokenSample(name, f"its caption is no text but {wrong!r:.60}")
    caption = next((" ".join(text.split()) for text in found if text.strip()), "")
    if not caption:
        raise BrokenSample(name, "has no caption: wanted a .txt, or a .json with caption")
    return caption
