"""The notebooks run from top to bottom, on the committed runs and on a user's own, and both halves of a pair agree."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.coupling_runs import Key, make_run

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "analysis" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


def execute(name: str, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str] | None = None) -> list[Any]:
    """Run a notebook in its folder, with one cell changed; returns its cells."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = jupytext.read(FOLDER / f"{name}.py")
    if change:
        (cell,) = [cell for cell in notebook.cells if change[0] in cell.source]
        cell.source = cell.source.replace(*change)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(FOLDER)}}).execute()
    return notebook.cells


def shown(cells: list[Any]) -> list[set[str]]:
    """What kinds of things each cell shows: text, pictures, clips and tables as html."""
    return [{kind for output in cell.get("outputs", []) for kind in output.get("data", {})} for cell in cells]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_on_the_committed_runs_and_shows_what_it_has_when_it_is_opened(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = execute(name, monkeypatch)
    assert cells[0].source.splitlines()[2].startswith("You will see ")
    assert shown(cells) == shown(jupytext.read(FOLDER / f"{name}.ipynb").cells)
    pictures = {"image/png", "text/html"} & set().union(*shown(cells))
    assert bool(pictures) != name.startswith("04")  # which plans alone


def test_it_runs_on_runs_of_your_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for training, losses in (("full", (0.08, 0.025, 0.02)), ("partial", (0.08, 0.04, 0.025))):  # the later one counts
        for seed in (0, 1):
            make_run(tmp_path, Key(training, "spatial", "single_frame", "lora", seed, losses=losses))
    cells = execute("02_coupling_contrast", monkeypatch, ('Path("sample")', f'Path("{tmp_path}")'))
    printed = [output.get("text", "") for cell in cells for output in cell.get("outputs", [])]
    assert any("kept 0.7333 and 0.9167, difference -0.1833" in text for text in printed)
    assert any("LoRA seeds, prompts, steps: (2, 3, 3)" in text for text in printed)


@pytest.mark.parametrize("name", NAMES)
def test_both_halves_of_a_pair_agree(name: str) -> None:
    script, notebook = (jupytext.read(FOLDER / f"{name}{ending}") for ending in (".py", ".ipynb"))
    assert [(c.cell_type, c.source) for c in script.cells] == [(c.cell_type, c.source) for c in notebook.cells]
