"""A study that two processes make together is the study of one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from perturb.store.records import read_train
from perturb.store.rundir import RunDir
from perturb.store.states import step_id
from tests.e2e.conftest import ROOT, SEARCHED
from tests.unit.training_case import apart

TOGETHER = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "perturb.run"]
pytestmark = pytest.mark.timeout(900)  # two processes that wait for each other are slow on a busy machine


def together(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": SEARCHED}
    command = [sys.executable, "-m", *TOGETHER, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_two_processes_fit_what_one_does(finished: RunDir, study: list[str], tmp_path: Path):
    done = together(*study, f"runs_dir={tmp_path}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report  ") == 1  # one of them shows the run
    run = RunDir(tmp_path / "spatial_full" / finished.path.name)
    start, *fitted = (
        [load_file(one.adapter(step_id(step)) / "adapter_model.safetensors") for one in (run, finished)]
        for step in (0, 2, 4)
    )
    assert all(start[0][name].equal(weight) for name, weight in start[1].items())
    for ours, theirs in fitted:
        assert apart(ours, theirs, start[0]) < 1e-3
    for ours, theirs in zip(read_train(run.train_log), read_train(finished.train_log), strict=True):
        assert (ours.step, ours.learning_rate) == (theirs.step, theirs.learning_rate)
        if theirs.loss is not None:
            assert (ours.loss, ours.gradient_norm) == pytest.approx((theirs.loss, theirs.gradient_norm), rel=1e-4)
        assert ours.magnitude == (None if theirs.magnitude is None else pytest.approx(theirs.magnitude, rel=1e-3))
    assert run.manifest().stages == {"fit": "done", "sample": "done", "score": "done"}
    assert run.scores.read_text().count("\n") == finished.scores.read_text().count("\n")
    clips = [np.load(one.clip(step_id(4), "p000", 0)).astype(int) for one in (run, finished)]
    assert np.abs(clips[0] - clips[1]).max() <= 1
    assert not (run.path / "checkpoints").exists()


def test_clips_and_scores_of_two_processes_are_those_of_one_also_after_a_kill(
    finished: RunDir, study: list[str], tmp_path: Path
):
    run = RunDir(tmp_path / "spatial_full" / finished.path.name)
    shutil.copytree(finished.path, run.path)
    for gone in ("clips", ".done/sample", ".done/score", ".done/study"):
        shutil.rmtree(run.path / gone)
    run.scores.unlink()
    # as many threads as the worker that made the one: sums in another order differ in their last bits
    given = [*study, f"runs_dir={tmp_path}", f"threads={torch.get_num_threads()}"]
    with subprocess.Popen(
        [sys.executable, "-m", *TOGETHER, *given],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": SEARCHED},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as killed:
        while not list(run.path.glob("clips/*/*.npy")) and killed.poll() is None:
            time.sleep(0.02)
        os.killpg(killed.pid, signal.SIGKILL)
    assert not run.is_done("study", "all")
    done = together(*given)
    assert done.returncode == 0, done.stderr[-3000:]
    assert run.scores.read_bytes() == finished.scores.read_bytes()
    clips = sorted(path.relative_to(finished.path) for path in finished.path.glob("clips/*/*.npy"))
    assert len(clips) == 12
    assert all((run.path / clip).read_bytes() == (finished.path / clip).read_bytes() for clip in clips)
    assert not list(run.path.glob(".parts/*"))


def test_a_batch_that_two_cannot_share_is_named(study: list[str], tmp_path: Path):
    done = together(*study, "fit.batch_size=3", f"runs_dir={tmp_path}")
    assert done.returncode != 0
    assert "fit.batch_size is 3; allowed with 2 processes" in done.stderr
