"""Trackers: what a study tells TensorBoard while it is fitted and when it is scored; what is not there is said."""

from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from perturb.errors import UserError
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


def test_scores_losses_and_frames_go_to_their_step(tmp_path: Path):
    run = RunDir(tmp_path / "0123456789")
    measured = ((0, 0.0, 0.3), (20, 0.1, 0.1))
    states = [State(f"step_{step:06}", {"step": step}, size, loss) for step, size, loss in measured]
    run.write_states(states)
    run.scores.write_text(scores_csv(rows(run), [state.id for state in states]))
    for state in states:
        run.clips(state.id).mkdir(parents=True)
        np.save(run.clip(state.id, "p0", 0), np.full((2, 4, 6, 3), 200, dtype=np.uint8))
    tracker = make_tracker("tensorboard", project="perturb", folder=run.path)
    assert tracker is not None
    track_scores(tracker, run)
    seen = EventAccumulator(str(run.path / "tensorboard")).Reload()
    told = {tag: [(e.step, round(e.value, 6)) for e in seen.Scalars(tag)] for tag in seen.Tags()["scalars"]}
    assert told["score/motion_quality"] == [(0, 0.6), (20, 0.2)]  # of the clips that have a value
    assert told["state/loss"] == [(0, 0.3), (20, 0.1)]
    image = seen.Images("clips")[1]
    assert (image.step, image.width, image.height) == (20, 12, 4)


def test_none_is_none_and_what_is_unknown_or_absent_is_said(tmp_path: Path):
    assert make_tracker(None, project="p", folder=tmp_path) is None
    with pytest.raises(UserError, match="tracker is 'board'; allowed: tensorboard, wandb, trackio, mlflow, null"):
        make_tracker("board", project="p", folder=tmp_path)
    with pytest.raises(UserError, match="tracker is mlflow, which is not installed: pip install mlflow"):
        make_tracker("mlflow", project="p", folder=tmp_path)
