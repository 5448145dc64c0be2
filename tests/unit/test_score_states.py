"""States that several processes score by turns: all are scored, and whoever goes on takes what was handed in."""

from pathlib import Path

import numpy as np
import pytest

from perturb.metrics import Format
from perturb.metrics.embedded.motion import MOTION
from perturb.store.records import ScoreRow, read_scores, scores_csv
from perturb.store.rundir import RunDir, write_atomic
from perturb.store.states import step_id, step_state
from perturb.study import score as module
from perturb.study.rescore import read_sampled
from perturb.study.sample import save_clip
from perturb.study.score import Labels, Sampled, score

STATES = [step_id(step) for step in (0, 10, 20, 30)]
HANDED_IN = 0.5


class Waits(Exception):
    """The process that writes the run waits for a part that is not there yet."""


def sampled(folder: Path, *, writes: bool = True) -> Sampled:
    run, rng = RunDir(folder, writes=writes), np.random.default_rng(0)
    for state in STATES:
        if not run.clip(state, "p000", 0).is_file():
            save_clip(run.clip(state, "p000", 0), rng.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8))
    labels = Labels("run", "full", "spatial", 0)
    return Sampled(run, labels, [("p000", 0)], {"p000": "a"}, STATES, Format(8, 4, 32, 32))


def hand_in(folder: Path, state: str) -> None:
    row = ScoreRow("run", "full", "spatial", 0, state, "p000", 0, "motion_quality", HANDED_IN)
    write_atomic(folder / ".parts" / f"{state}.csv", scores_csv([row], STATES))


def test_one_process_takes_what_several_left(tmp_path: Path):
    hand_in(tmp_path, STATES[1])
    score([MOTION], sampled(tmp_path), images=None, cache=None)
    run = RunDir(tmp_path)
    assert all(run.is_done("score", state) for state in STATES)
    found = {row.state: row.value for row in read_scores(run.scores) if row.metric == "motion_quality"}
    assert list(found) == STATES
    assert found[STATES[1]] == HANDED_IN
    assert not list((tmp_path / ".parts").iterdir())


def test_every_state_has_a_process_whatever_was_done_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def wait_for(ready: object) -> None:
        if not ready():  # type: ignore[operator]
            raise Waits

    monkeypatch.setattr(module, "wait_for", wait_for)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    hand_in(tmp_path, STATES[0])
    for rank in range(4):  # the first takes that part, and marks its state, before the others begin
        monkeypatch.setenv("RANK", str(rank))
        try:
            score([MOTION], sampled(tmp_path, writes=rank == 0), images=None, cache=None)
        except Waits:
            assert rank == 0
    run = RunDir(tmp_path)
    assert [state for state in STATES if run.is_done("score", state)] == STATES[:1]
    assert sorted(part.stem for part in (tmp_path / ".parts").iterdir()) == STATES[1:]


def test_a_run_without_a_fit_can_be_scored_again(tmp_path: Path):
    run = RunDir(tmp_path)
    run.update_manifest(run_id="run", prompts={"p000": "a"}, clips={"fps": 8, "frames": 4, "height": 32, "width": 32})
    run.write_states([step_state(0)])
    found = read_sampled(run, {"sample": {"seeds": [0]}, "training": "full", "group": "all"})
    assert (found.labels.lora_seed, found.samples) == (0, [("p000", 0)])
