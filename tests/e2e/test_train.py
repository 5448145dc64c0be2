"""Trainings in real processes: killed, asked to stop, two at once; and the command from init to twins."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from perturb.videocrafter.checkpoint import load_system, save_system
from perturb.videocrafter.system import VideoSystem
from tests.e2e.conftest import ROOT, Commands
from tests.unit.training_case import apart, loop, train_tiny

KILLED, STOPPED = -9, 75
POINTS = {
    "after a checkpoint": [("*/checkpoints/step_000002", 1, "after")],
    "while a checkpoint is half in place, twice": [
        ("*/checkpoints/step_000002", 1, "before"),
        ("*/checkpoints/step_000004", 1, "before"),
    ],
}


@pytest.fixture
def recipe(checkpoint: Path) -> list[str]:
    """The overrides that make a training of seconds."""
    return [
        "experiment=train/nano_full",
        f"init={checkpoint}",
        "share=null",
        "stages=[{steps:4,batch_size:2}]",
        "data.world.count=4",
        "loop.save_every=2",
        "loop.log_every=1",
        "loop.learning_rate=1e-2",
        "logging.tensorboard=false",
        "validation=null",
        "oracle=0",
        "threads=1",
    ]


def places(folder: Path, cache: Path) -> list[str]:
    return [f"work={folder / 'work'}", f"output={folder / 'output'}", f"cache={cache}"]


@pytest.mark.parametrize("chain", POINTS)
def test_a_killed_training_ends_with_the_same_weights(
    chain: str, commands: Commands, recipe: list[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    cache = tmp_path_factory.getbasetemp() / "latents"
    outcome = commands("perturb.train", *recipe, *places(tmp_path / "whole", cache))
    assert outcome.code == 0, outcome.log
    for point in POINTS[chain]:
        outcome = commands("perturb.train", *recipe, *places(tmp_path / "cut", cache), kill=point)
        assert outcome.code == KILLED, outcome.log
        assert not (tmp_path / "cut" / "output").exists()
    outcome = commands("perturb.train", *recipe, *places(tmp_path / "cut", cache))
    assert outcome.code == 0, outcome.log
    weights = [(tmp_path / name / "output" / "unet.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    cards = [json.loads((tmp_path / name / "output" / "training.json").read_text()) for name in ("whole", "cut")]
    for key in ("sample_stream_sha256", "data", "trained", "parameters"):
        assert cards[0][key] == cards[1][key]
    assert cards[0]["share_of_step"].keys() == {"data", "compute", "logging"}


def test_twins_of_the_command_are_twins(commands: Commands, recipe: list[str], tmp_path: Path):
    for name in ("full", "partial"):
        arguments = [*recipe[1:], *places(tmp_path / name, tmp_path / "cache")]
        outcome = commands("perturb.train", f"experiment=train/nano_{name}", *arguments)
        assert outcome.code == 0, outcome.log
    full, partial = tmp_path / "full" / "output", tmp_path / "partial" / "output"
    outcome = commands("perturb.verify", full, partial)
    assert (outcome.code, outcome.log[:6]) == (0, "twins:")
    arguments = [*recipe[1:], *places(tmp_path / "other", tmp_path / "cache"), "seed=32"]
    outcome = commands("perturb.train", "experiment=train/nano_partial", *arguments)
    assert outcome.code == 0, outcome.log
    outcome = commands("perturb.verify", full, tmp_path / "other" / "output")
    assert outcome.code == 1
    assert "the sample stream differs" in outcome.log


def test_samples_and_losses_are_shown_on_the_way(commands: Commands, recipe: list[str], tmp_path: Path):
    settings = {"every": 4, "limit": 2, "count": 2, "sampler_steps": 2, "timesteps": "[100,900]"}
    wanted = [f"validation.{name}={value}" for name, value in settings.items()]
    kept = [word for word in recipe if word not in ("validation=null", "logging.tensorboard=false")]
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
    assert "data.video=…" in outcome.log
    outcome = commands("perturb.train", *recipe, "logging.wandb=true", *places(tmp_path, tmp_path / "cache"))
    assert outcome.code == 2
    assert "wandb is not installed" in outcome.log


def test_a_terminated_training_saves_and_says_how_to_go_on(checkpoint: Path, recipe: list[str], tmp_path: Path):
    del checkpoint
    words = [word.replace("steps:4", "steps:100000") for word in recipe]
    command = [sys.executable, "-m", "perturb.train", *words, *places(tmp_path, tmp_path / "cache")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    checkpoints = tmp_path / "work" / "checkpoints"
    while not list(checkpoints.glob("step_*")) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate()
    assert process.returncode == STOPPED, log
    assert "The same command goes on from there." in log
    steps = sorted(int(path.name.removeprefix("step_")) for path in checkpoints.glob("step_*"))
    assert f"stopped after step {steps[-1]}" in log


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_what_one_does_and_go_on_as_they_would_have(
    kind: str, tiny_system: VideoSystem, tmp_path: Path
):
    save_system(tiny_system, tmp_path / "model")
    settings = {"learning_rate": 1e-2, "warmup_steps": 2, "log_every": 2, "save_every": 2}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [
        "-m",
        "tests.unit.training_case",
        str(tmp_path / "model"),
        str(tmp_path / "two"),
        json.dumps(settings),
        kind,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*torchrun, *script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]  # the script itself asserts that there are two

    system = load_system(tmp_path / "model")
    before = {name: tensor.clone() for name, tensor in system.unet.state_dict().items()}
    trace = train_tiny(system, tmp_path / "one", loop=loop())
    assert (tmp_path / "two" / "stream.txt").read_text() == trace.outcome.stream
    together = load_file(tmp_path / "two" / "unet.safetensors")
    assert apart(together, system.unet.state_dict(), before) < 1e-3
    states = {path.name for path in (tmp_path / "two" / "checkpoints" / "step_000002").iterdir()}
    assert {"random_states_0.pkl", "random_states_1.pkl", "local_0.pt", "local_1.pt"} <= states
