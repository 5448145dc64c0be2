"""The wheel, installed away from the checkout, carries conf/ and the small models and can plan a study."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in it, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("perturb-*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "site")]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    return folder / "site"


def run(site: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_a_study_is_planned_from_the_wheel_alone(site: Path, tmp_path: Path) -> None:
    where = run(site, tmp_path, "-c", "import perturb.analysis; print(perturb.__file__)")
    assert where.stdout.count(str(site)) == 1, where.stderr
    planned = run(site, tmp_path, "-m", "perturb.run", "experiment=spatial_full", "plan=true")
    assert planned.returncode == 0, planned.stderr
    assert "spatial" in planned.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["image", "full", "partial"])
def test_the_small_models_travel_inside(site: Path, model: str) -> None:
    folder = site / "perturb" / "weights" / "nano" / model
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert {"spec.json", "unet.safetensors", "training.json"} <= set(files)
    assert max(files.values()) < 25e6


def test_an_analysis_of_the_user_s_own_shadows_nothing(site: Path, tmp_path: Path) -> None:
    (tmp_path / "analysis.py").write_text("raise SystemExit('the user own')")
    (tmp_path / "runs").mkdir()
    for command in ("perturb.score", "perturb.report"):
        told = run(site, tmp_path, "-m", command, "run=runs" if command == "perturb.score" else "runs")
        assert told.returncode == 2
        assert "user own" not in told.stderr
        assert "run" in told.stderr
