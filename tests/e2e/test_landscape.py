"""Landscapes and ablations, as a user runs them: fitted on their own or made from finished runs, killed and resumed."""

from pathlib import Path

import numpy as np
import pytest

from perturb.store.rundir import RunDir
from tests.e2e.conftest import Commands

KILLED = -9
FILES = ("scores.csv", "states.csv", "clips/*/*.npy", "adapters/*/*", "fits/*/adapters/*/*")


@pytest.fixture
def plain(study: list[str]) -> list[str]:
    """The study's overrides without those of a LoRA and its steps."""
    return [override for override in study if not override.startswith(("perturbation.", "probe_steps="))]


@pytest.fixture
def landscape(plain: list[str]) -> list[str]:
    """Four states of the tiny model, with LoRAs of two steps."""
    given = ["spatial_scales=[0,1]", "temporal_scales=[0,1]", "step=2", "lora.rank=2"]
    return [*plain, "experiment=landscape_full", *(f"perturbation.{each}" for each in given)]


@pytest.fixture
def finished(commands: Commands, landscape: list[str], runs: Path) -> RunDir:
    """An uninterrupted landscape that fitted its LoRAs itself; made once."""
    if not list(runs.glob("both_full_landscape/*/.done/study/all")):
        outcome = commands("perturb.run", *landscape, f"runs_dir={runs}")
        assert outcome.code == 0, outcome.log
        assert "Interaction I of motion quality, full (4 prompts)" in outcome.log
    return made(runs, "both_full_landscape")


def made(runs: Path, name: str) -> RunDir:
    (path,) = runs.glob(f"{name}/*")
    return RunDir(path)


def results(run: RunDir) -> dict[str, bytes]:
    """Everything that must not depend on interruptions."""
    return {str(file.relative_to(run.path)): file.read_bytes() for name in FILES for file in run.path.glob(name)}


def clip(run: RunDir, state: str) -> np.ndarray:
    return np.load(run.clip(state, "p001", 0)).astype(int)


def test_a_killed_landscape_resumes_to_the_same_bytes(
    commands: Commands, landscape: list[str], finished: RunDir, tmp_path: Path
):
    for point in (
        ("*/fits/temporal/checkpoints/step_000001", 1, "after"),  # in the second of the two fits
        ("*/spatial_1_temporal_0/adapter_model.safetensors", 1, "before"),  # after both fits: between two states
        ("*/spatial_1_temporal_0/p002_s0.npy", 1, "after"),  # between two clips of a state
        ("*/scores.csv", 3, "before"),
    ):
        outcome = commands("perturb.run", *landscape, f"runs_dir={tmp_path}", kill=point)
        assert outcome.code == KILLED, (point, outcome.log)
    outcome = commands("perturb.run", *landscape, f"runs_dir={tmp_path}")
    assert outcome.code == 0, outcome.log
    whole = results(finished)
    assert len(whole) == 2 + 4 * 4 + 4 * 3 + 2 * 2 * 3  # tables, clips, adapters, and of each fit two probe steps
    assert results(made(tmp_path, "both_full_landscape")) == whole


def test_with_finished_runs_nothing_is_fitted_and_the_states_are_the_same(
    commands: Commands, landscape: list[str], finished: RunDir, tmp_path: Path
):
    given = [f"perturbation.{group}={finished.path / 'fits' / group}" for group in ("spatial", "temporal")]
    outcome = commands("perturb.run", *landscape, *given, f"runs_dir={tmp_path}")
    assert outcome.code == 0, outcome.log
    run = made(tmp_path, "both_full_landscape")
    assert not (run.path / "fits").exists()
    assert run.path.name != finished.path.name
    for file, content in results(finished).items():
        if file.startswith(("clips", "adapters")):
            assert (run.path / file).read_bytes() == content
    sources = run.manifest().perturbation["sources"]
    assert {group: source["run"] for group, source in sources.items()} == {"spatial": "spatial", "temporal": "temporal"}
    assert sources["spatial"]["as_video"] == "single_frame"
    outcome = commands("perturb.run", *landscape, *given[::-1], "perturbation.temporal=nowhere", f"runs_dir={tmp_path}")
    assert outcome.code == 2
    assert "perturbation.temporal=nowhere  does not exist" in outcome.log


def test_an_ablation_of_one_of_its_fits(commands: Commands, plain: list[str], finished: RunDir, tmp_path: Path):
    given = [
        "experiment=ablation", f"perturbation.reference={finished.path / 'fits' / 'spatial'}", "perturbation.step=2",
        "perturbation.parts=[none,all,down,up attention]", f"runs_dir={tmp_path}",
    ]  # fmt: skip
    outcome = commands("perturb.run", *plain, *given)
    assert outcome.code == 0, outcome.log
    assert "Change of motion quality when only this part is perturbed" in outcome.log
    run = made(tmp_path, "spatial_full_ablation")
    assert (run.figures / "layers_full.png").is_file()
    assert [state.coordinates["part"] for state in run.states()] == ["none", "all", "down", "up attention"]
    none, whole, down = (clip(run, f"part_{part}") for part in ("none", "all", "down"))
    assert np.abs(none - clip(finished, "spatial_0_temporal_0")).max() <= 1
    assert np.abs(whole - clip(finished, "spatial_1_temporal_0")).max() <= 1
    assert np.abs(whole - none).max() > 1
    assert np.abs(down - whole).max() > 0
    outcome = commands("perturb.run", *plain, *given, "group=temporal")
    assert outcome.code == 2
    assert "perturbed the group 'spatial', this run is to perturb 'temporal' with it" in outcome.log


def test_the_plan_of_a_landscape_counts_both_fits(commands: Commands, landscape: list[str], tmp_path: Path):
    outcome = commands("perturb.run", *landscape, "plan=true", f"runs_dir={tmp_path}")
    assert outcome.code == 0, outcome.log
    assert "4 steps of 2 images" in outcome.log
    assert "16: 4 prompts × 1 noise × 4 states" in outcome.log
    assert not list(tmp_path.iterdir())
