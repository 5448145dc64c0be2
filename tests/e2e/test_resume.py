"""A run that was killed anywhere, again and again, ends with the bytes of one that was not."""

from pathlib import Path

from perturb.store.rundir import RunDir
from tests.e2e.conftest import Commands

KILLED, STOPPED = -9, 75
POINTS = (
    ("*/step_000002/adapter_model.safetensors", 1, "before"),  # settings of the adapter without its weights
    ("*/checkpoints/step_000003", 1, "after"),  # between two probe steps
    ("*/step_000002/p002_s0.npy", 1, "stop"),  # between two clips of a batch
    ("*/step_000004/p000_s0.mp4", 1, "after"),  # a clip for eyes without its frames
    ("*/scores.csv", 2, "before"),  # a step is scored but not written
    ("*/scores.csv", 1, "after"),  # a step is written but not marked done
)
"""The same command, killed or asked to stop at one point after the other; then it is let through."""


def results(run: Path) -> dict[str, bytes]:
    """Everything that must not depend on interruptions."""
    files = [run / "scores.csv", run / "train.csv", *run.glob("clips/*/*.npy"), *run.glob("adapters/*/*")]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def test_a_killed_run_resumes_to_the_same_bytes(commands: Commands, study: list[str], tmp_path: Path, finished: RunDir):
    for point in POINTS:
        outcome = commands("perturb.run", *study, f"runs_dir={tmp_path}", kill=point)
        assert outcome.code == (STOPPED if "stop" in point else KILLED), outcome.log
        assert ("goes on from what is finished" in outcome.log) == ("stop" in point)
        assert "Traceback" not in outcome.log
        assert "figure" not in outcome.log
    outcome = commands("perturb.run", *study, f"runs_dir={tmp_path}")
    assert outcome.code == 0, outcome.log
    whole = results(finished.path)
    assert len(whole) == 2 + 3 * 4 + 3 * 3  # logs, clips, and of each adapter: settings, weights, magnitude
    assert results(tmp_path / "spatial_full" / finished.path.name) == whole
