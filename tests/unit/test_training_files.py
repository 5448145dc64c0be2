"""From the data section of a configuration to batches: real videos and images, joint training, broken files."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import write_shard
from PIL import Image

from perturb.errors import UserError
from perturb.loop.processes import make_accelerator
from perturb.models.videocrafter.system import VideoSystem
from perturb.store.video import write_mp4
from perturb.structured import read
from perturb.training.config import DataConfig, TrainConfig
from perturb.training.data import training_data, validation
from perturb.training.files import held_out
from perturb.world.export import encode_png
from tests.unit.training_case import drawn, loop

CLIPS = {"kind": "clips", "grade": "low", "count": 1, "seed": 1}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Three videos of 16 frames at 8 per second, one of them cut off, and three stills; captions beside them."""
    random = np.random.default_rng(0)
    for kind in ("videos", "images"):
        (tmp_path / kind).mkdir()
        for index in range(3):
            (tmp_path / kind / f"{index}.txt").write_text(f"a {'red' if kind == 'videos' else 'blue'} circle")
    for index in range(3):
        write_mp4(tmp_path / "videos" / f"{index}.mp4", random.integers(0, 256, (16, 40, 48, 3), dtype=np.uint8), 8)
        pixels = random.integers(0, 256, (36, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    whole = (tmp_path / "videos" / "2.mp4").read_bytes()
    (tmp_path / "videos" / "2.mp4").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def configured(files: Path, data: dict[str, Any], **changes: Any) -> TrainConfig:
    values = {
        "recipe": "full",
        "trained": {"group": "both", "time_embedding": False, "fps_embedding": True},
        "init": "nowhere",
        "work": str(files / "work"),
        "output": str(files / "output"),
        "cache": str(files / "cache"),
        "data": {"prefetch": False} | data,
        "stages": [
            {"steps": 4, "batch_size": 2, "height": 32, "width": 32, "frames": 4},
            {"steps": 4, "batch_size": 2, "height": 16, "width": 32, "frames": 2},
        ],
        "loop": {"learning_rate": 1e-3},
        "loss": {"text_dropout": 0.0},
        "tracker": None,
        "device": "cpu",
        "seed": 1,
    }
    return read(TrainConfig, values | changes)


def seams(files: Path) -> dict[str, Any]:
    return {
        "video": {
            "_target_": "perturb.data.videos.VideoFolder",
            "folder": str(files / "videos"),
            "stride": {"min": 1, "max": 3},
        },
        "images": {"_target_": "perturb.data.stills.still_folder", "folder": str(files / "images")},
        "image_share": 0.5,
        "max_broken_fraction": 1.0,
    }


def test_joint_training_mixes_clips_and_stills_and_names_what_is_broken(files: Path, tiny_system: VideoSystem):
    config = configured(files, seams(files))
    accelerator = make_accelerator(loop(), device="cpu", folder=files / "work")
    data = training_data(config, tiny_system, accelerator)
    batches = data.batches(0)
    seen = [drawn(batches, step, range(2)) for step in range(12)]
    shapes = {tuple(x0.shape[2:]) for x0, *_ in seen}
    assert shapes == {(1, 4, 4), (4, 4, 4)}
    rates = {rate for x0, _, _, _, fps in seen for rate in fps.tolist() if x0.shape[2] == 4}
    assert rates <= {8, 4, 3}  # 8 frames per second over strides 1, 2, 3
    assert len(rates) > 1
    stills = {rate for x0, _, _, _, fps in seen for rate in fps.tolist() if x0.shape[2] == 1}
    assert stills == {tiny_system.spec.sampling.fps}
    broken = data.broken(list)
    assert [Path(path).name for path in broken["files"]] == ["2.mp4"]
    assert broken["count"] == 1
    assert data.described["video"]["count"] == data.described["images"]["count"] == 3
    assert data.described["stages"][1]["height"] == 16


def test_a_training_that_goes_on_in_a_later_stage_still_knows_what_was_broken_before(
    files: Path, tiny_system: VideoSystem
):
    config = configured(files, {"video": seams(files)["video"], "max_broken_fraction": 1.0})
    accelerator = make_accelerator(loop(), device="cpu", folder=files / "work")
    first = training_data(config, tiny_system, accelerator)
    whole = first.batches(0)
    for step in range(3):
        drawn(whole, step, range(2))
    saved = json.loads(json.dumps(first.batches(1).state(list)))
    again = training_data(config, tiny_system, accelerator)
    again.batches(1).restore(saved)
    assert again.broken(list) == first.broken(list)
    assert [Path(path).name for path in again.broken(list)["files"]] == ["2.mp4"]


def test_a_later_stage_has_its_own_size_and_its_own_draws(files: Path, tiny_system: VideoSystem):
    config = configured(files, {"images": seams(files)["images"], "as_video": "repeat"})
    accelerator = make_accelerator(loop(), device="cpu", folder=files / "work")
    data = training_data(config, tiny_system, accelerator)
    first, second = (drawn(data.batches(number), 0, range(2)) for number in (0, 1))
    assert (first[0].shape[2:], second[0].shape[2:]) == ((4, 4, 4), (2, 2, 4))
    assert first[1].tolist() != second[1].tolist()


def test_held_out_samples_and_their_losses_are_the_same_every_time(files: Path, tiny_system: VideoSystem):
    wanted = {"every": 1, "images": seams(files)["images"], "count": 2, "timesteps": [100, 900]}
    config = configured(files, {"images": seams(files)["images"]}, validation=wanted)
    accelerator = make_accelerator(loop(), device="cpu", folder=files / "work")
    measure = validation(config, tiny_system, accelerator)
    assert measure is not None
    first = measure(1)
    assert first == measure(2)
    assert first["loss"] == pytest.approx((first["loss_t0100"] + first["loss_t0900"]) / 2)
    assert first["loss_t0100"] != first["loss_t0900"]
    assert not (files / "work" / "samples").exists()  # no prompts were given


def test_every_process_measures_on_the_same_held_out_samples(
    files: Path, tiny_system: VideoSystem, monkeypatch: pytest.MonkeyPatch
):
    for number in range(3):
        still = encode_png(np.full((32, 32, 3), 80 * number, dtype=np.uint8))
        write_shard(files / f"{number}.tar", {f"{number}.png": still, f"{number}.txt": b"a red circle"})
    shards = {"_target_": "perturb.data.shards.ImageShards", "shards": str(files / "{0..2}.tar"), "shuffle": 1}
    wanted = {"every": 1, "images": shards, "count": 3}
    config = configured(files, {"images": seams(files)["images"]}, validation=wanted)
    assert config.validation is not None
    alone = held_out(config, config.validation, tiny_system)
    repeated = dataclasses.replace(config, data=dataclasses.replace(config.data, as_video="repeat"))
    clips = held_out(repeated, config.validation, tiny_system).x0  # two frames in the last stage
    assert torch.equal(clips, alone.x0.expand(3, 4, 2, 2, 4))
    assert len(alone.x0.flatten(1)[:, 0].unique()) == 3
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert torch.equal(held_out(config, config.validation, tiny_system).x0, alone.x0)


def test_the_embedded_world_is_told_of_stills_what_was_asked_for(files: Path, tiny_system: VideoSystem):
    accelerator = make_accelerator(loop(), device="cpu", folder=files / "work")
    world = {"kind": "stills", "grade": "web", "count": 2, "seed": 1}
    for still_fps, told in ((None, 8), (3, 3)):
        config = configured(files, {"world": world, "still_fps": still_fps})
        fps = drawn(training_data(config, tiny_system, accelerator).batches(0), 0, range(2))[4]
        assert fps.tolist() == [told, told]
    config = configured(files, {"world": world}, stages=[{"steps": 1, "batch_size": 3}])
    large = training_data(config, tiny_system, accelerator)
    with pytest.raises(UserError, match=r"a batch of 3 cannot be drawn from 2 samples.*raise the count of data\.world"):
        large.batches(0)
    validated = {"every": 1, "world": world | {"kind": "clips", "grade": "low"}}
    with pytest.raises(UserError, match=r"validation\.world\.seed is 1, whose scenes are trained on"):
        validation(configured(files, {"world": world}, validation=validated), tiny_system, accelerator)


def test_sizes_that_do_not_fit_and_no_data_are_refused(files: Path, tiny_system: VideoSystem):
    accelerator = make_accelerator(loop(), device="cpu", folder=files / "work")
    stages = [{"steps": 1, "batch_size": 2, "height": 40}]
    with pytest.raises(UserError, match=r"stages\[0\]\.height is 40; allowed for tiny: multiples of 16"):
        training_data(configured(files, {}, stages=stages), tiny_system, accelerator)
    with pytest.raises(UserError, match="data names nothing to train on"):
        training_data(configured(files, {}), tiny_system, accelerator)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"video": {"_target_": "x"}, "image_share": 0.2}, "needs both moving data and stills"),
        ({"video": {"_target_": "x"}, "images": {"_target_": "x"}}, "image_share is 0"),
        (
            {"world": {"kind": "clips", "grade": "low", "count": 1, "seed": 1}, "images": {"_target_": "x"}},
            "do not mix; for files alone give data.world=null",
        ),
    ],
)
def test_contradictions_in_the_data_are_named(data: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        read(DataConfig, data)
