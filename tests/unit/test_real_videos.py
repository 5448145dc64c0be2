"""Videos and animations as people have them: cover art, edit lists, pauses, merged frames, many containers; damage.

Axes: t frames, h w pixels, c channels (RGB).
"""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from data_files import LEVEL, load, mutated, numbered, numbers, write_video
from PIL import Image

from perturb.data.animations import gif_is_whole, is_animation
from perturb.data.collection import find_clips
from perturb.data.decoding import OpenVideo
from perturb.data.footage import read_clip
from perturb.data.source import BrokenSample
from perturb.data.timeline import Timeline
from perturb.data.videos import VideoFolder, VideoTable
from perturb.errors import UserError

ONE = {"min": 1, "max": 1}
LOSSLESS: dict[str, dict[str, Any]] = {"webp": {"lossless": True}}


def seen(path: Path, fps: float | None = None) -> tuple[list[int], float]:
    """Which frames of `numbered` a clip to score shows, and its rate."""
    frames, rate = read_clip(path, fps)
    return [round(int(red) / LEVEL) - 1 for red in frames[:, 16, 16, 0]], rate


def trained(path: Path, frames: int) -> tuple[list[int], float]:
    """Which frames a training clip of the folder of a file shows, and its rate."""
    folder = VideoFolder(path.parent, "none", stride=ONE)
    sample = load(folder, list(folder.names).index(path.name), frames=frames)
    return numbers(sample.frames), sample.fps


def remuxed(source: Path, target: Path, *, back: int = 0, cover: bool = False, sound: float = 0) -> Path:
    """The same encoded frames in another file.

    ``back``: so many frames begin before the film does, as a cut without re-encoding leaves them. ``cover``: a picture
    comes before the film. ``sound``: seconds of silence beside it.
    """
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(source)) as one, av.open(str(target), "w", options=options) as other:
        film = one.streams.video[0]
        art: Any = None
        if cover:
            art = other.add_stream("mjpeg", rate=1)
            art.width, art.height, art.pix_fmt, art.disposition = 16, 16, "yuvj420p", 1 << 10
        copy = other.add_stream_from_template(film)
        voice: Any = other.add_stream("aac", rate=8000) if sound else None
        if cover:
            picture = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 200, np.uint8), format="rgb24")
            other.mux(art.encode(picture.reformat(format="yuvj420p")))
            other.mux(art.encode())
        step = round(1 / (film.average_rate or 1) / (film.time_base or 1))
        for packet in one.demux(film):
            if packet.dts is None or packet.pts is None:
                continue
            packet.pts, packet.dts, packet.stream = packet.pts - back * step, packet.dts - back * step, copy
            other.mux(packet)
        for number in range(round(sound * 8000 / 1024)):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts, silence.time_base = 8000, number * 1024, Fraction(1, 8000)
            other.mux(voice.encode(silence))
        other.mux(voice.encode() if sound else [])
    return target


def boxes(content: bytes) -> list[bytes]:
    """The boxes that follow one another in a part of an mp4."""
    found = []
    while content:
        size = int.from_bytes(content[:4], "big")
        found.append(content[:size])
        content = content[size:]
    return found


def cover_first(path: Path) -> Path:
    """Moves what holds the cover before the film, as other programs write it."""
    whole = boxes(path.read_bytes())
    for number, box in enumerate(whole):
        if box[4:8] == b"moov":
            inner = sorted(boxes(box[8:]), key=lambda part: part[4:8] != b"udta")
            whole[number] = box[:8] + b"".join(inner)
    path.write_bytes(b"".join(whole))
    return path


@pytest.mark.parametrize("suffix", ["mp4", "m4v"])
@pytest.mark.parametrize("first", [True, False])
def test_cover_art_before_or_after_the_film_is_not_the_film(tmp_path: Path, suffix: str, first: bool) -> None:
    film = write_video(tmp_path / "source.mp4", numbered(12), rate=12)
    (tmp_path / "b").mkdir()
    path = remuxed(film, tmp_path / "b/a.mp4", cover=True).rename(tmp_path / f"b/a.{suffix}")
    if first:
        cover_first(path)
    with av.open(str(path)) as container:
        assert [bool(stream.disposition & 1 << 10) for stream in container.streams.video] == [first, not first]
    assert seen(path) == (list(range(12)), 12)
    assert trained(path, 12) == (list(range(12)), 12)


