"""Sweeps: what becomes of each job and of the command, one after the other, side by side, and under a made-up Slurm."""

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from perturb.cli.command import run_command
from perturb.cli.launchers import Joblib
from perturb.errors import UserError

SLURM = {
    "sbatch": 'cp "$1" "$SLURM/script"; SLURM_JOB_ID=7 bash "$SLURM/begin" &> /dev/null & echo Submitted batch job 7',
    "begin": 'bash "$SLURM/script"; echo $? >> "$SLURM/codes"',
    "srun": 'while [ "$1" != "$PYTHON" ]; do shift; done; exec "$@"',
    "scontrol": '[ "$1 $2" = "requeue 7" ] && bash "$SLURM/begin"',
    "sacct": "",
}
"""As much of Slurm as a run meets that is stopped, queued again and finished."""


def task(values: dict[str, Any]) -> None:
    """By seed: 1 ends well, 2 has a bug, 3 dies; 4 is asked to stop, or 5 what began it, the first time."""
    seed = values["fit"]["seed"]
    begun = Path(values["runs_dir"], f"begun_{seed}")
    again = begun.is_file()
    begun.touch()
    if seed == 2:
        raise RuntimeError("a bug")
    if seed == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed in (4, 5) and not again:
        os.kill(os.getpid() if seed == 4 else os.getppid(), signal.SIGTERM)
        time.sleep(60)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    begun.with_name(f"ended_{seed}_gpu_{gpus}").touch()


def sweep(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> int:
    """The exit code of a sweep with `task`."""
    monkeypatch.setattr(sys, "argv", ["perturb.run", "--multirun", f"runs_dir={folder}", *words])
    try:
        run_command(task, "config")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def seen(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*_*"))


def test_one_after_the_other_jobs_go_on_after_a_crash_and_end_with_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "9")
    assert sweep(monkeypatch, tmp_path, "fit.seed=2,1,4,6") == 75
    assert seen(tmp_path) == ["begun_1", "begun_2", "begun_4", "ended_1_gpu_9"]
    told = capsys.readouterr().err
    assert re.search(r"^error in runs_dir=\S+,fit.seed=2: Traceback .*a bug$", told, re.S | re.M)
    assert "fit.seed=4: stopped; the same command, given again" in told


def test_joblib_gives_each_job_a_gpu_outlives_one_that_dies_and_passes_sigterm_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    pytest.importorskip("joblib")
    words = ["hydra/launcher=joblib", "hydra.launcher.gpus=[7]", "fit.seed=3,1,2,5,6"]
    assert sweep(monkeypatch, tmp_path, *words) == 75
    assert seen(tmp_path) == ["begun_1", "begun_2", "begun_3", "begun_5", "ended_1_gpu_7"]
    told = capfd.readouterr().err
    assert "fit.seed=3: its process died (SIGKILL, as when memory runs out)" in told
    assert "fit.seed=2: Traceback" in told
    assert "fit.seed=5: stopped; the same command, given again" in told


def test_submitit_local_outlives_a_job_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(pytest.importorskip("submitit").Job, "_results_timeout_s", 0.5)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "9")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert sweep(monkeypatch, tmp_path, "hydra/launcher=submitit_local", "fit.seed=3,1") == 1
    assert seen(tmp_path) == ["begun_1", "begun_3", "ended_1_gpu_9"]
    told = capsys.readouterr()
    assert re.search(r"fit.seed=3: its process died; what it said is in \S+/.submitit/\d+/\d+_0_log.err", told.err)
    assert re.search(r"^finished  runs_dir=\S+,fit.seed=1 ", told.out, re.M)


def test_under_slurm_a_run_that_was_stopped_is_queued_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("submitit")
    slurm = tmp_path / "slurm"
    slurm.mkdir()
    for name, script in SLURM.items():
        (slurm / name).write_text(f"#!/bin/bash\n{script}\n")
        (slurm / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(slurm), prepend=os.pathsep)
    monkeypatch.setenv("SLURM", str(slurm))
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")  # by Slurm
    monkeypatch.setattr("perturb.cli.launchers.POLL_SLURM", 0.1)
    words = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.time=90", "fit.seed=4"]
    assert sweep(monkeypatch, tmp_path, *words) == 0
    assert seen(tmp_path) == ["begun_4", "ended_4_gpu_3"]
    given = {line.removeprefix("#SBATCH --") for line in (slurm / "script").read_text().splitlines()}
    assert {"time=90", "partition=gpu", "mem=32GB", "gpus-per-node=1", "cpus-per-task=8", "requeue"} <= given
    assert {"signal=USR2@120", "job-name=perturb", "open-mode=append"} <= given
    codes = slurm / "codes"
    while not (codes.is_file() and codes.read_text().count("\n") == 2):  # the script ends after its run
        time.sleep(0.05)
    assert codes.read_text().split() == ["0", "75"]


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"n_jobs": 1, "gpus": 4}, r"hydra.launcher.gpus is 4; allowed: a list, for example \[1,2\]"),
        ({"n_jobs": 0, "gpus": None}, "hydra.launcher.n_jobs is 0; allowed: at least 1, or -1"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], answer: str):
    pytest.importorskip("joblib")
    with pytest.raises(UserError, match=answer):
        Joblib(**settings).start([])


def test_what_a_launcher_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sweep(monkeypatch, tmp_path, "hydra/launcher=submitit_slurm", "fit.seed=1,2") == 2
    assert 'error: hydra/launcher=submitit_slurm: Could not detect "srun"' in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert sweep(monkeypatch, tmp_path, "hydra/launcher=submitit_local", "fit.seed=1,2") == 2
    assert "error: this launcher needs submitit: pip install 'perturb[launchers]'" in capsys.readouterr().err
    assert seen(tmp_path) == []
