"""Clips as people have them: every format read to the same pixels, and bad ones refused with the reason."""

from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation as Flag
from data_files import as_nobody, numbered, write_video
from PIL import Image

from perturb.data.decoding import upright
from perturb.data.footage import read_clip
from perturb.errors import UserError


def frames(count: int = 4, height: int = 10, width: int = 14) -> np.ndarray:
    """uint8 t h w c, every pixel different."""
    return (np.arange(count * height * width * 3) * 7 % 251).astype(np.uint8).reshape(count, height, width, 3)


def save_array(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def save_frames(folder: Path, images: list[Image.Image], pattern: str = "{}.png") -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / pattern.format(number))
    return folder


def test_a_lossless_video_is_read_whole_with_its_rate(tmp_path: Path) -> None:
    made = numbered(12, 21, 35)  # odd sizes stay odd
    read, fps = read_clip(write_video(tmp_path / "a.mp4", made, rate=15), fps=99)
    assert np.array_equal(read, made)
    assert fps == 15  # what the file says goes before what is said of those that say nothing


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv444p", "nv12", "yuv420p10le", "gray", "rgb24"])
def test_frames_by_planes_have_the_bytes_of_interleaved_ones(pixels: str) -> None:
    frame = av.VideoFrame.from_ndarray(numbered(1, 22, 70)[0], format="rgb24").reformat(format=pixels)
    flags = Flag.BILINEAR | Flag.FULL_CHR_H_INT | Flag.FULL_CHR_H_INP | Flag.ACCURATE_RND | Flag.BITEXACT
    wanted = frame.reformat(format="rgb24", interpolation=flags).to_ndarray()
    assert np.array_equal(next(upright([frame], 22, 70)), wanted)


def test_arrays_of_levels_floats_grey_and_alpha(tmp_path: Path) -> None:
    made = frames()
    same = {
        "levels": made,
        "unit": made.astype(np.float32) / 255,
        "signed": made.astype(np.float64) / 127.5 - 1,
        "rounding": made.astype(np.float32) / 255 - 1e-7,
        "opaque": np.concatenate([made, np.full_like(made[..., :1], 255)], axis=-1),
        "fortran": np.asfortranarray(made),
    }
    for name, array in same.items():
        read, fps = read_clip(save_array(tmp_path / f"{name}.npy", array), fps=8)
        assert np.array_equal(read, made), name
        assert fps == 8
    grey, _ = read_clip(save_array(tmp_path / "grey.npy", made[..., :1]), fps=8)
    assert np.array_equal(grey, np.repeat(made[..., :1], 3, axis=-1))
    clear, _ = read_clip(save_array(tmp_path / "clear.npy", np.zeros((1, 2, 2, 4), np.uint8)), fps=8)
    assert (clear == 255).all()  # transparent black lies on white


def test_folders_of_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    images = [Image.fromarray(np.full((5, 7, 3), number, np.uint8)) for number in range(12)]
    read, _ = read_clip(save_frames(tmp_path / "f", images, "frame_{}.png"), fps=8)
    assert read[:, 0, 0, 0].tolist() == list(range(12))
    deep = Image.fromarray(np.array([[0, 13107, 65535]], dtype=np.uint16))  # 16-bit grey
    read, _ = read_clip(save_frames(tmp_path / "deep", [deep]), fps=8)
    assert read[0, 0].tolist() == [[0] * 3, [51] * 3, [255] * 3]
    clear = Image.fromarray(np.array([[[255, 0, 0, 51]]], dtype=np.uint8), "RGBA")
    read, _ = read_clip(save_frames(tmp_path / "clear", [clear, clear]), fps=8)
    assert read.shape == (2, 1, 1, 3)
    assert read[0, 0, 0].tolist() == [255, 204, 204]