def test_a_song_with_a_cover_is_no_film(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.m4v"), "w", format="mp4") as container:
        art: Any = container.add_stream("mjpeg", rate=1)
        art.width, art.height, art.pix_fmt, art.disposition = 16, 16, "yuvj420p", 1 << 10
        picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        container.mux(art.encode(picture.reformat(format="yuvj420p")))
        container.mux(art.encode())
    with pytest.raises(UserError, match="holds no video stream, only a cover picture"):
        read_clip(tmp_path / "a.m4v")


@pytest.mark.parametrize("suffix", ["mp4", "mov", "3gp"])
@pytest.mark.parametrize("bframes", ["0", "3"])
def test_a_cut_without_re_encoding_begins_where_it_was_cut(tmp_path: Path, suffix: str, bframes: str) -> None:
    options = {"g": "25", "bf": bframes, "sc_threshold": "0"}
    film = write_video(tmp_path / "whole.mp4", numbered(50), rate=25, options=options)
    (tmp_path / "cut").mkdir()
    path = remuxed(film, tmp_path / f"cut/a.{suffix}", back=24)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 50  # the file still lists them all
    assert seen(path) == (list(range(24, 50)), 25)
    assert trained(path, 26) == (list(range(24, 50)), 25)
    with OpenVideo(path, "a") as video:
        assert video.count == 26


PAUSE = (*(i / 8 for i in range(8)), *(3 + i / 8 for i in range(8)))  # 8 frames, a pause of 2 s, 8 frames
PAUSED = [*range(8), *[7] * 16, *range(8, 16)]  # the same at 8 fps throughout
CONTAINERS = {
    "mp4": ("libx264rgb", "rgb24"),
    "mov": ("libx264rgb", "rgb24"),
    "mkv": ("libx264rgb", "rgb24"),
    "webm": ("libvpx-vp9", "yuv420p"),
    "flv": ("libx264", "yuv420p"),
    "ts": ("libx264", "yuv420p"),
}


def in_container(path: Path, frames: np.ndarray, **options: Any) -> Path:
    codec, pixels = CONTAINERS[path.suffix[1:]]
    quality = {"crf": "4"} if codec == "libvpx-vp9" else {"qp": "0"}
    return write_video(path, frames, codec=codec, pixels=pixels, options=quality | {"g": "6"}, **options)


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_pause_is_the_same_film_in_every_container(tmp_path: Path, suffix: str) -> None:
    path = in_container(tmp_path / f"a.{suffix}", numbered(16), rate=8, stamps=PAUSE)
    assert seen(path) == (PAUSED, 8)
    assert trained(path, 32) == (PAUSED, 8)
    for seed in range(4):
        clip = load(VideoFolder(tmp_path, "none", stride={"min": 2, "max": 3}), frames=5, seed=seed)
        stride = round(8 / clip.fps)
        assert numbers(clip.frames) in [PAUSED[start : start + 4 * stride + 1 : stride] for start in range(32)]


def test_a_paused_film_has_the_pixels_of_the_same_film_at_a_constant_rate(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 200, (16, 32, 32, 3), dtype=np.uint8)
    paused, _ = read_clip(write_video(tmp_path / "a.mp4", noise, rate=8, stamps=PAUSE))
    constant, _ = read_clip(write_video(tmp_path / "b.mp4", noise[PAUSED], rate=8))
    assert np.array_equal(paused, constant)


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_frames_that_were_left_out_are_stood_in_for_by_the_one_before(tmp_path: Path, suffix: str) -> None:
    kept = [number for number in range(40) if number % 5 != 3]
    stamps = tuple(number / 25 for number in kept)
    path = in_container(tmp_path / f"a.{suffix}", numbered(40)[kept], rate=25, stamps=stamps)
    assert seen(path) == ([number - (number % 5 == 3) for number in range(40)], 25)


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60), Fraction(25, 2)])
def test_a_constant_rate_stays_whole_however_coarse_its_clock(tmp_path: Path, suffix: str, rate: Fraction) -> None:
    frames = np.concatenate([numbered(50)] * 3)
    path = in_container(tmp_path / f"a.{suffix}", frames, rate=rate)
    found, fps = seen(path)
    assert found == [*range(50)] * 3
    assert fps == pytest.approx(float(rate), rel=2e-3)


