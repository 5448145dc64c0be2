"""Pictures as people have them: broken metadata, cut data, any aspect, hidden folders, links. All made here.

Axes: h w pixels, c channels (RGB).
"""

import io
import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data_files import load, mutated, numbered, write_shard, write_video
from PIL import Image

from perturb.data import images as images_module
from perturb.data.collection import find_clips
from perturb.data.feed import FeedConfig, IndexedFeed, ShardFeed
from perturb.data.images import ImageFolder, cover_size, load_conditioning_image, published_resize, resize_and_crop
from perturb.data.pictures import read_picture
from perturb.data.shards import ImageShards
from perturb.data.source import BrokenSample
from perturb.data.stills import ImageTable, SavedDataset, StillSource, fit_picture, still_folder
from perturb.data.videos import VideoFolder
from perturb.errors import UserError
from perturb.store.paths import walk

SCENE = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)


def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    """One entry of a TIFF directory."""
    return struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")


def exif(*entries: bytes, count: int | None = None) -> bytes:
    """An EXIF block; ``count``: how many entries it claims."""
    directory = struct.pack("<H", len(entries) if count is None else count) + b"".join(entries) + bytes(4)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory


TURNED = entry(0x0112, 3, 1, struct.pack("<H", 6))  # orientation 6: to be turned clockwise
# metadata of which one tag is malformed; the orientation can be read
READABLE = {
    "resolution as text": exif(TURNED, entry(0x011A, 2, 4, b"72\0\0")),
    "resolution over zero": exif(TURNED, entry(0x011A, 5, 1, struct.pack("<I", 8))),
    "value beyond the end": exif(TURNED, entry(0x010F, 2, 4000, struct.pack("<I", 90000))),
    "unknown type": exif(TURNED, entry(0x0131, 99, 7, b"????")),
    "a pointer into nothing": exif(TURNED, entry(0x8769, 4, 1, struct.pack("<I", 77777))),
}
# metadata that says nothing: the picture is taken as it lies
UNREADABLE = {
    "no directory": b"Exif\0\0garbage",
    "a cut directory": exif(entry(0x010F, 2, 4, b"abc\0"))[:20],
    "a count too high": exif(entry(0x010F, 2, 4, b"abc\0"), count=60000),
    "orientation as text": exif(entry(0x0112, 2, 4, b"six\0")),
    "orientation 77": exif(entry(0x0112, 3, 1, struct.pack("<H", 77))),
}
LOSSLESS: dict[str, dict[str, Any]] = {"png": {}, "webp": {"lossless": True}, "tiff": {}}


def encoded(kind: str, pixels: np.ndarray = SCENE, **more: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **LOSSLESS.get(kind, {}), **more)
    return buffer.getvalue()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def levels(picture: torch.Tensor) -> np.ndarray:
    """c h w in [−1, 1] → h w c uint8."""
    return picture.add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("kind", ["png", "webp"])
@pytest.mark.parametrize("name", READABLE)
def test_one_malformed_tag_costs_neither_the_picture_nor_its_rotation(tmp_path: Path, name: str, kind: str) -> None:
    put(tmp_path / f"a.{kind}", encoded(kind, exif=READABLE[name]))
    images = ImageFolder(tmp_path, captions="none")
    assert images.skipped == []
    assert np.array_equal(levels(images.load(0, 36, 24)), np.rot90(SCENE, -1))


@pytest.mark.parametrize("kind", ["png", "webp"])
@pytest.mark.parametrize("name", UNREADABLE)
def test_metadata_that_cannot_be_read_says_nothing(tmp_path: Path, name: str, kind: str) -> None:
    put(tmp_path / f"a.{kind}", encoded(kind, exif=UNREADABLE[name]))
    images = ImageFolder(tmp_path, captions="none")
    assert np.array_equal(levels(images.load(0, 24, 36)), SCENE)


def test_a_malformed_photo_is_upright_wherever_pictures_are_read(tmp_path: Path) -> None:
    photo = encoded("jpeg", quality=100, subsampling=0, exif=READABLE["resolution as text"])
    upright = np.rot90(np.asarray(Image.open(io.BytesIO(photo)).convert("RGB")), -1)
    path = put(tmp_path / "photos/a.jpg", photo)
    (tmp_path / "t.csv").write_text("file,caption\nphotos/a.jpg,a cat\n")
    write_shard(tmp_path / "a.tar", {"a.jpg": photo, "a.txt": b"a cat"})
    size = FeedConfig(seed=0, batch_size=1, frames=1, height=36, width=24)
    kinds = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    saved = datasets.Dataset.from_dict({"image": [str(path)], "caption": ["a cat"]}, features=kinds)
    saved.save_to_disk(str(tmp_path / "saved"))
    found = {
        "folder": ImageFolder(tmp_path / "photos", "none").load(0, 36, 24),
        "table": ImageTable(tmp_path / "t.csv").load(0, 36, 24),
        "dataset": SavedDataset(tmp_path / "saved").load(0, 36, 24),
        "training": load(still_folder(tmp_path / "photos", "none", "random"), size=(36, 24)).frames[:, 0],
        "shard": ShardFeed(ImageShards(str(tmp_path / "a.tar")), size, rank=0, world=1).samples(0, [0])[0].frames[:, 0],
    }
    for name, picture in found.items():
        assert np.array_equal(levels(picture), upright), name
    assert torch.equal(load_conditioning_image(path, 36, 24), published_resize(upright, 36, 24))