RAMP = np.tile(np.linspace(0, 255, 32).round().astype(np.uint8), (3, 16, 1))  # t h w
DEPTHS = {  # suffix, codec, pixel format in the file, frames and their format
    "8-bit grey": (".mp4", "libx264", "gray", RAMP, "gray"),
    "10-bit grey": (".mp4", "libx264", "gray10le", RAMP.astype(np.uint16) * 4, "gray10le"),
    "10-bit colour": (".mp4", "libx264", "yuv420p10le", np.repeat(RAMP[..., None], 3, -1), "rgb24"),
    "16-bit grey": (".mkv", "ffv1", "gray16le", RAMP.astype(np.uint16) * 257, "gray16le"),
    "16-bit colour": (".mkv", "ffv1", "gbrp16le", np.repeat(RAMP[..., None], 3, -1).astype(np.uint16) * 257, "rgb48le"),
}


@pytest.mark.parametrize("kind", DEPTHS)
def test_grey_videos_and_those_of_more_bits_have_the_same_levels(kind: str, tmp_path: Path) -> None:
    suffix, codec, pixels, made, given = DEPTHS[kind]
    options = {"qp": "0"} if codec == "libx264" else {}
    path = tmp_path / f"a{suffix}"
    write_video(path, made, rate=8, codec=codec, pixels=pixels, given=given, full_range=made.ndim == 3, options=options)
    read, fps = read_clip(path)
    assert (read.shape, fps) == ((3, 16, 32, 3), 8)
    assert np.abs(read.astype(int) - RAMP[..., None]).max() <= 1


def test_a_video_of_odd_size_and_full_chroma_keeps_its_size(tmp_path: Path) -> None:
    made = np.repeat(RAMP[:, :15, :31, None], 3, axis=-1)
    path = write_video(tmp_path / "a.mp4", made, codec="libx264", pixels="yuv444p", options={"qp": "0"})
    read, _ = read_clip(path)
    assert read.shape == made.shape
    assert np.abs(read.astype(int) - made).max() <= 1


@pytest.mark.parametrize(("suffix", "codec", "pixels"), [(".mov", "png", "rgba"), (".mkv", "ffv1", "bgra")])
def test_transparent_videos_lie_on_white(suffix: str, codec: str, pixels: str, tmp_path: Path) -> None:
    black = np.concatenate([np.zeros((3, 16, 32, 3), np.uint8), RAMP[..., None]], axis=-1)
    read, _ = read_clip(write_video(tmp_path / f"a{suffix}", black, codec=codec, pixels=pixels, given="rgba"))
    assert np.array_equal(read, np.repeat(255 - RAMP[..., None], 3, axis=-1))


def test_a_transparent_gif_lies_on_white(tmp_path: Path) -> None:
    images = []
    for opacity in (0, 255):
        pixels = np.zeros((6, 8, 4), np.uint8)
        pixels[:, :4, 3], pixels[:, 4:, 3] = 255, opacity  # the left half is black
        images.append(Image.fromarray(pixels, "RGBA"))
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=100, disposal=2)
    read, _ = read_clip(tmp_path / "a.gif")
    assert read[:, 0, [0, 7], 0].tolist() == [[0, 255], [0, 0]]


def bad_arrays() -> dict[str, tuple[np.ndarray, str]]:
    made = frames()
    nan = made.astype(np.float32) / 255
    nan[1, 2, 3, 0] = np.nan
    return {
        "nan": (nan, "holds NaN or infinite values"),
        "16-bit": (made.astype(np.uint16), "has type uint16; allowed: uint8"),
        "bool": (made > 5, "has type bool; allowed: uint8"),
        "0 to 255 as floats": (made.astype(np.float32), "holds floats from 0 to 250; allowed: uint8"),
        "unclear range": (made.astype(np.float32) / 255 - 0.05, "which may mean [0, 1] or [-1, 1]"),
        "channels first": (np.moveaxis(made, -1, 1), "has shape (4, 3, 10, 14); allowed: (frames, height, width, 3)"),
        "one image": (made[0], "has shape (10, 14, 3)"),
        "zero frames": (made[:0], "is empty: shape (0, 10, 14, 3)"),
        "objects": (np.array([{}]), "is not a readable .npy file: Object arrays"),
    }


