"""Trainings in real processes: killed, asked to stop; and the command from init to twins."""

import json
from pathlib import Path

import pytest

from perturb.world.export import Export, export
from tests.e2e.conftest import Commands

KILLED, STOPPED = -9, 75
STEPS = 4
POINTS = (("*/checkpoints/step_000002", 1, "before"), ("*/checkpoints/step_000004", 1, "before"))
"""While a checkpoint is half in place: the first leaves none, the second that of step 2."""


@pytest.fixture
def recipe(checkpoint: Path) -> list[str]:
    """The overrides that make a training of seconds."""
    return [
        "experiment=train/nano_full",
        f"init={checkpoint}",
        "share=null",
        f"stages=[{{steps:{STEPS},batch_size:2}}]",
        "data.world.count=4",
        "loop.save_every=2",
        "loop.log_every=1",
        "loop.learning_rate=1e-2",
        "tracker=null",
        "validation=null",
        "oracle=0",
        "threads=1",
    ]


def places(folder: Path, cache: Path) -> list[str]:
    return [f"work={folder / 'work'}", f"output={folder / 'output'}", f"cache={cache}"]


def test_a_killed_training_ends_with_the_same_weights(commands: Commands, recipe: list[str], tmp_path: Path):
    whole, cache = tmp_path / "whole", tmp_path / "latents"
    outcome = commands("perturb.train", *recipe, *places(whole, cache))
    assert outcome.code == 0, outcome.log
    for point in POINTS:
        outcome = commands("perturb.train", *recipe, *places(tmp_path / "cut", cache), kill=point)
        assert outcome.code == KILLED, outcome.log
        assert not (tmp_path / "cut" / "output").exists()
    outcome = commands("perturb.train", *recipe, *places(tmp_path / "cut", cache))
    assert outcome.code == 0, outcome.log
    outputs = whole / "output", tmp_path / "cut" / "output"
    weights = [(output / "unet.safetensors").read_bytes() for output in outputs]
    assert weights[0] == weights[1]
    cards = [json.loads((output / "training.json").read_text()) for output in outputs]
    for key in ("sample_stream_sha256", "data", "trained", "parameters"):
        assert cards[0][key] == cards[1][key]
    assert cards[0]["share_of_step"].keys() == {"data", "encoding", "compute", "logging"}


