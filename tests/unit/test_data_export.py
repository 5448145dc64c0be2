"""The embedded world written to files and read back: pixels, captions, rates; and the same bytes every time."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import load

from perturb.data.feed import FeedConfig, IndexedFeed, ShardFeed
from perturb.data.images import ImageFolder
from perturb.data.shards import ImageShards, VideoShards
from perturb.data.stills import still_table
from perturb.data.videos import VideoFolder, VideoTable
from perturb.errors import UserError
from perturb.world.__main__ import main
from perturb.world.export import Export, export
from perturb.world.render import render, render_still
from perturb.world.scenes import scene, still_moment

STEADY = {"min": 1, "max": 1}


def pixels(frames: torch.Tensor) -> np.ndarray:
    """c t h w in [−1, 1] → uint8 t h w c."""
    return ((frames + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB."""
    return -10 * math.log10(float(((one.astype(float) - other) ** 2).mean()) / 255**2)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("grade", ["low", "high"])
def test_clips_come_back_with_caption_and_rate(tmp_path: Path, grade):
    table = VideoTable(export(Export(kind="clips", grade=grade, count=4, seed=3), tmp_path / "a"), stride=STEADY)
    lossless = Export(kind="clips", grade=grade, count=4, seed=3, lossless=True)
    exact = VideoFolder(export(lossless, tmp_path / "b").parent, stride=STEADY)
    for index in range(4):
        here, fps = scene(3, index), 16 if index == 3 else 8
        true = render(here, grade, fps=fps, noise_seed=index)
        lossy, whole = load(table, index, frames=8, size=64), load(exact, index, frames=8, size=64)
        assert (lossy.caption, whole.caption) == (here.caption, here.caption)
        assert (lossy.fps, whole.fps) == (fps, fps)
        assert np.array_equal(pixels(whole.frames), true)
        # yuv420p halves the resolution of colour; crf 16 costs little beside it
        assert psnr(pixels(lossy.frames), true) > 30


def test_strides_slow_the_rate_down(tmp_path: Path):
    settings = Export(kind="clips", grade="high", count=1, seed=3, frames=24, fps=(24.0,), lossless=True)
    table = export(settings, tmp_path / "a")
    sample = load(VideoTable(table, stride={"min": 3, "max": 3}), frames=8, size=64)
    assert sample.fps == 8
    true = render(scene(3, 0), "high", frames=24, fps=24)
    assert np.array_equal(
        pixels(sample.frames), true[next(s for s in range(3) if (true[s] == pixels(sample.frames)[0]).all()) :: 3]
    )


@pytest.mark.parametrize("grade", ["web", "high"])
def test_stills_come_back_exactly(tmp_path: Path, grade):
    table = export(Export(kind="stills", grade=grade, count=4, seed=5), tmp_path)
    folder, source = ImageFolder(tmp_path), still_table(table)
    for index in range(4):
        true = render_still(scene(5, index), grade, moment=still_moment(index), noise_seed=index)
        sample = load(source, index, size=64)
        assert np.array_equal(pixels(sample.frames)[0], true)
        assert sample.caption == folder.caption(index) == scene(5, index).caption


def test_shards_hold_the_same_samples_as_files(tmp_path: Path):
    for kind, grade in (("clips", "low"), ("stills", "web")):
        settings: dict[str, Any] = {"kind": kind, "grade": grade, "count": 4, "seed": 3}
        one = export(Export(**settings, form="files"), tmp_path / f"{kind} files")
        many = export(Export(**settings, form="shards", per_shard=3), tmp_path / f"{kind} shards")
        assert [path.name for path in sorted(many.glob("*.tar"))] == ["000000.tar", "000001.tar"]
        source = VideoTable(one, stride=STEADY) if kind == "clips" else still_table(one)
        shards = VideoShards(str(many), stride=STEADY) if kind == "clips" else ImageShards(str(many))
        size = FeedConfig(seed=0, batch_size=4, frames=8, height=64, width=64)
        samples = ShardFeed(shards, size, rank=0, world=1).samples(0, range(4))
        for sample in samples:
            index = int(sample.key.rpartition("/")[2])
            other = load(source, index, frames=8, size=64)
            assert torch.equal(sample.frames, other.frames)
            assert (sample.caption, sample.fps) == (other.caption, other.fps)
        assert len({sample.key for sample in samples}) == 4