def test_a_rate_wanders_and_frames_are_those_of_the_time() -> None:
    jitter = np.random.default_rng(0).uniform(-0.008, 0.008, 60)
    times = np.arange(60) / 30 + jitter
    film = Timeline(times.tolist(), [29.5])
    assert film.fps == pytest.approx(30, rel=0.06)
    shown = film.shown(range(film.count))
    assert shown == sorted(shown)
    assert all(abs(times[index] - times[0] - k / film.fps) < 1.1 / film.fps for k, index in enumerate(shown))
    # pulldown of films: three half frames, then two
    assert Timeline(np.cumsum([0.0, *[0.05, 1 / 30] * 20]).tolist()).fps == pytest.approx(24, rel=0.01)
    assert Timeline([5.0]).fps == 0
    assert Timeline([0, 0.5, 1], fps=12).shown([0, 2]) == [0, 2]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_sound_that_goes_on_after_the_pictures_cuts_nothing_off(tmp_path: Path, suffix: str) -> None:
    film = write_video(tmp_path / "source.mp4", numbered(12), rate=12)
    (tmp_path / "b").mkdir()
    path = remuxed(film, tmp_path / f"b/a.{suffix}", sound=4.0)
    with av.open(str(path)) as container:
        assert (container.duration or 0) / 1e6 > 3.5
    assert seen(path) == (list(range(12)), 12)
    assert trained(path, 12)[0] == list(range(12))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "flv", "ts", "webm"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_cut_file_is_named_or_gives_true_frames(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 3, (40, 32, 32, 3), dtype=np.uint8)
    codec, pixels = CONTAINERS.get(suffix, ("libx264rgb", "rgb24"))
    kind: Any = {"codec": codec, "pixels": pixels, "options": {"g": "8"}, "faststart": suffix == "mp4"}
    path = write_video(tmp_path / f"a.{suffix}", numbered(40) + noise, **kind)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    if suffix == "ts":  # a broadcast has no end that could be missing
        shown, _ = seen(path)
        assert shown == list(range(len(shown)))
        assert 4 < len(shown) < 38
    else:
        with pytest.raises(UserError, match=r"cut off|cannot be decoded|damaged"):
            read_clip(path)


READ = {"ts": "libx264", "mts": "libx264", "flv": "libx264", "3gp": "libx264", "mpg": "mpeg2video", "wmv": "wmv2"}


@pytest.mark.parametrize("suffix", READ)
def test_other_containers_are_found_and_read(tmp_path: Path, suffix: str) -> None:
    options = {"g": "7"} | ({"qp": "0"} if READ[suffix] == "libx264" else {"b": "4M"})
    made = np.repeat(numbered(30).max(axis=-1, keepdims=True), 3, axis=-1)  # grey: red suffers from half chroma
    path = write_video(tmp_path / f"a.{suffix}", made, codec=READ[suffix], pixels="yuv420p", options=options)
    assert list(find_clips(tmp_path, "videos").clips) == [f"a.{suffix}"]
    shown, rate = seen(path)
    assert (len(shown), rate) == (30, 24)
    assert np.abs(np.array(shown) - np.arange(30)).max() <= 1
    source = VideoFolder(tmp_path, "none", stride=ONE)
    for seed in range(5):  # any start
        found = numbers(load(source, frames=3, seed=seed).frames)
        assert np.abs(np.diff(found) - 1).max() <= 1


@pytest.mark.parametrize(("suffix", "mark"), [("mp4", b"avc1"), ("mov", b"avc1"), ("mkv", b"V_MPEG4/ISO/AVC")])
def test_an_unknown_codec_is_named_in_scoring_and_training(tmp_path: Path, suffix: str, mark: bytes) -> None:
    path = write_video(tmp_path / f"a.{suffix}", numbered(5))
    content = path.read_bytes()
    assert mark in content
    path.write_bytes(content.replace(mark, b"V_UNKNOWN/ABCDE"[: len(mark)]))
    with pytest.raises(UserError, match="cannot be decoded: Decoder not found"):
        read_clip(path)
    with pytest.raises(BrokenSample, match=r"cannot be decoded: Decoder not found"):
        trained(path, 2)


