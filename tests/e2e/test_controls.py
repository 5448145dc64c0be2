"""Studies with the other perturbations, as a user runs them: plain fine-tuning, and the random control of a run."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from perturb.models.videocrafter.checkpoint import save_system
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation.files import read_magnitude
from perturb.store.records import read_scores
from perturb.store.rundir import RunDir
from perturb.store.states import step_id
from tests.e2e.conftest import Commands


@pytest.fixture
def plain(study: list[str]) -> list[str]:
    """The study's overrides without those of a LoRA."""
    return [override for override in study if not override.startswith("perturbation.")]


@pytest.fixture
def unfitted(plain: list[str]) -> list[str]:
    """Without the steps of a fit either."""
    return [override for override in plain if not override.startswith("probe_steps=")]


@pytest.fixture
def reference(finished: RunDir) -> RunDir:
    """A finished spatial_full with LoRA."""
    return finished


def made(runs: Path, name: str) -> RunDir:
    (path,) = runs.glob(f"{name}/*")
    return RunDir(path)


def clip(run: RunDir, step: int) -> np.ndarray:
    return np.load(run.clip(step_id(step), "p001", 0)).astype(int)


def test_the_random_control_of_a_run(commands: Commands, unfitted: list[str], reference: RunDir, tmp_path: Path):
    outcome = commands(
        "perturb.run", *unfitted, "experiment=spatial_full", "perturbation=random",
        f"perturbation.reference={reference.path}", "perturbation.rank=reference", f"runs_dir={tmp_path}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.log
    run = made(tmp_path, "spatial_full_random")
    manifest = run.manifest()
    assert manifest.stages == {"fit": "done", "sample": "done", "score": "done"}
    assert manifest.experiment == "spatial_full_random"
    assert manifest.perturbation["kind"] == "random"
    assert manifest.perturbation["reference"] == {"run": reference.path.name, "kind": "lora", "seed": 0}
    assert "spatial_full_random · tiny · random Δ of the same norm" in outcome.log
    for step in (0, 2, 4):
        wanted = read_magnitude(reference.adapter(step_id(step)))
        assert read_magnitude(run.adapter(step_id(step))) == pytest.approx(wanted, rel=1e-3, abs=1e-9)
    assert max(read_magnitude(run.adapter(step_id(4))).values()) > 0.01
    assert np.abs(clip(run, 0) - clip(reference, 0)).max() <= 1
    assert np.abs(clip(run, 4) - clip(run, 0)).max() > 1
    assert np.abs(clip(run, 4) - clip(reference, 4)).max() > 1
    with run.scores.open() as file, reference.scores.open() as other:
        ours, theirs = (list(csv.DictReader(each)) for each in (file, other))
    keys = ("state", "prompt_id", "seed", "metric")
    assert [[row[key] for key in keys] for row in ours] == [[row[key] for key in keys] for row in theirs]
    assert (run.figures / "summary.png").is_file()


def test_the_reference_must_be_given_and_finished(commands: Commands, unfitted: list[str], tmp_path: Path):
    outcome = commands("perturb.run", *unfitted, "perturbation=random", f"runs_dir={tmp_path}")
    assert outcome.code == 2
    assert "perturbation.reference=…  is not given: the finished run" in outcome.log
    outcome = commands(
        "perturb.run", *unfitted, "perturbation=random", f"perturbation.reference={tmp_path}", f"runs_dir={tmp_path}"
    )
    assert outcome.code == 2
    assert "is no run whose fit is finished" in outcome.log
    assert "Traceback" not in outcome.log


def test_a_reference_of_another_model_is_refused_before_anything_is_sampled(
    commands: Commands, unfitted: list[str], reference: RunDir, tiny_system: VideoSystem, tmp_path: Path
):
    with torch.no_grad():
        next(tiny_system.unet.parameters()).add_(0.1)
    save_system(tiny_system, tmp_path / "other")
    outcome = commands(
        "perturb.run", *unfitted, f"system.checkpoint={tmp_path / 'other'}", "perturbation=random",
        f"perturbation.reference={reference.path}", f"runs_dir={tmp_path / 'runs'}",
    )  # fmt: skip
    assert outcome.code == 2
    assert f"perturbation.reference={reference.path} is a run of another model (tiny," in outcome.log
    assert "unet differ" in outcome.log
    assert "Traceback" not in outcome.log
    assert not list(tmp_path.glob("runs/*/*/adapters"))
    assert not list(tmp_path.glob("runs/*/*/clips"))


def test_given_adapters_are_states_and_have_a_report(
    commands: Commands, unfitted: list[str], reference: RunDir, tmp_path: Path
):
    late = shutil.copytree(reference.adapter(step_id(4)), tmp_path / "late")
    outcome = commands(
        "perturb.run", *unfitted, "experiment=spatial_full", "perturbation=adapters",
        f"perturbation.adapters=[{reference.adapter(step_id(2))},{late}]", f"runs_dir={tmp_path / 'runs'}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.log
    assert "Adapters on the full model, by motion kept and look gained" in outcome.log
    run = made(tmp_path / "runs", "spatial_full_adapters")
    ids = ["adapter_none", "adapter_step_000002", "adapter_late"]
    assert [state.id for state in run.states()] == ids
    sizes = [state.magnitude for state in reference.states()]
    assert [state.magnitude for state in run.states()] == sizes
    assert [row.state for row in read_scores(run.scores)] == sorted(
        (row.state for row in read_scores(run.scores)), key=ids.index
    )
    for name, step in zip(ids, (0, 2, 4), strict=True):
        mine, theirs = (np.load(each).astype(int) for each in (
            run.clip(name, "p001", 0), reference.clip(step_id(step), "p001", 0)
        ))  # fmt: skip
        assert np.abs(mine - theirs).max() <= 1
    assert (run.figures / "ranking.png").is_file()
    assert "looks better most often" in (run.path / "report.html").read_text()
    outcome = commands(
        "perturb.run", *unfitted, "perturbation=adapters", f"perturbation.adapters=[{late},nowhere]",
        f"runs_dir={tmp_path}",
    )  # fmt: skip
    assert outcome.code == 2
    assert "perturbation.adapters=nowhere  does not exist" in outcome.log
    outcome = commands(
        "perturb.run", *unfitted, "perturbation=adapters", f"perturbation.adapters=[{late}]", "probe_steps=[0,2]",
        f"runs_dir={tmp_path}",
    )  # fmt: skip
    assert outcome.code == 2
    assert "it has states of its own, 2 in number. Leave probe_steps out" in outcome.log


def test_replicates_differ_in_the_seed_of_the_lora_alone(commands: Commands, study: list[str], tmp_path: Path):
    outcome = commands(
        "perturb.run", "--multirun", *study, "experiment=spatial_full", "fit.seed=1,2", "probe_steps=[0,2]",
        f"runs_dir={tmp_path}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.log
    runs = {run.manifest().perturbation["seed"]: run for run in map(RunDir, tmp_path.glob("spatial_full/*"))}
    assert set(runs) == {1, 2}
    first = runs[1].manifest()
    for seed, run in runs.items():
        manifest = run.manifest()
        assert (manifest.prompts, manifest.clips, manifest.system) == (first.prompts, first.clips, first.system)
        assert {row.lora_seed for row in read_scores(run.scores)} == {seed}
        assert [state.label for state in run.states()] == ["0", "2"]
        for prompt_id in manifest.prompts:  # the same x_T: an adapter that is still 0 gives the same bytes
            one, same = (each.clip(step_id(0), prompt_id, 0).read_bytes() for each in (runs[1], run))
            assert one == same
    assert np.abs(clip(runs[1], 2) - clip(runs[2], 2)).max() > 1


def test_the_plan_of_a_control_says_that_nothing_is_fitted(
    commands: Commands, unfitted: list[str], reference: RunDir, tmp_path: Path
):
    given = ["perturbation=random", f"perturbation.reference={reference.path}"]
    outcome = commands("perturb.run", *unfitted, *given, "plan=true", f"runs_dir={tmp_path}")
    assert outcome.code == 0, outcome.log
    assert "nothing: this perturbation is not fitted" in outcome.log


def test_fine_tuning_both_groups_and_generating_with_what_came_out(
    commands: Commands, plain: list[str], checkpoint: Path, inputs: Path, tmp_path: Path
):
    outcome = commands("perturb.run", *plain, "perturbation=direct", "group=both", f"runs_dir={tmp_path}")
    assert outcome.code == 0, outcome.log
    run = made(tmp_path, "both_full_direct")
    manifest = json.loads(run.manifest_path.read_text())
    assert manifest["perturbation"]["kind"] == "direct"
    assert manifest["perturbation"]["parameters"] == sum(manifest["partition"][g] for g in ("spatial", "temporal"))
    assert manifest["frozen"]["before"] == manifest["frozen"]["after"]
    outcome = commands(
        "perturb.sample", f"system.checkpoint={checkpoint}", f"prompts.file={inputs / 'prompts.txt'}",
        "sample.batch_size=2", "sampler.steps=2", f"adapter={run.adapter(step_id(4))}", f"output={tmp_path / 'clips'}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.log
    again = np.load(tmp_path / "clips" / "p001_s0.npy").astype(int)
    assert np.abs(again - clip(run, 4)).max() <= 1
    assert np.abs(again - clip(run, 0)).max() > 1