@pytest.mark.parametrize("kind", bad_arrays())
def test_arrays_that_are_no_clip(kind: str, tmp_path: Path) -> None:
    array, reason = bad_arrays()[kind]
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    with pytest.raises(UserError) as caught:
        read_clip(tmp_path / "bad.npy", fps=8)
    assert reason in str(caught.value)


def test_files_that_are_no_clip(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", numbered(20)).read_bytes()
    early = write_video(tmp_path / "early.mp4", numbered(20), faststart=True).read_bytes()
    Image.fromarray(frames()[0]).save(tmp_path / "a.gif", save_all=True, append_images=[Image.fromarray(frames()[1])])
    gif = (tmp_path / "a.gif").read_bytes()
    content = {
        "cut.mp4": (whole[: len(whole) // 2], "Invalid data"),  # the index comes last
        "cut early.mp4": (early[: len(early) * 2 // 3], ""),
        "text.mp4": (b"a text", "Invalid data"),
        "empty.mp4": (b"", "is empty (0 bytes)"),
        "cut.gif": (gif[: len(gif) // 2], "cannot be decoded"),
        "text.gif": (b"a text", "cannot be decoded"),
        "text.npy": (b"a text", "is not a readable .npy file"),
        "empty.npy": (b"", "is not a readable .npy file"),
    }
    for name, (data, reason) in content.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            read_clip(path, fps=8)
        assert reason in str(caught.value), name
        assert str(tmp_path) not in str(caught.value), "reasons are shared; where a file lies is nobody's business"
    none = write_video(tmp_path / "none.mp4", numbered(0))
    with pytest.raises(UserError, match="holds no"):
        read_clip(none)


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(UserError, match="holds no frames"):
        read_clip(tmp_path / "folder.mp4", fps=8)
    with pytest.raises(UserError, match="No such file"):
        read_clip(tmp_path / "gone.npy", fps=8)
    with pytest.raises(UserError, match=r"a \.npy says no frame rate: give fps=…"):
        read_clip(save_array(tmp_path / "a.npy", frames()))


@pytest.mark.parametrize("name", ["a.npy", "a.mp4", "a.gif", "f/0.png", "f"])
def test_what_one_may_not_read_says_so(name: str) -> None:
    image = Image.fromarray(frames()[0])
    with TemporaryDirectory() as folder:
        place = Path(folder)
        save_array(place / "a.npy", frames())
        write_video(place / "a.mp4", numbered(4))
        image.save(place / "a.gif")
        save_frames(place / "f", [image])
        (place / name).chmod(0)
        place.chmod(0o755)
        with as_nobody(), pytest.raises(UserError, match="Permission denied"):
            read_clip(place / name.removesuffix("/0.png"), fps=8)


def test_frames_of_different_sizes_and_damaged_ones_are_named(tmp_path: Path) -> None:
    images = [Image.fromarray(frames()[0]), Image.fromarray(frames(1, 9, 14)[0])]
    folder = save_frames(tmp_path / "f", images)
    with pytest.raises(UserError, match=r"differ in size: 1\.png is 14×9, the first 14×10"):
        read_clip(folder, fps=8)
    (folder / "1.png").write_bytes((folder / "0.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"1\.png cannot be read as an image"):
        read_clip(folder, fps=8)


def test_a_clip_too_large_to_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [
        save_array(tmp_path / "a.npy", frames(8)),
        write_video(tmp_path / "a.mp4", numbered(8, 10, 14)),
        save_frames(tmp_path / "f", [Image.fromarray(one) for one in frames(8)]),
    ]
    monkeypatch.setattr("perturb.data.footage.MAX_BYTES", 7 * frames(1).size)
    for path in paths:
        with pytest.raises(UserError, match="cut it into clips"):
            read_clip(path, fps=8)
    monkeypatch.setattr("perturb.data.footage.MAX_BYTES", 8 * frames(1).size + 200)
    assert {len(read_clip(path, fps=8)[0]) for path in paths} == {8}