def test_advice_names_what_the_command_has(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(5), rate=5000)
    with pytest.raises(UserError, match=r"its frames have 5000 per second; allowed: 1 to 240: encode it anew") as found:
        read_clip(path)
    assert "table" not in str(found.value)
    with pytest.raises(BrokenSample, match=r"5000 per second; .*a table, .* may give the right fps"):
        trained(path, 2)


# --- animations -----------------------------------------------------------------------------------------------------


def animation(path: Path, order: list[int], delay: float | list[float] = 100) -> Path:
    """Frames of `numbered` in this order, as Pillow writes them: equal ones that follow one another become one."""
    images = [Image.fromarray(numbered(40)[number]) for number in order]
    kind = "PNG" if path.suffix in (".png", ".apng") else None
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(
        path, kind, save_all=True, append_images=images[1:], duration=delay, **LOSSLESS.get(path.suffix[1:], {})
    )
    return path


KINDS = ["gif", "webp", "png", "apng"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "order",
    [
        [*range(8), *[7] * 8],  # the second half is frozen
        [*[0] * 5, *range(1, 8)],  # the beginning
        [0, 1, 1, 1, 2, 3, 3, 4, 4, 4, 5, 6],
        list(range(16)),
    ],
)
def test_merged_frames_come_back_by_their_delays(tmp_path: Path, kind: str, order: list[int]) -> None:
    path = animation(tmp_path / f"a.{kind}", order)
    assert list(find_clips(tmp_path, "videos").clips) == [path.name]
    assert seen(path) == (order, 10)
    assert trained(path, len(order)) == (order, 10)


