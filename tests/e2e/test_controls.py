"""Studies with the other perturbations, as a user runs them: plain fine-tuning, and the random control of a run."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from perturb.perturbation.files import read_magnitude
from perturb.rundir import RunDir
from tests.e2e.conftest import Commands


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def plain(study: list[str]) -> list[str]:
    """The study's overrides without those of a LoRA."""
    return [override for override in study if not override.startswith("perturbation.")]


@pytest.fixture
def reference(commands: Commands, study: list[str], runs: Path) -> RunDir:
    """A finished spatial_full with LoRA; made once."""
    if not list(runs.glob("lora/*/.done/study/all")):
        outcome = commands("perturb.run", *study, "experiment=spatial_full", "name=lora", f"runs_dir={runs}")
        assert outcome.code == 0, outcome.log
    (path,) = runs.glob("lora/*")
    return RunDir(path)


def made(runs: Path, name: str) -> RunDir:
    (path,) = runs.glob(f"{name}/*")
    return RunDir(path)


def clip(run: RunDir, step: int) -> np.ndarray:
    return np.load(run.clip(step, "p001", 0)).astype(int)


@pytest.mark.parametrize("rank", ["full", "reference"])
def test_the_random_control_of_a_run(
    rank: str, commands: Commands, plain: list[str], reference: RunDir, tmp_path: Path
):
    outcome = commands(
        "perturb.run", *plain, "experiment=spatial_full", "perturbation=random",
        f"perturbation.reference={reference.path}", f"perturbation.rank={rank}", f"runs_dir={tmp_path}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.log
    run = made(tmp_path, "spatial_full")
    manifest = run.manifest()
    assert manifest.stages == {"fit": "done", "sample": "done", "score": "done"}
    assert manifest.perturbation["reference"]["run"] == reference.path.name
    assert manifest.perturbation["reference"]["system"] == manifest.system["sha256"]
    for step in (0, 2, 4):
        wanted = read_magnitude(reference.adapter(step))
        assert read_magnitude(run.adapter(step)) == pytest.approx(wanted, rel=1e-3, abs=1e-9)
    assert max(read_magnitude(run.adapter(4)).values()) > 0.01
    assert np.abs(clip(run, 0) - clip(reference, 0)).max() <= 1
    assert np.abs(clip(run, 4) - clip(run, 0)).max() > 1
    assert np.abs(clip(run, 4) - clip(reference, 4)).max() > 1
    with run.scores.open() as file, reference.scores.open() as other:
        ours, theirs = (list(csv.DictReader(each)) for each in (file, other))
    keys = ("step", "prompt_id", "seed", "metric")
    assert [[row[key] for key in keys] for row in ours] == [[row[key] for key in keys] for row in theirs]
    assert (run.figures / "summary.png").is_file()


def test_the_reference_must_be_given_and_finished(commands: Commands, plain: list[str], tmp_path: Path):
    outcome = commands("perturb.run", *plain, "perturbation=random", f"runs_dir={tmp_path}")
    assert outcome.code == 2
    assert "perturbation.reference=…  is not given: the finished run" in outcome.log
    outcome = commands(
        "perturb.run", *plain, "perturbation=random", f"perturbation.reference={tmp_path}", f"runs_dir={tmp_path}"
    )
    assert outcome.code == 2
    assert "is no run whose fit is finished" in outcome.log
    assert "Traceback" not in outcome.log


def test_the_plan_of_a_control_says_that_nothing_is_fitted(
    commands: Commands, plain: list[str], reference: RunDir, tmp_path: Path
):
    given = ["perturbation=random", f"perturbation.reference={reference.path}"]
    outcome = commands("perturb.run", *plain, *given, "plan=true", f"runs_dir={tmp_path}")
    assert outcome.code == 0, outcome.log
    assert "nothing: this perturbation is prescribed" in outcome.log


def test_fine_tuning_both_groups_and_generating_with_what_came_out(
    commands: Commands, plain: list[str], checkpoint: Path, inputs: Path, tmp_path: Path
):
    outcome = commands("perturb.run", *plain, "perturbation=direct", "group=both", f"runs_dir={tmp_path}")
    assert outcome.code == 0, outcome.log
    run = made(tmp_path, "both_full")
    manifest = json.loads(run.manifest_path.read_text())
    assert manifest["perturbation"]["kind"] == "direct"
    assert manifest["perturbation"]["parameters"] == sum(manifest["partition"][g] for g in ("spatial", "temporal"))
    assert manifest["frozen"]["before"] == manifest["frozen"]["after"]
    outcome = commands(
        "perturb.sample", f"system.checkpoint={checkpoint}", f"prompts.file={inputs / 'prompts.txt'}",
        "sample.batch_size=2", "sampler.steps=2", f"adapter={run.adapter(4)}", f"output={tmp_path / 'clips'}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.log
    again = np.load(tmp_path / "clips" / "p001_s0.npy").astype(int)
    assert np.abs(again - clip(run, 4)).max() <= 1
    assert np.abs(again - clip(run, 0)).max() > 1