def test_a_training_with_one_malformed_photo_sees_it_like_the_others(tmp_path: Path) -> None:
    for number in range(31):
        tag = READABLE["resolution as text"] if number == 17 else exif(TURNED)
        put(tmp_path / f"{number:02}.png", encoded("png", exif=tag))
    feed = IndexedFeed(still_folder(tmp_path, "none"), FeedConfig(seed=1, batch_size=31, frames=1, height=36, width=24))
    assert {sample.key for sample in feed.samples(0, range(31))} == {str(number) for number in range(31)}
    assert feed.breakage.report().count == 0


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "tiff", "ppm.png", "gif.png"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_cut_pictures_of_any_kind_are_counted_at_the_start_and_broken_when_wanted(
    tmp_path: Path, kind: str, share: float
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encoded(kind.partition(".")[0], noise)
    for number in range(3):
        put(tmp_path / f"{number}.png", encoded("png"))
    put(tmp_path / f"cut.{kind}", whole[: int(share * len(whole))])
    assert ImageFolder(tmp_path, "none", max_corrupt_fraction=0.25).skipped == [f"cut.{kind}"]
    lazy = still_folder(tmp_path, "none")
    with pytest.raises(BrokenSample, match="cannot be read as an image"):
        load(lazy, len(lazy) - 1, size=24)


def test_a_picture_that_vanishes_after_the_check_is_named_and_counted(tmp_path: Path) -> None:
    for number in range(30):
        put(tmp_path / f"{number:02}.png", encoded("png"))
    images = ImageFolder(tmp_path, "none")
    (tmp_path / "07.png").unlink()
    with pytest.raises(UserError, match=r"07\.png: cannot be read as an image: No such file"):
        images.load(7, 24, 36)  # what ends a fit is a message, as there is no other image at this place
    size = FeedConfig(seed=1, batch_size=30, frames=1, height=24, width=36)
    feed = IndexedFeed(StillSource(images), size)
    assert len(feed.samples(0, range(30))) == 30
    assert list(feed.breakage.report().files) == [str(tmp_path / "07.png")]


@pytest.mark.parametrize("shape", [(2, 20000), (20000, 2), (1, 65000)])
def test_a_long_and_narrow_picture_takes_bounded_memory(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(*arguments: Any, **options: Any) -> torch.Tensor:
        made.append((found := real(*arguments, **options)).numel())
        return found

    real = F.interpolate
    monkeypatch.setattr(images_module.F, "interpolate", counted)
    ramp = torch.linspace(0, 1, max(shape))
    picture = (ramp if shape[1] > shape[0] else ramp[:, None]).expand(3, *shape).contiguous()
    found = resize_and_crop(picture, 320, 512)
    assert found.shape == (3, 320, 512)
    assert float((found - 0.5).abs().max()) < 0.01  # the middle of the ramp
    assert max(made) < 16 * found.numel()


@pytest.mark.parametrize("shape", [(3, 150), (150, 3)])
def test_what_is_cut_before_resizing_is_what_is_cut_after_it(shape: tuple[int, int]) -> None:
    picture = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    tall, wide = cover_size(shape, 30, 40)
    whole = F.interpolate(picture[None], size=(tall, wide), mode="bilinear", antialias=True, align_corners=False)[0]
    for part in (0.0, 0.2, 0.5, 1.0):
        top, left = round(part * (tall - 30)), round(part * (wide - 40))
        expected = whole[:, top : top + 30, left : left + 40]
        found = resize_and_crop(picture, 30, 40, (top, left))
        torch.testing.assert_close(found, expected, atol=0.06, rtol=0)  # half a pixel of ten between two colours
        assert float((found - expected).abs().mean()) < 0.02


def test_random_crops_of_a_long_picture_are_those_of_the_resized_one() -> None:
    picture = torch.linspace(0, 1, 3000).expand(3, 10, 3000).contiguous()
    seen = [
        float(fit_picture(picture, 20, 30, "random", torch.Generator().manual_seed(seed)).mean()) for seed in range(60)
    ]
    assert min(seen) < -0.8
    assert max(seen) > 0.8


def test_a_long_and_narrow_video_is_broken_not_enlarged(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", np.zeros((3, 2, 4000, 3), np.uint8), codec="ffv1", pixels="bgr0")
    source = VideoFolder(tmp_path, captions="none", stride={"min": 1, "max": 1})
    with pytest.raises(BrokenSample, match="too long and narrow for 512×320: 4000×2"):
        load(source, frames=1, size=(320, 512))


def names_of_stills(folder: Path) -> list[str]:
    return list(ImageFolder(folder, "none").names)


def names_of_videos(folder: Path) -> list[str]:
    return list(VideoFolder(folder, "none").names)


def names_of_clips(folder: Path) -> list[str]:
    return list(find_clips(folder, "videos").clips)


ROOMS: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "D_I and stills": (names_of_stills, ".png"),
    "training videos": (names_of_videos, ".mp4"),
    "scoring": (names_of_clips, ".mp4"),
}


@pytest.fixture(params=ROOMS)
def room(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Callable[[Path], list[str]], Callable[[Path], Path]]:
    """What lists the files of a folder, and what makes a file that is listed."""
    names, suffix = ROOMS[request.param]
    content = encoded("png") if suffix == ".png" else write_video(tmp_path / "x.mp4", numbered(3)).read_bytes()

    def make(path: Path) -> Path:
        return put(path.with_suffix(suffix), content)

    return names, make


def stems(names: list[str]) -> list[str]:
    return [name.rpartition(".")[0] for name in names]


def test_hidden_files_and_folders_are_left_out_everywhere(room: Any, tmp_path: Path) -> None:
    names, make = room
    for place in ("a", ".ipynb_checkpoints/a-checkpoint", "b/.cache/x", "b/._c", "b/c", ".d"):
        make(tmp_path / "f" / place)
    assert stems(names(tmp_path / "f")) == ["a", "b/c"]


def test_links_are_followed_and_each_folder_is_read_once(room: Any, tmp_path: Path) -> None:
    names, make = room
    make(tmp_path / "elsewhere/far/x")
    root = make(tmp_path / "f/own/a").parents[1]
    (root / "afar").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere/far")
    (root / "double").symlink_to(root / "own")
    (root / "own/circle").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "one.mp4").symlink_to(root / "own/a.mp4")
    (root / "one.png").symlink_to(root / "own/a.png")
    found = stems(names(root))
    assert [name for name in found if name != "one"] == ["afar/far/x", "own/a"]
    assert "one" in found


def test_a_linked_root_and_a_link_to_a_hidden_folder_are_read(room: Any, tmp_path: Path) -> None:
    names, make = room
    make(tmp_path / "f/.store/a")
    (tmp_path / "f/shown").symlink_to(tmp_path / "f/.store")
    (tmp_path / "link").symlink_to(tmp_path / "f")
    assert stems(names(tmp_path / "link")) == ["shown/a"]


def test_links_that_lead_nowhere_are_counted_as_damaged(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / f"{number}.png", encoded("png"))
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    os.mkfifo(tmp_path / "pipe.png")  # is no file: reading it would wait for ever
    images = ImageFolder(tmp_path, "none", max_corrupt_fraction=0.5)
    assert (len(images), images.skipped) == (3, ["circle.png", "gone.png"])
    assert len(list(walk(tmp_path))) == 5


def test_formats_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.heic", "b.HEIC", "c.gif", "notes.md"):
        put(tmp_path / name, b"x")
    with pytest.raises(UserError, match=r"holds no images .*it has 1 \.gif, 2 \.heic, which are not read: convert"):
        ImageFolder(tmp_path, "none")
    put(tmp_path / "d.png", encoded("png"))
    with caplog.at_level(logging.WARNING):
        assert len(ImageFolder(tmp_path, "none")) == 1
    assert "left out 1 .gif, 2 .heic" in caplog.text
    assert ".md" not in caplog.text


def test_damaged_conditioning_images_end_with_a_message(tmp_path: Path) -> None:
    for name, content in {"empty.png": b"", "text.jpg": b"text", "cut.webp": encoded("webp")[:90]}.items():
        with pytest.raises(UserError, match=rf"{name}: cannot be read as an image"):
            load_conditioning_image(put(tmp_path / name, content), 8, 8)
    with pytest.raises(UserError, match="no image file"):
        load_conditioning_image(tmp_path, 8, 8)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow says what it thinks of the metadata
def test_a_mutated_picture_is_read_or_broken_and_check_and_load_agree(tmp_path: Path) -> None:
    random = np.random.default_rng(13)
    tag = READABLE["resolution as text"]
    small = SCENE[:9, :13]
    originals = [encoded(kind, small, exif=tag) for kind in ("png", "jpeg", "webp")]
    originals += [
        encoded("tiff", small),
        encoded("bmp", small),
        encoded("gif", small),
        encoded("png", small[..., 0].astype(np.uint16) * 256),
    ]
    sound = set()
    for number in range(300):
        name = f"{number:03}.png"
        put(tmp_path / name, mutated(originals[number % len(originals)], random))
        try:
            pixels = read_picture(tmp_path / name, name)
        except BrokenSample:
            continue
        sound.add(name)
        assert (pixels.ndim, pixels.shape[-1], pixels.dtype) == (3, 3, np.float32)
        assert pixels.min() >= 0
        assert pixels.max() <= 1
    assert 30 < len(sound) < 270
    images = ImageFolder(tmp_path, "none", max_corrupt_fraction=1)
    assert {images.name(index) for index in range(len(images))} == sound
    for index in range(len(images)):
        assert torch.isfinite(images.load(index, 8, 8)).all()