@pytest.mark.parametrize("kind", ["gif"])
def test_a_static_animation_is_a_static_clip(tmp_path: Path, kind: str) -> None:
    path = animation(tmp_path / f"a.{kind}", [3] * 16)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 1
        assert image.info["duration"] == 1600
    assert seen(path) == ([3] * 16, 10)
    assert seen(path, fps=5) == ([3] * 8, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pause_at_the_end_does_not_change_the_rate(tmp_path: Path, kind: str) -> None:
    path = animation(tmp_path / f"a.{kind}", list(range(8)), [100.0] * 7 + [2000.0])
    assert seen(path) == ([*range(8), *[7] * 19], 10)


def test_delays_of_hundredths_mean_the_rate_they_are_nearest_to(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.gif", list(range(30)), [30.0, 30.0, 40.0] * 10)
    assert seen(path) == (list(range(30)), 30)
    path = animation(tmp_path / "b.gif", list(range(24)), [40.0, 40.0, 40.0, 40.0, 50.0, 40.0] * 4)
    assert seen(path) == (list(range(24)), 24)


def test_delays_that_no_browser_keeps_are_a_tenth_of_a_second(tmp_path: Path) -> None:
    assert seen(animation(tmp_path / "a.gif", list(range(8)), 10)) == (list(range(8)), 10)
    assert seen(animation(tmp_path / "b.gif", list(range(8)), 20)) == (list(range(8)), 50)


def test_without_any_delay_the_rate_must_be_given(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.gif", list(range(6)), 0)
    assert seen(path, fps=12) == (list(range(6)), 12)
    with pytest.raises(UserError, match=r"says no frame rate; .*give fps=…"):
        read_clip(path)
    with pytest.raises(BrokenSample, match=r"says no frame rate; .*a table, .*"):
        trained(path, 2)
    (tmp_path / "t.csv").write_text("file,caption,fps\na.gif,a cat,24\n")
    sample = load(VideoTable(tmp_path / "t.csv", stride={"min": 2, "max": 2}), frames=3)
    assert (numbers(sample.frames), sample.fps) in [([i, i + 2, i + 4], 12) for i in range(2)]


def test_the_picture_for_programs_without_animations_is_no_frame(tmp_path: Path) -> None:
    images = [Image.fromarray(numbered(9)[number]) for number in (8, 0, 1, 2)]
    path = tmp_path / "a.png"
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, default_image=True)
    assert seen(path) == ([0, 1, 2], 10)


def test_still_webp_and_png_files_are_frames_and_animated_ones_clips(tmp_path: Path) -> None:
    for number in range(3):
        for kind in ("webp", "png"):
            still = tmp_path / f"{kind}/{number}.{kind}"
            still.parent.mkdir(exist_ok=True)
            Image.fromarray(numbered(9)[number]).save(still, kind, **LOSSLESS.get(kind, {}))
            assert not is_animation(still)
    animation(tmp_path / "mixed/a.webp", [0, 1])
    Image.fromarray(numbered(1)[0]).save(tmp_path / "mixed/thumbnail.png")
    found = find_clips(tmp_path, "videos").clips
    assert list(found) == ["mixed/a.webp", "png", "webp"]
    assert seen(found["webp"], fps=8) == ([0, 1, 2], 8)
    with pytest.raises(UserError, match="holds no videos, only pictures"):
        VideoFolder(tmp_path / "png", "none")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
def test_a_cut_animation_is_no_shorter_one(tmp_path: Path, kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    images = [Image.fromarray(frame) for frame in noise]
    path = tmp_path / f"a.{kind}"
    images[0].save(path, "PNG" if "png" in kind else None, save_all=True, append_images=images[1:], duration=100)
    content = path.read_bytes()
    assert kind != "gif" or (gif_is_whole(content) and gif_is_whole(content + b"\0\0"))
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="cannot be decoded"):
        read_clip(path)


def test_a_gif_cut_between_two_frames_is_cut_off(tmp_path: Path) -> None:
    content = animation(tmp_path / "a.gif", list(range(6))).read_bytes()
    cuts = [place for place in range(len(content)) if content[place : place + 3] == b"\x21\xf9\x04"]
    (tmp_path / "a.gif").write_bytes(content[: cuts[3]])
    with Image.open(tmp_path / "a.gif") as image:
        assert getattr(image, "n_frames", 0) == 3  # nothing is missing, says the decoder
    with pytest.raises(UserError, match="its end is missing, it was cut off"):
        read_clip(tmp_path / "a.gif")


def test_animations_too_large_to_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = animation(tmp_path / "a.gif", [0, 1, 2], [100.0, 100.0, 60000.0])
    monkeypatch.setattr("perturb.data.footage.MAX_BYTES", 100 * 32 * 32 * 3)  # as a clip it has 602 frames
    with pytest.raises(UserError, match="cut it into clips"):
        read_clip(path)
    monkeypatch.setattr("perturb.data.animations.MAX_BYTES", 2 * 32 * 32 * 3)
    with pytest.raises(UserError, match="cut it into clips"):
        read_clip(path)


def test_a_mutated_video_or_animation_is_read_or_named(tmp_path: Path) -> None:
    random = np.random.default_rng(17)
    small = numbered(9, 16, 16)
    originals: dict[str, bytes] = {}
    for suffix in ("mp4", "mkv", "avi", "ts", "flv"):
        codec, pixels = CONTAINERS.get(suffix, ("libx264rgb", "rgb24"))
        options = {"g": "4", "x264-params": "threads=1"}
        path = write_video(tmp_path / f"x.{suffix}", small, codec=codec, pixels=pixels, options=options)
        originals[suffix] = path.read_bytes()
    for kind in ("gif", "webp", "png"):
        buffer = io.BytesIO()
        images = [Image.fromarray(frame) for frame in small]
        images[0].save(buffer, kind, save_all=True, append_images=images[1:], duration=100)
        originals[kind] = buffer.getvalue()
    outcomes = {True: 0, False: 0}
    for number in range(300):
        suffix = list(originals)[number % len(originals)]
        path = tmp_path / f"f/{number:03}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(mutated(originals[suffix], random))
        for attempt in (lambda path=path: read_clip(path, 8)[0], lambda path=path: one_clip(path)):
            try:
                frames = attempt()
            except UserError:
                outcomes[False] += 1
            else:
                assert np.isfinite(np.asarray(frames, dtype=np.float32)).all()
                outcomes[True] += 1
    assert min(outcomes.values()) > 60


def one_clip(path: Path) -> np.ndarray:
    table = path.with_suffix(".csv")
    table.write_text(f"file,caption\n{path.name},a cat\n")
    return load(VideoTable(table), frames=2, size=8).frames.numpy()
