"""Trackers: what a study tells them while it is fitted and when it is scored; what is not there is said.

trackio and MLflow are no part of the environment of the tests, which skip where they are missing.
"""

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from perturb.errors import UserError
from perturb.loop.config import LoopConfig
from perturb.loop.journal import Journal, csv_text
from perturb.loop.processes import make_accelerator
from perturb.loop.trackers import make_tracker
from perturb.store.records import ScoreRow, scores_csv
from perturb.store.rundir import RunDir
from perturb.store.states import State
from perturb.study.tracking import track_scores


def rows(run: RunDir) -> list[ScoreRow]:
    values = {"step_000000": (0.5, 0.7), "step_000020": (0.2, None)}
    return [
        ScoreRow("r", "full", "spatial", 0, state, f"p{i}", 0, "motion_quality", value, "ok" if value else "failed")
        for state, pair in values.items()
        for i, value in enumerate(pair)
    ]


def scored(folder: Path) -> RunDir:
    """A run with two states, scores of two clips each and frames of one."""
    run = RunDir(folder / "0123456789")
    measured = ((0, 0.0, 0.3), (20, 0.1, 0.1))
    states = [State(f"step_{step:06}", {"step": step}, size, loss) for step, size, loss in measured]
    run.write_states(states)
    run.scores.write_text(scores_csv(rows(run), [state.id for state in states]))
    for state in states:
        run.clips(state.id).mkdir(parents=True)
        np.save(run.clip(state.id, "p0", 0), np.full((2, 4, 6, 3), 200, dtype=np.uint8))
    return run


def test_scores_losses_and_frames_go_to_their_step(tmp_path: Path):
    run = scored(tmp_path)
    tracker = make_tracker("tensorboard", project="perturb", folder=run.path)
    assert tracker is not None
    track_scores(tracker, run)
    seen = EventAccumulator(str(run.path / "tensorboard")).Reload()
    told = {tag: [(e.step, round(e.value, 6)) for e in seen.Scalars(tag)] for tag in seen.Tags()["scalars"]}
    assert told["score/motion_quality"] == [(0, 0.6), (20, 0.2)]  # of the clips that have a value
    assert told["state/loss"] == [(0, 0.3), (20, 0.1)]
    image = seen.Images("clips")[1]
    assert (image.step, image.width, image.height) == (20, 12, 4)


def fitted_and_scored(name: str, run: RunDir) -> None:
    """As a study does: one tracker for the fit, another for the scores."""
    tracker = make_tracker(name, project="perturb", folder=run.path)
    accelerator = make_accelerator(LoopConfig(learning_rate=1e-3), device="cpu", folder=run.path, tracker=tracker)
    journal = Journal(run.path, accelerator, csv_text)
    for step, loss in ((0, 0.3), (20, 0.1)):
        journal.write("train", {"step": step, "loss": loss})
    accelerator.end_training()
    scores = make_tracker(name, project="perturb", folder=run.path)
    assert scores is not None
    track_scores(scores, run)


def test_mlflow_has_a_fit_and_its_scores_in_one_run_with_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mlflow: Any = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.chdir(tmp_path)  # where it writes
    run = scored(tmp_path)
    fitted_and_scored("mlflow", run)
    (found,) = mlflow.search_runs(experiment_names=["perturb"], output_format="list")
    assert found.info.run_name == run.path.name
    client = mlflow.MlflowClient()

    def told(metric: str) -> list[tuple[int, float]]:
        return [(each.step, round(each.value, 6)) for each in client.get_metric_history(found.info.run_id, metric)]

    assert told("train/loss") == told("state/loss") == [(0, 0.3), (20, 0.1)]
    assert told("score/motion_quality") == [(0, 0.6), (20, 0.2)]
    pictures = [item.path for item in client.list_artifacts(found.info.run_id, "images") if item.path.endswith(".png")]
    assert sorted(int(re.split("[+%]", picture)[2]) for picture in pictures) == [0, 20]  # clips+step+20+timestamp+…


def test_trackio_has_a_fit_and_its_scores_in_one_run_with_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio", reason="trackio is not installed")
    run = scored(tmp_path)
    fitted_and_scored("trackio", run)
    logs = importlib.import_module("trackio.sqlite_storage").SQLiteStorage.get_logs("perturb", run.path.name)

    def told(metric: str) -> list[tuple[int, float]]:
        return [(row["step"], round(row[metric], 6)) for row in logs if metric in row]

    assert told("train/loss") == told("state/loss") == [(0, 0.3), (20, 0.1)]
    assert told("score/motion_quality") == [(0, 0.6), (20, 0.2)]
    assert [row["step"] for row in logs if "clips" in row] == [0, 20]
    assert len(list((tmp_path / "trackio").rglob("*.png"))) == 2


def test_none_is_none_and_what_is_unknown_or_absent_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert make_tracker(None, project="p", folder=tmp_path) is None
    with pytest.raises(UserError, match="tracker is 'board'; allowed: tensorboard, wandb, trackio, mlflow, null"):
        make_tracker("board", project="p", folder=tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="tracker is mlflow, which is not installed: pip install mlflow"):
        make_tracker("mlflow", project="p", folder=tmp_path)
