"""Image folders: pixels by hand-computed values, captions, damaged files; and the published I2V loading."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from perturb.data.images import ImageFolder, load_conditioning_image, published_resize, resize_and_crop
from perturb.data.pictures import rgb_pixels
from perturb.errors import UserError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def paint(*columns: tuple[int, ...], height: int = 2) -> np.ndarray:
    """h w c uint8 with one colour per column."""
    return np.tile(np.array(columns, dtype=np.uint8)[None], (height, 1, 1))


def save(path: Path, pixels: np.ndarray | None = None, caption: str | None = "a cat", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(paint(RED, GREEN) if pixels is None else pixels).save(path, **options)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


def test_pixels_lie_between_minus_one_and_one_channels_first(tmp_path: Path) -> None:
    save(tmp_path / "a.png", paint(RED, (0, 51, 255)))
    image = ImageFolder(tmp_path).load(0, 2, 2)
    expected = torch.tensor([[1.0, -1.0], [-1.0, -0.6], [-1.0, 1.0]])[:, None].expand(3, 2, 2)
    torch.testing.assert_close(image, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "JPG", "jpeg"])
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / f"a.{suffix}", paint(*[RED] * 16, height=16))
    (tmp_path / "notes.md").write_text("no image")
    image = ImageFolder(tmp_path).load(0, 16, 16)
    torch.testing.assert_close(image.mean(dim=(1, 2)), torch.tensor([1.0, -1.0, -1.0]), atol=0.03, rtol=0)


def test_the_camera_s_rotation_is_undone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right of the file: turn clockwise
    save(tmp_path / "a.png", paint(RED, RED, GREEN, GREEN), exif=exif)
    image = ImageFolder(tmp_path).load(0, 4, 2)
    assert image[0, :, 0].tolist() == [1, 1, -1, -1]  # what was left is now on top


def to_rgb(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(rgb_pixels(image)).permute(2, 0, 1)


def test_grey_transparent_palette_and_sixteen_bit_images() -> None:
    grey = to_rgb(Image.fromarray(np.array([[0, 51]], dtype=np.uint8)))
    torch.testing.assert_close(grey, torch.tensor([0.0, 0.2]).expand(3, 1, 2))
    clear = to_rgb(Image.fromarray(np.array([[[255, 0, 0, 0], [255, 0, 0, 51]]], dtype=np.uint8), "RGBA"))
    torch.testing.assert_close(clear, torch.tensor([[[1.0, 1.0]], [[1.0, 0.8]], [[1.0, 0.8]]]))
    palette = to_rgb(Image.fromarray(paint(RED, BLUE)).convert("P"))
    assert palette[:, 0, 0].tolist() == [1, 0, 0]
    deep = to_rgb(Image.fromarray(np.array([[0, 13107, 65535]], dtype=np.uint16)))
    torch.testing.assert_close(deep, torch.tensor([0.0, 0.2, 1.0]).expand(3, 1, 3))


def test_the_centre_is_cut_out_and_proportions_are_kept() -> None:
    stripes = torch.arange(6.0).expand(3, 2, 6)
    assert resize_and_crop(stripes, 2, 2)[0, 0].tolist() == [2, 3]
    assert resize_and_crop(stripes.mT, 2, 2)[0, :, 0].tolist() == [2, 3]
    # halved: the new centres lie at 0.5, 2.5, 4.5, 6.5 of the old columns, and a ramp stays a ramp
    small = resize_and_crop(torch.arange(8.0).expand(3, 4, 8), 2, 2)
    torch.testing.assert_close(small[0, 0], torch.tensor([2.5, 4.5]))
    # a fine checkerboard becomes grey instead of moiré
    board = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(8, 8).expand(3, 16, 16)
    torch.testing.assert_close(resize_and_crop(board, 4, 4)[:, 1:3, 1:3], torch.full((3, 2, 2), 0.5), atol=0.02, rtol=0)
    assert resize_and_crop(torch.ones(3, 37, 53), 32, 48).shape == (3, 32, 48)
    torch.testing.assert_close(resize_and_crop(torch.ones(3, 5, 7), 33, 64), torch.ones(3, 33, 64))


def test_order_is_by_relative_path_whatever_the_file_system_says(tmp_path: Path) -> None:
    for name in ("b/2.png", "a.png", "b/10.png", "c.png"):
        save(tmp_path / name, caption=name)
    images = ImageFolder(tmp_path)
    assert [images.caption(i) for i in range(len(images))] == ["a.png", "b/10.png", "b/2.png", "c.png"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", 'file,caption\na.png,"a cat, red"\nb/c.png,a dog\nabsent.png,x\n'),
        ("metadata.jsonl", '{"file_name": "b/c.png", "text": "a dog"}\n{"file_name": "a.png", "text": "a cat, red"}\n'),
        ("mine.csv", 'file,text\na.png,"a cat, red"\nb/c.png,a dog\n'),
    ],
)
def test_captions_from_tables(tmp_path: Path, name: str, text: str) -> None:
    save(tmp_path / "a.png", caption=None)
    save(tmp_path / "b/c.png", caption=None)
    (tmp_path / name).write_text(text)
    images = ImageFolder(tmp_path, captions=name if name == "mine.csv" else None)
    assert [images.caption(i) for i in range(2)] == ["a cat, red", "a dog"]


def test_captions_from_text_files_and_none(tmp_path: Path) -> None:
    save(tmp_path / "a.png", caption=" a red\n circle \n")
    assert ImageFolder(tmp_path).caption(0) == "a red circle"
    assert ImageFolder(tmp_path, captions="none").caption(0) == ""


def test_missing_captions_are_listed_with_the_way_out(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / name, caption=None)
    with pytest.raises(UserError, match=r"3 of 3 .*a\.png, b\.png, c\.png.*images\.captions=none"):
        ImageFolder(tmp_path)
    (tmp_path / "a.txt").write_text("a cat")
    with pytest.raises(UserError, match=r"2 of 3 .*b\.png, c\.png"):
        ImageFolder(tmp_path)
    (tmp_path / "t.csv").write_text("name,caption\na.png,x\n")
    with pytest.raises(
        UserError, match=r"has no column file or .*; it has name, caption: name one with columns\.file="
    ):
        ImageFolder(tmp_path, captions="t.csv")
    (tmp_path / "t.csv").write_text("file,caption\na.png,x\na.png,y\n")
    with pytest.raises(UserError, match="a second time"):
        ImageFolder(tmp_path, captions=tmp_path / "t.csv")
    with pytest.raises(UserError, match=r"no captions file .*u\.csv"):
        ImageFolder(tmp_path, captions="u.csv")


def test_damaged_images_are_skipped_and_counted_up_to_a_fraction(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for index in range(6):
        save(tmp_path / f"{index}.png", noise)
    jpeg = save(tmp_path / "6.jpg", noise)
    whole = len(ImageFolder(tmp_path))
    jpeg.write_bytes(jpeg.read_bytes()[:1500])  # cut in the middle of its data, header whole
    png = tmp_path / "2.png"
    png.write_bytes(png.read_bytes()[:300])
    (tmp_path / "4.png").write_bytes(b"")
    images = ImageFolder(tmp_path, max_corrupt_fraction=0.5)
    assert (whole, len(images)) == (7, 4)
    description = images.describe()
    assert description["skipped"] == ["2.png", "4.png", "6.jpg"]
    assert (description["count"], description["skipped_count"]) == (4, 3)
    with pytest.raises(UserError, match=r"3 of 7 images .*2\.png, 4\.png, 6\.jpg.*max_corrupt_fraction"):
        ImageFolder(tmp_path, max_corrupt_fraction=0.4)


def test_a_folder_of_damaged_images_only_is_an_error_whatever_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match="1 of 1"):
        ImageFolder(tmp_path, max_corrupt_fraction=1)


def test_the_digest_follows_bytes_and_captions(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    digest = ImageFolder(tmp_path).describe()["sha256"]
    assert ImageFolder(tmp_path).describe()["sha256"] == digest
    (tmp_path / "a.txt").write_text("a dog")
    assert ImageFolder(tmp_path).describe()["sha256"] != digest
    save(tmp_path / "a.png", paint(BLUE, RED))
    assert ImageFolder(tmp_path).describe()["sha256"] != digest


def test_folders_and_settings_that_cannot_be(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"images\.folder=/path/with/images"):
            ImageFolder(folder)
    with pytest.raises(UserError, match="single_frame, repeat"):
        ImageFolder(tmp_path, as_video="video")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="max_corrupt_fraction"):
        ImageFolder(tmp_path, max_corrupt_fraction=2)


def test_the_published_resize_agrees_with_the_published_code(parity_dir: Path) -> None:
    found = 0
    for description in sorted(parity_dir.glob("*.json")):
        fixture = json.loads(description.read_text())
        if fixture.get("kind") != "image_loading":
            continue
        tensors = load_file(description.with_suffix(".safetensors"))
        for call in fixture["calls"]:
            image = tensors[f"in.{call['name']}.image_u8"].numpy()
            result = published_resize(image, *call["image_size"])
            torch.testing.assert_close(result, tensors[f"out.{call['name']}.tensor"], atol=1e-5, rtol=0)
            found += 1
    assert found


def test_conditioning_images_are_stretched_as_published(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    path = save(tmp_path / "a.png", pixels)
    assert torch.equal(load_conditioning_image(path, 4, 4), published_resize(pixels, 4, 4))
    with pytest.raises(UserError, match="image="):
        load_conditioning_image(tmp_path / "b.png", 4, 4)
    path.write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read"):
        load_conditioning_image(path, 4, 4)
