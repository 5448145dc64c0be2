"""A run that was killed anywhere ends with the bytes of one that was not."""

from pathlib import Path

import pytest

from tests.e2e.conftest import Commands

KILLED = -9
POINTS = {
    "fit, a state half-way": ("*/fit_state.pt", 4, "after"),
    "fit, before an adapter": ("*/step_000002/adapter_model.safetensors", 1, "before"),
    "sample, between two clips of a batch": ("*/step_000002/p002_s0.npy", 1, "after"),
    "sample, between mp4 and frames": ("*/step_000004/p000_s0.mp4", 1, "after"),
    "score, before a step is written": ("*/scores.csv", 2, "before"),
    "score, written but not marked": ("*/scores.csv", 2, "after"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Cache for the uninterrupted run: one is enough."""
    return {}


def results(runs: Path) -> dict[str, bytes]:
    """Everything that must not depend on interruptions."""
    (run,) = runs.glob("spatial_full/*")
    files = [run / "scores.csv", run / "train.csv", *run.glob("clips/*/*.npy"), *run.glob("adapters/*/*")]
    return {str(file.relative_to(runs)): file.read_bytes() for file in files}


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_resumes_to_the_same_bytes(
    point: str, commands: Commands, study: list[str], tmp_path: Path, finished: dict[str, dict[str, bytes]]
):
    if not finished:
        outcome = commands("perturb.run", *study, f"runs_dir={tmp_path / 'whole'}")
        assert outcome.code == 0, outcome.log
        finished |= {"results": results(tmp_path / "whole")}
        assert len(finished["results"]) == 2 + 3 * 4 + 3 * 2

    outcome = commands("perturb.run", *study, f"runs_dir={tmp_path / 'killed'}", kill=POINTS[point])
    assert outcome.code == KILLED, outcome.log
    assert "figure" not in outcome.log
    outcome = commands("perturb.run", *study, f"runs_dir={tmp_path / 'killed'}")
    assert outcome.code == 0, outcome.log
    assert results(tmp_path / "killed") == finished["results"]
