"""Run directories of schema 1 are read as if they had states.csv: their steps, and the cells that were called steps."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from random_case import finished
from state_runs import ablation, landscape

from perturb.analysis.landscape.landscape import Landscape, surface_rows
from perturb.analysis.layers.layers import effect_rows, effects, energies
from perturb.analysis.load import load
from perturb.analysis.replicates import PART, SCALES, read_replicates
from perturb.analysis.report.content import Report
from perturb.analysis.report.verdict import verdict
from perturb.metrics import embedded_metrics
from perturb.models.partition import Partition
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation import RandomPerturbation
from perturb.store.records import TrainRow, read_scores, train_csv
from perturb.store.rundir import RunDir
from perturb.study.rescore import rescore

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "analysis" / "notebooks" / "sample"


def as_schema_1(run: RunDir) -> RunDir:
    """The same run as the first schema had it: states numbered like steps, or by their step, and no states.csv."""
    states = run.states()
    along = {state.id: int(state.coordinates.get("step", k)) for k, state in enumerate(states)}
    with run.scores.open(newline="") as file:
        header, *rows = csv.reader(file)
    at = header.index("state")
    lines = [[*row[:at], str(along[row[at]]), *row[at + 1 :]] for row in rows]
    header[at] = "step"
    with run.scores.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])
    run.train_log.write_text(train_csv(TrainRow(along[s.id], None, None, None, s.magnitude) for s in states))
    for folder in ("adapters", "clips"):
        for state in states:
            if (run.path / folder / state.id).exists():
                (run.path / folder / state.id).rename(run.path / folder / f"step_{along[state.id]:06d}")
    run.states_path.unlink()
    manifest = json.loads(run.manifest_path.read_text()) if run.manifest_path.exists() else {}
    manifest["schema_version"] = 1
    if "step" not in states[0].coordinates:
        manifest["perturbation"]["cells"] = [dict(state.coordinates) for state in states]
    run.manifest_path.write_text(json.dumps(manifest))
    return run


def test_the_sample_of_the_first_study_has_its_steps_and_sizes():
    path = next((SAMPLE / "spatial_full").iterdir())
    with (path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert "step" in rows[0]  # it is of schema 1
    study = load([path])
    (run,) = study.runs
    assert [state.coordinates for state in run.states] == [{"step": step} for step in (0, 20, 50, 100, 200, 300)]
    with (path / "train.csv").open(newline="") as file:
        sizes = {int(row["step"]): row["magnitude"] for row in csv.DictReader(file)}
    assert {step: repr(size) for step, size in run.magnitude.items()} == {step: sizes[int(step)] for step in run.points}
    frame = study.of(run)
    values = {(int(r["step"]), r["prompt_id"], int(r["seed"]), r["metric"]): r["value"] for r in rows}
    assert len(frame) == len(values)
    keys = frame[["step", "prompt_id", "seed", "metric"]].itertuples(index=False, name=None)
    for key, value in zip(keys, frame.value, strict=True):
        assert (values[key] == "") if np.isnan(value) else value == float(values[key])
    assert run.clip(300, "p024", 0).is_file()


def test_scores_and_manifests_kept_without_their_runs_are_enough(tmp_path: Path):
    for name in ("spatial_full", "spatial_partial"):
        (tmp_path / name).mkdir()
        for kind, ending in (("scores", "csv"), ("manifest", "json")):
            kept = ROOT / "experiments" / "first_study" / f"{kind}_{name}.{ending}"
            shutil.copy(kept, tmp_path / name / f"{kind}.{ending}")
    report = Report.of([tmp_path])
    assert [result.points for result in report.runs] == [(0, 20, 50, 100, 200, 300)] * 2
    assert "no ‖Δ‖/‖θ‖ at the probe steps [0, 20, 50, 100, 200, 300]" in verdict(report).sentences[0]


def test_an_old_landscape_and_an_old_ablation_say_the_same_as_new_ones(tmp_path: Path):
    for root in (tmp_path / "old", tmp_path / "new"):
        grid, cut = landscape(root, "full"), ablation(root, "full")
        if root.name == "old":
            as_schema_1(grid)
            as_schema_1(cut)
            assert [state.id for state in cut.states()][:2] == ["step_000000", "step_000001"]
    old, new = (read_replicates([tmp_path / age], *SCALES) for age in ("old", "new"))
    first, second = (pd.DataFrame(surface_rows(Landscape.of(models))) for models in (old, new))
    pd.testing.assert_frame_equal(first, second)
    old, new = (read_replicates([tmp_path / age], PART) for age in ("old", "new"))
    first, second = (pd.DataFrame(effect_rows(effects(models), models)) for models in (old, new))
    pd.testing.assert_frame_equal(first, second)
    assert list(energies(old)) == list(energies(new))


def test_an_old_run_is_a_reference_of_new_ones(tiny_system: VideoSystem, tmp_path: Path):
    run = finished(tiny_system.unet, tmp_path)
    run.scores.write_text("state\n")
    as_schema_1(run)
    run.scores.unlink()
    control = RandomPerturbation(str(run.path))
    assert [(state.id, state.coordinates["step"]) for state in control.states()] == [
        ("step_000000", 0), ("step_000002", 2), ("step_000005", 5)
    ]  # fmt: skip
    control.attach(tiny_system.unet, Partition.of(tiny_system.unet), "spatial", 0)
    control.at(control.states()[2])
    assert control.magnitude().total > 0.01


def test_scoring_an_old_run_anew_makes_it_one_of_today(tmp_path: Path):
    path = tmp_path / "run"
    shutil.copytree(next((SAMPLE / "spatial_full").iterdir()), path)
    run = RunDir(path)
    kept = [row for row in read_scores(run.scores) if row.prompt_id == "p024" and row.metric == "sharpness"]
    text = json.loads(run.manifest_path.read_text())
    text["prompts"] = {"p024": text["prompts"]["p024"]}
    run.manifest_path.write_text(json.dumps(text))
    config = {"sample": {"seeds": [0]}, "training": "full", "group": "spatial", "fit": {"seed": 0}}
    before = run.states()
    rescore(embedded_metrics(), run, config, images=None, cache=None)
    assert run.scores.read_text().startswith("run_id,training,group,lora_seed,state,")
    assert run.manifest().schema_version == 2
    assert run.states() == before
    now = [row for row in read_scores(run.scores) if row.metric == "sharpness" and row.prompt_id == "p024"]
    assert [(row.state, row.value) for row in now] == [(row.state, pytest.approx(row.value)) for row in kept]
