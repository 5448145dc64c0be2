"""A study that two processes make together, killed on the way, is the study of one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from perturb.store.records import read_train
from perturb.store.rundir import RunDir
from perturb.store.states import step_id
from tests.e2e.conftest import ROOT, SEARCHED, Commands
from tests.e2e.test_resume import results
from tests.unit.training_case import apart

TOGETHER = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "perturb.run"]
pytestmark = pytest.mark.timeout(900)  # two processes that wait for each other are slow on a busy machine


@pytest.fixture
def given(study: list[str]) -> list[str]:
    """The study, with as many threads here and in the worker: sums in another order differ in their last bits."""
    return [*study, f"threads={torch.get_num_threads()}"]


@pytest.fixture
def together(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, str]:
    """The run of two processes that were killed after their first clip and begun again, and what they printed; once."""
    runs = tmp_path_factory.getbasetemp() / "fits_together"
    command = [sys.executable, "-m", *TOGETHER, *given, f"runs_dir={runs}"]
    environment = {**os.environ, "PYTHONPATH": SEARCHED}
    if not runs.exists():
        silent = subprocess.DEVNULL
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=silent, stderr=silent, start_new_session=True
        ) as killed:
            while not list(runs.glob("*/*/clips/*/*.npy")) and killed.poll() is None:
                time.sleep(0.02)
            os.killpg(killed.pid, signal.SIGKILL)
        assert not list(runs.glob("*/*/.done/study/all"))
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        (runs / "printed").write_text(done.stdout)
    (path,) = runs.glob("spatial_full/*")
    return RunDir(path), (runs / "printed").read_text()


def test_two_processes_fit_what_one_does(together: tuple[RunDir, str], finished: RunDir):
    run, printed = together
    assert run.path.name == finished.path.name
    assert printed.count("report  ") == 1  # one of them shows the run
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
    assert not (run.path / "checkpoints").exists()


def test_clips_and_scores_of_two_processes_are_those_of_one(
    together: tuple[RunDir, str], commands: Commands, given: list[str], tmp_path: Path
):
    run, _ = together
    alone = RunDir(tmp_path / "spatial_full" / run.path.name)
    shutil.copytree(run.path, alone.path)  # the same adapters: those of two processes differ in their last bits
    for gone in ("clips", ".done/sample", ".done/score", ".done/study"):
        shutil.rmtree(alone.path / gone)
    alone.scores.unlink()
    outcome = commands("perturb.run", *given, f"runs_dir={tmp_path}")
    assert outcome.code == 0, outcome.log
    assert len(list(run.path.glob("clips/*/*.npy"))) == 12
    assert results(run.path) == results(alone.path)
    assert not list(run.path.glob(".parts/*"))
