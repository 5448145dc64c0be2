"""The notebooks run from top to bottom, on the committed runs and on a user's own, and both halves of a pair agree."""

import os
from pathlib import Path

import pytest

from tests.unit.coupling_runs import make_study

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "analysis" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


def execute(name: str, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str] | None = None) -> list[str]:
    """Run a notebook in its folder, with one cell changed; returns what its cells printed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = jupytext.read(FOLDER / f"{name}.py")
    if change:
        (cell,) = [cell for cell in notebook.cells if change[0] in cell.source]
        cell.source = cell.source.replace(*change)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.get("text", "") for output in outputs]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_on_the_committed_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(name, monkeypatch)


def test_it_runs_on_runs_of_your_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_study(tmp_path, lambda key: key.group == "spatial")
    printed = execute("02_coupling_contrast", monkeypatch, ('Path("sample")', f'Path("{tmp_path}")'))
    assert any("kept 0.7333 and 0.9167, difference -0.1833" in text for text in printed)
    assert any("LoRA seeds, prompts, steps: (2, 3, 3)" in text for text in printed)


@pytest.mark.parametrize("name", NAMES)
def test_both_halves_of_a_pair_agree(name: str) -> None:
    script, notebook = (jupytext.read(FOLDER / f"{name}{ending}") for ending in (".py", ".ipynb"))
    assert [(c.cell_type, c.source) for c in script.cells] == [(c.cell_type, c.source) for c in notebook.cells]
