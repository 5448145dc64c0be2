"""Clips from real encoded videos: which frames, at which rate, in which size; and every way a file can be broken."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from data_files import load, numbered, numbers, write_video

from perturb.data.clips import ClipReader
from perturb.data.decoding import OpenVideo, upright
from perturb.data.images import resize_and_crop
from perturb.data.source import BrokenSample, Sample, Source
from perturb.data.videos import VideoFolder, VideoTable
from perturb.errors import UserError


def videos(path: Path, row: str = "", header: str = "", **options) -> VideoTable:
    """A table with one video; ``header`` and ``row``: further columns, as in ",fps" and ",8"."""
    table = path.parent / "videos.csv"
    table.write_text(f"path,caption{header}\n{path.name},a cat{row}\n")
    return VideoTable(table, **options)


def reason(source: Source, **options) -> str:
    """Why the first sample is broken."""
    with pytest.raises(BrokenSample) as error:
        load(source, **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options"),
    [
        ("a.mp4", "libx264rgb", "rgb24", {"g": "6", "bf": "3"}),
        ("a.mp4", "libx264", "yuv444p", {"g": "40", "crf": "0"}),
        ("a.mkv", "libx264rgb", "rgb24", {"g": "6", "bf": "3"}),
        ("a.webm", "libvpx-vp9", "yuv420p", {"g": "6", "crf": "4"}),
        ("a.mov", "mjpeg", "yuvj420p", {"q:v": "2"}),
        ("a.flv", "libx264", "yuv420p", {"g": "6", "crf": "4"}),  # its index leads past the wanted frame
        (
            "a.mp4",
            "libx264rgb",
            "rgb24",
            {"x264-params": "open-gop=1:keyint=6:min-keyint=6:scenecut=0:bframes=3:b-adapt=0"},
        ),
    ],
)
def test_any_start_gives_the_frames_that_lie_there(
    tmp_path: Path, name: str, codec: str, pixels: str, options: dict[str, str]
):
    path = write_video(tmp_path / name, numbered(40), codec=codec, pixels=pixels, options=options)
    for start in range(38):
        with OpenVideo(path, name) as video:
            assert (video.count, video.fps) == (40, 24)
            shot = video.frames(start, 2 if start < 30 else 1, 2)
            pixels_seen = torch.from_numpy(np.stack(list(upright(shot, 32, 32))))
        shown = numbers(pixels_seen.permute(3, 0, 1, 2) / 127.5 - 1)
        assert shown == [start, start + (2 if start < 30 else 1)]


def test_strides_and_starts_are_uniform_over_all_that_fit(tmp_path: Path):
    source = videos(write_video(tmp_path / "a.mp4", numbered(14)), stride={"min": 2, "max": 6})
    seen: dict[int, list[int]] = {}
    for seed in range(150):
        shown = numbers(load(source, frames=4, size=8, seed=seed).frames)
        seen.setdefault(shown[1] - shown[0], []).append(shown[0])
    # 4 frames at stride 4 cover 13 of the 14, at stride 5 they would cover 16
    assert sorted(seen) == [2, 3, 4]
    assert all(len(starts) == pytest.approx(50, abs=25) for starts in seen.values())
    assert {stride: set(starts) for stride, starts in seen.items()} == {2: set(range(8)), 3: set(range(5)), 4: {0, 1}}


def test_lossless_pixels_come_back_exactly_and_the_same_draw_twice(tmp_path: Path):
    frames = np.random.default_rng(0).integers(0, 256, (6, 36, 48, 3), dtype=np.uint8)
    source = videos(write_video(tmp_path / "a.mp4", frames), stride={"min": 1, "max": 1})
    sample = load(source, frames=6, size=(36, 48))
    expected = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1
    assert torch.equal(sample.frames, expected)
    assert sample == Sample("a.mp4", sample.frames, "a cat", 24.0)
    assert torch.equal(load(source, frames=3, seed=5).frames, load(source, frames=3, seed=5).frames)


def test_odd_sizes_are_resized_with_their_proportions_and_cropped(tmp_path: Path):
    # 35 × 61: left half black, right half white; a white dot in the middle of each edge would move if stretched
    frames = np.zeros((3, 35, 61, 3), dtype=np.uint8)
    frames[:, :, 31:] = 255
    path = write_video(tmp_path / "a.mkv", frames, codec="ffv1", pixels="bgr0")
    one: Any = {"stride": {"min": 1, "max": 1}}
    centre = load(videos(path, **one), frames=2, size=35).frames
    assert centre.shape == (3, 2, 35, 35)
    # the middle 35 of 61 columns begin at 13: white from 31 − 13 = 18 on
    assert torch.equal(centre[0, 0], (torch.arange(35) >= 18).float().expand(35, 35) * 2 - 1)
    edges = {
        int((load(videos(path, crop="random", **one), frames=1, size=35, seed=seed).frames[0, 0, 0] < 0).sum())
        for seed in range(60)
    }
    assert edges <= set(range(5, 32))  # columns of black left of the edge: 31 − left, left = 0 … 26
    assert len(edges) > 15
    half = load(videos(path, **one), frames=1, size=(17, 31)).frames
    assert float(half[0, 0, 8, 5]) == pytest.approx(-1, abs=0.03)
    assert float(half[0, 0, 8, 25]) == pytest.approx(1, abs=0.03)


def test_resizing_averages_and_agrees_with_the_resizing_of_stills(tmp_path: Path):
    noise = np.random.default_rng(1).integers(0, 256, (1, 16, 24, 3), dtype=np.uint8)
    smooth = np.kron(noise, np.ones((1, 8, 8, 1), dtype=np.uint8))
    path = write_video(tmp_path / "a.mkv", smooth, codec="ffv1", pixels="bgr0")
    clip = load(videos(path), frames=1, size=(40, 44)).frames[:, 0]
    still = resize_and_crop(torch.from_numpy(smooth[0]).permute(2, 0, 1).float() / 255, 40, 44) * 2 - 1
    assert float((clip - still).abs().mean()) < 0.01
    assert float((clip - still).abs().max()) < 0.2


def test_a_phone_s_rotation_is_undone(tmp_path: Path):
    frames = np.zeros((2, 16, 32, 3), dtype=np.uint8)
    frames[:, :, :16] = 255  # the left half
    upright = {
        turn: load(videos(write_video(tmp_path / f"{turn}.mp4", frames, rotation=turn)), frames=1, size=size).frames
        for turn, size in ((0, (16, 32)), (90, (32, 16)), (180, (16, 32)), (270, (32, 16)))
    }
    white = {turn: clip[0, 0] > 0 for turn, clip in upright.items()}
    # display rotation is counted anticlockwise: what was left lies below after 90°, on top after 270°
    assert white[0][:, :16].all()
    assert not white[0][:, 16:].any()
    assert white[90][16:].all()
    assert not white[90][:16].any()
    assert white[180][:, 16:].all()
    assert white[270][:16].all()


def test_one_frame_videos_serve_as_stills_and_are_too_short_for_clips(tmp_path: Path):
    source = videos(write_video(tmp_path / "a.mp4", numbered(1)))
    assert numbers(load(source, frames=1).frames) == [0]
    assert "a.mp4: has 1 frames; 2 at stride 1 take 2" in reason(source, frames=2)
    short = videos(write_video(tmp_path / "b.mp4", numbered(9)), stride={"min": 3, "max": 6})
    assert "has 9 frames; 4 at stride 3 take 10" in reason(short, frames=4)
    assert len(numbers(load(short, frames=3).frames)) == 3


def test_empty_and_foreign_files_are_broken_with_the_reason(tmp_path: Path):
    (tmp_path / "a.mp4").write_bytes(b"")
    assert reason(videos(tmp_path / "a.mp4")).endswith("a.mp4: is empty (0 bytes)")
    (tmp_path / "a.mp4").write_text("no video at all" * 100)
    assert "a.mp4: cannot be decoded: " in reason(videos(tmp_path / "a.mp4"))
    assert reason(videos(tmp_path / "absent.mp4")).endswith("absent.mp4: no such file")
    for name in ("zero.mp4", "zero.mkv"):
        zero = write_video(tmp_path / name, numbered(0))
        assert zero.stat().st_size > 200  # a sound header, and nothing behind it
        assert f"{name}: " in reason(videos(zero))
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    assert reason(videos(tmp_path / "sound.mp4")).endswith("holds no video stream")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("share", [0.15, 0.4, 0.65, 0.85])
def test_a_cut_file_gives_true_frames_or_none(tmp_path: Path, name: str, share: float):
    noise = np.random.default_rng(0).integers(0, 40, (30, 32, 32, 3), dtype=np.uint8)
    frames = numbered(30) + noise
    whole = write_video(tmp_path / name, frames, faststart=name == "a.mp4", options={"g": "5"})
    true = {frame.tobytes() for frame in frames}
    whole.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    source, reasons = videos(whole, stride={"min": 1, "max": 1}), []
    for seed in range(25):
        try:
            clip = load(source, frames=8, seed=seed).frames
        except BrokenSample as error:
            reasons.append(error.reason)
            continue
        pixels = ((clip + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
        assert all(frame.tobytes() in true for frame in pixels)
    assert reasons
    assert all("cut off" in text or "cannot be decoded" in text or "damaged" in text for text in reasons)


def test_damage_in_the_middle_spoils_all_frames_until_the_next_keyframe(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 40, (24, 32, 32, 3), dtype=np.uint8)
    path = write_video(tmp_path / "a.mp4", numbered(24) + noise, options={"g": "12", "bf": "0", "sc_threshold": "0"})
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        places = [(packet.pos or 0, packet.size, packet.is_keyframe) for packet in packets]
    assert [number for number, (_, _, key) in enumerate(places) if key] == [0, 12]
    content = bytearray(path.read_bytes())
    begin, size, _ = places[5]
    content[begin + size // 2 : begin + size // 2 + 40] = b"\xff" * 40
    path.write_bytes(content)
    sound = set()
    for start in range(23):
        with OpenVideo(path, "a.mp4") as video, contextlib.suppress(BrokenSample):
            sound |= {start} if len(video.frames(start, 1, 2)) == 2 else set()
    assert sound == {0, 1, 2, 3, *range(12, 23)}


def test_without_its_index_a_cut_mp4_is_broken(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", numbered(20))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cannot be decoded" in reason(videos(path))


def test_the_table_s_rate_goes_before_the_container_s(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", numbered(20), rate=24)
    assert load(videos(path, stride={"min": 3, "max": 3})).fps == 8
    assert load(videos(path, ",12", ",fps", stride={"min": 3, "max": 3})).fps == 4
    assert load(videos(path, ",", ",fps", stride={"min": 3, "max": 3})).fps == 8  # an empty cell says nothing


def test_rows_of_a_jsonl_table_need_not_all_give_a_rate(tmp_path: Path):
    rows = [{"path": f"{i}.mp4", "caption": "a cat"} | ({"fps": 12} if i == 1 else {}) for i in range(4)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(VideoTable(tmp_path / "t.jsonl").fps or ()) == ["", "12", "", ""]


@pytest.mark.parametrize("cell", ["abc", "0", "-24", "nan", "inf", "90000"])
def test_a_table_s_impossible_rate_is_broken(tmp_path: Path, cell: str):
    path = write_video(tmp_path / "a.mp4", numbered(20))
    text = reason(videos(path, f",{cell}", ",fps"))
    assert f"the table gives '{cell}' frames per second; allowed: 1 to 240" in text


def test_a_container_s_wrong_rate_is_broken_unless_the_table_knows_better(tmp_path: Path):
    stride = {"min": 2, "max": 2}
    fast = write_video(tmp_path / "a.mp4", numbered(20), rate=5000)
    assert "its frames have 5000 per second; allowed: 1 to 240" in reason(videos(fast))
    sample = load(videos(fast, ",24", ",fps", stride=stride))
    assert (sample.fps, np.diff(numbers(sample.frames)).tolist()) == (12, [2, 2, 2])
    # the header says 50, the timestamps are a tenth of a second apart
    stamps = tuple(i / 10 for i in range(20))
    lying = write_video(tmp_path / "b.mkv", numbered(20), rate=50, stamps=stamps)
    for seed in range(10):
        sample = load(videos(lying, stride=stride), seed=seed)
        assert (sample.fps, np.diff(numbers(sample.frames)).tolist()) == (5, [2, 2, 2])


def test_a_recording_without_duration_is_read_to_its_end(tmp_path: Path):
    buffer = io.BytesIO()  # what cannot be sought in, as a live recording, has no duration
    buffer.seekable = lambda: False  # type: ignore[method-assign]
    frames = numbered(20)
    with av.open(buffer, "w", format="matroska", options={"live": "1"}) as container:
        stream: Any = container.add_stream("libx264rgb", rate=10, options={"qp": "0", "g": "5"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    path = tmp_path / "live.mkv"
    path.write_bytes(buffer.getvalue())
    with av.open(str(path)) as container:
        assert not container.duration
        assert not container.streams.video[0].frames
    source = videos(path, stride={"min": 1, "max": 1})
    assert max(numbers(load(source, seed=seed).frames)[-1] for seed in range(40)) == 19


def test_a_folder_with_captions_reads_like_a_table(tmp_path: Path):
    write_video(tmp_path / "b/2.mp4", numbered(20)).with_suffix(".txt").write_text("two")
    write_video(tmp_path / "a.webm", numbered(20), codec="libvpx-vp9", pixels="yuv420p").with_suffix(".txt").write_text(
        "a"
    )
    folder = VideoFolder(tmp_path, stride={"min": 1, "max": 2})
    assert [folder.captions[i] for i in range(len(folder))] == ["a", "two"]
    (tmp_path / "t.csv").write_text("path,caption\na.webm,a\nb/2.mp4,two\n")
    table = VideoTable(tmp_path / "t.csv", stride={"min": 1, "max": 2})
    for index in range(2):
        one, other = load(folder, index, seed=3), load(table, index, seed=3)
        assert (one.key, one.caption, one.fps) == (other.key, other.caption, other.fps)
        assert torch.equal(one.frames, other.frames)
    (tmp_path / "b/2.txt").unlink()
    with pytest.raises(
        UserError, match=r"1 of 2 files .* have no caption, e\.g\. b/2\.mp4.*give a table with captions="
    ):
        VideoFolder(tmp_path)
    with pytest.raises(UserError, match=r"holds no videos .*folder=/path/with/videos"):
        VideoFolder(tmp_path / "b", captions="none") if (tmp_path / "b/2.mp4").unlink() is None else None


@pytest.mark.parametrize("stride", [{"min": 0, "max": 6}, {"min": 3, "max": 2}, {"min": 1}, {"min": 1.0, "max": 2}])
def test_strides_that_cannot_be(stride):
    with pytest.raises(UserError, match="stride is"):
        ClipReader(stride=stride)


def test_crops_that_cannot_be():
    with pytest.raises(UserError, match="crop is 'left'; allowed: centre, random"):
        ClipReader(crop="left")  # pyright: ignore[reportArgumentType]