def test_a_training_on_video_files_killed_in_its_second_stage_ends_with_the_same_weights(
    commands: Commands, recipe: list[str], tmp_path: Path
):
    table = export(Export(kind="clips", grade="low", count=6, seed=5, frames=12), tmp_path / "world")
    (table.parent / "000003.mp4").write_bytes(b"")
    settings = [
        "data.world=null",
        "train/video=table",
        f"data.video.table={table}",
        "data.max_broken_fraction=0.5",
        "stages=[{steps:3,batch_size:2,frames:4},{steps:2,batch_size:1,frames:2,height:32,width:32}]",
        "loop.save_every=1",
    ]
    words = [word for word in recipe if not word.startswith(("data.world", "stages", "loop.save_every"))] + settings
    outcome = commands("perturb.train", *words, *places(tmp_path / "whole", tmp_path))
    assert outcome.code == 0, outcome.log
    assert "left out: " in outcome.log
    point = ("*/checkpoints/step_000004", 1, "after")
    outcome = commands("perturb.train", *words, *places(tmp_path / "cut", tmp_path), kill=point)
    assert outcome.code == KILLED, outcome.log
    outcome = commands("perturb.train", *words, *places(tmp_path / "cut", tmp_path))
    assert outcome.code == 0, outcome.log
    weights = [(tmp_path / name / "output" / "unet.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    cards = [json.loads((tmp_path / name / "output" / "training.json").read_text()) for name in ("whole", "cut")]
    for key in ("sample_stream_sha256", "data", "broken_files"):
        assert cards[0][key] == cards[1][key]
    assert cards[0]["broken_files"]["files"] == {str(table.parent / "000003.mp4"): "is empty (0 bytes)"}
    assert cards[0]["data"]["video"]["stride"] == {"min": 1, "max": 6}


def test_twins_of_the_command_are_twins(commands: Commands, recipe: list[str], tmp_path: Path):
    for name in ("full", "partial"):
        arguments = [*recipe[1:], *places(tmp_path / name, tmp_path / "cache")]
        outcome = commands("perturb.train", f"experiment=train/nano_{name}", *arguments)
        assert outcome.code == 0, outcome.log
    full, partial = tmp_path / "full" / "output", tmp_path / "partial" / "output"
    outcome = commands("perturb.verify", full, partial)
    assert (outcome.code, outcome.log[:6]) == (0, "twins:")
    cards = [json.loads((folder / "training.json").read_text()) for folder in (full, partial)]
    assert [card["trained"] for card in cards] == [
        "θ_S, θ_T, the time embedding, the fps embedding",
        "θ_T, the fps embedding",
    ]
    assert [card["trains_fps_embedding"] for card in cards] == [True, True]
    assert cards[0]["provenance"] == cards[1]["provenance"]
    assert cards[0]["init_sha256"] == cards[0]["provenance"]["sha256"]
    (partial / "training.json").write_text(json.dumps(cards[1] | {"sample_stream_sha256": "another"}))
    outcome = commands("perturb.verify", full, partial)
    assert outcome.code == 1
    assert "the sample stream differs" in outcome.log


def test_strategies_of_fine_tuning_are_one_multirun(commands: Commands, recipe: list[str], tmp_path: Path):
    paths = [f"work={tmp_path}/work/${{recipe}}", f"output={tmp_path}/output/${{recipe}}", f"cache={tmp_path}/cache"]
    strategies = "experiment=train/nano_direct_temporal,train/nano_lora_both"
    settings = ["stages=[{steps:1,batch_size:2}]", f"hydra.sweep.dir={tmp_path}/hydra"]
    outcome = commands("perturb.train", "--multirun", strategies, *recipe[1:], *settings, *paths)
    assert outcome.code == 0, outcome.log
    cards = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("output/*/training.json")}
    assert {name: card["trained"] for name, card in cards.items()} == {
        "direct_temporal": "θ_T",
        "lora_both": "θ_S, θ_T, as LoRA of rank 8",
    }
    assert cards["direct_temporal"]["sample_stream_sha256"] == cards["lora_both"]["sample_stream_sha256"]
    assert (tmp_path / "output" / "lora_both" / "adapter" / "adapter_model.safetensors").is_file()


def test_samples_and_losses_are_shown_on_the_way(commands: Commands, recipe: list[str], tmp_path: Path):
    settings = {"every": 4, "limit": 2, "count": 2, "sampler_steps": 2, "timesteps": "[100,900]"}
    wanted = [f"validation.{name}={value}" for name, value in settings.items()]
    kept = [word for word in recipe if word not in ("validation=null", "tracker=null")] + ["tracker=tensorboard"]
    outcome = commands("perturb.train", *kept, *wanted, *places(tmp_path, tmp_path / "cache"))
    assert outcome.code == 0, outcome.log
    shown = {path.name for path in (tmp_path / "work" / "samples" / "step_000004").iterdir()}
    assert shown == {"p000.mp4", "p001.mp4", "sheet.png"}
    header, row = (tmp_path / "work" / "validation.csv").read_text().splitlines()
    assert header == "step,loss,loss_t0100,loss_t0900"
    loss, early, late = (float(value) for value in row.split(",")[1:])
    assert loss == pytest.approx((early + late) / 2)
    assert list((tmp_path / "work" / "tensorboard").glob("events.*"))
    best = json.loads((tmp_path / "output" / "training.json").read_text())["best_validation_step"]
    assert best == 4


def test_missing_paths_and_an_absent_tracker_are_named(commands: Commands, recipe: list[str], tmp_path: Path):
    outcome = commands("perturb.train", "experiment=train/full")
    assert outcome.code == 2
    needed = [line.split("=…")[0].strip() for line in outcome.log.splitlines()[1:]]
    assert needed == ["data.video", "init", "output", "work"]
    assert "choose train/video=table" in outcome.log
    outcome = commands("perturb.train", *recipe, "tracker=wandb", *places(tmp_path, tmp_path / "cache"))
    assert outcome.code == 2
    assert "tracker is wandb, which is not installed: pip install wandb" in outcome.log
    outcome = commands("perturb.train", *recipe, "share=../image", *places(tmp_path, tmp_path / "cache"))
    assert outcome.code == 2
    assert "the shared vae of" in outcome.log
    assert not (tmp_path / "work").exists()  # found before the training, not when its model is written


def test_a_terminated_training_saves_and_says_how_to_go_on(commands: Commands, recipe: list[str], tmp_path: Path):
    asked = "*/checkpoints/step_000002", 1, "stop"
    outcome = commands("perturb.train", *recipe, *places(tmp_path, tmp_path / "cache"), kill=asked)
    assert outcome.code == STOPPED, outcome.log
    assert "The same command goes on from there." in outcome.log
    last = max(int(path.name.removeprefix("step_")) for path in (tmp_path / "work" / "checkpoints").glob("step_*"))
    assert f"stopped after step {last}" in outcome.log
    assert last < STEPS


def test_an_experiment_of_another_command_is_refused_with_those_of_this_one(commands: Commands):
    outcome = commands("perturb.train", "experiment=spatial_full")
    assert outcome.code == 2
    assert "experiment=spatial_full: no experiment of this command. Allowed: train/direct_both, " in outcome.log
    assert "Traceback" not in outcome.log
