"""Which Python `make` takes, shown by make itself on a path of made-up interpreters."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def chosen(tmp_path: Path, pythons: dict[str, int]) -> subprocess.CompletedProcess[str]:
    """`make venv` in an empty folder where only these interpreters are, each with its exit code."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("sh", "make", "touch"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    for name, code in pythons.items():
        (tools / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tools / name).chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    environment.pop("PYTHON", None)
    return subprocess.run(
        ["make", "venv"],
        cwd=tmp_path,
        env={**environment, "PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_newest_that_works_is_taken(tmp_path: Path):
    told = chosen(tmp_path, {"python3.11": 0, "python3.12": 0, "python3.13": 127})
    assert told.stdout.splitlines()[0] == "python3.12 -m venv .venv"


def test_without_a_python_make_says_what_to_do(tmp_path: Path):
    told = chosen(tmp_path, {"python3": 0, "python3.13": 1})
    assert told.returncode != 0
    assert "no Python 3.11, 3.12 or 3.13 with venv was found" in told.stderr
    assert "make PYTHON=/path/to/python3.13" in told.stderr
    assert not (tmp_path / ".venv").exists()


def commands(*arguments: str) -> str:
    """What `make venv` would do."""
    made = ["make", "--dry-run", "venv", "PYTHON=python3.12", *arguments]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(made, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_build_of_torch_comes_from_its_own_index_and_the_rest_from_pypi():
    told = commands("--always-make", "TORCH=cpu", "EXTRAS=analysis learned")
    assert "--index-url https://download.pytorch.org/whl/cpu torch torchvision" in told
    assert "--constraint constraints.txt --editable '.[analysis,learned]'" in told
    assert "uv sync" not in told


def test_uv_takes_its_lock_where_it_is_installed():
    told = commands("--always-make")
    assert "uv sync --active --frozen --quiet --extra dev --extra analysis" in told
    assert (
        "else .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,analysis]'" in told
    )


def test_both_locks_hold_the_same_versions():
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    locked = {(package["name"], package.get("version")) for package in lock["package"]}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {tuple(line.partition(" ;")[0].split("==")) for line in lines if not line.startswith("#")}
    assert len(pinned) > 200
    assert pinned <= locked
    for package in lock["package"]:
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        assert all(file["hash"].startswith("sha256:") for file in files)
        assert files or package["name"] == "perturb"