def test_a_feed_goes_on_without_damaged_files_or_names_them(tmp_path: Path):
    table = export(Export(kind="clips", grade="low", count=6, seed=3, frames=2), tmp_path / "world")
    empty, cut = table.parent / "000001.mp4", table.parent / "000004.mp4"
    empty.write_bytes(b"")
    cut.write_bytes(cut.read_bytes()[:500])
    size = FeedConfig(seed=0, batch_size=6, frames=2, height=64, width=64, max_broken_fraction=0.8)
    feed = IndexedFeed(VideoTable(table, stride=STEADY), size)
    samples = [sample for step in range(3) for sample in feed.samples(step, range(6))]
    assert {sample.key for sample in samples} == {f"00000{i}.mp4" for i in (0, 2, 3, 5)}
    assert set(feed.breakage.report().files) == {str(empty), str(cut)}
    assert feed.breakage.report().files[str(empty)] == "is empty (0 bytes)"
    strict = IndexedFeed(VideoTable(table, stride=STEADY), replace(size, max_broken_fraction=0.05))
    with pytest.raises(UserError, match=r"of \d+ files could not be read.*00000[14]\.mp4 \("):
        [strict.samples(step, range(6)) for step in range(6)]


@pytest.mark.parametrize("form", ["files", "shards"])
def test_the_same_settings_give_the_same_bytes(tmp_path: Path, form):
    settings = Export(kind="clips", grade="low", count=2, seed=3, form=form, per_shard=1)
    for name in ("a", "b"):
        export(settings, tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    export(Export(kind="clips", grade="low", count=2, seed=4, form=form, per_shard=1), tmp_path / "c")
    assert files(tmp_path / "a") != files(tmp_path / "c")
    # x264's vector code made this very clip in several ways
    assert len({settings.sample(0)["mp4"] for _ in range(5)}) == 1
    card = json.loads((tmp_path / "a/export.json").read_text())
    assert (card["grade"], card["count"], card["seed"], card["fps"]) == ("low", 2, 3, [8, 8, 8, 16])


def test_the_command_writes_and_explains(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "world"
    arguments = ["export", "--out", str(out), "--grade", "high", "--count", "2", "--seed", "3", "--fps", "12"]
    assert main([*arguments, "--frames", "4"]) == 0
    assert str(out / "captions.csv") in capsys.readouterr().out
    assert (out / "captions.csv").read_text() == (
        "path,caption,fps,duration\n"
        f"000000.mp4,{scene(3, 0).caption},12.0,0.3333333333333333\n"
        f"000001.mp4,{scene(3, 1).caption},12.0,0.3333333333333333\n"
    )
    assert load(VideoTable(out / "captions.csv", stride=STEADY), size=64).fps == 12
    assert main(arguments) == 2
    assert "is not an empty folder; give another one with --out" in capsys.readouterr().err
    assert main([*arguments[:2], str(tmp_path / "x"), *arguments[3:], "--kind", "stills", "--grade", "low"]) == 2
    assert "kind=stills grade=low; allowed: clips: low, high; stills: web, high" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_settings_that_cannot_be():
    for wrong, message in (
        ({"count": 0}, "count is 0"),
        ({"fps": ()}, r"fps=\[\]"),
        ({"fps": (500.0,)}, "from 1 to 240"),
    ):
        with pytest.raises(UserError, match=message):
            Export(**({"kind": "clips", "grade": "low", "count": 1, "seed": 0} | wrong))  # pyright: ignore
