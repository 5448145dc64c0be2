"""`perturb COMMAND`: every command by one name, and every name a command."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from perturb.__main__ import COMMANDS, words

ROOT = Path(__file__).parents[2]


def called(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "perturb", *arguments], capture_output=True, text=True, check=False)


def mains() -> set[str]:
    """The modules of the package that are commands: they end in ``__main__``'s own call."""
    files = (path.relative_to(ROOT) for path in (ROOT / "perturb").rglob("*.py"))
    found = {path for path in files if 'if __name__ == "__main__":' in (ROOT / path).read_text(encoding="utf-8")}
    names = (".".join(path.with_suffix("").parts[1:]).removesuffix(".__main__") for path in found)
    return {name for name in names if name != "__main__"}


def test_every_command_has_its_name():
    assert mains() - set(COMMANDS) <= {"metrics.calibration"}  # for who chooses constants
    assert {name for name in COMMANDS if find_spec(f"perturb.{name}") is None} == set()


def test_a_command_is_that_of_its_module(tmp_path: Path):
    outcome = called("verify", str(tmp_path), str(tmp_path))
    assert outcome.returncode == 2
    assert "error: " in outcome.stderr
    hydra = called("run", "experiment=no_such")
    assert (hydra.returncode, "no experiment of this command" in hydra.stderr) == (2, True)


def test_an_unknown_command_is_answered_with_the_known_ones():
    outcome = called("rn")
    assert outcome.returncode == 2
    assert "no command 'rn'; allowed: run, " in outcome.stderr


@pytest.mark.parametrize("argument", ["--help", "--words", "--version"])
def test_it_says_what_it_has(argument: str):
    outcome = called(argument)
    assert outcome.returncode == 0
    assert ("perturb 0" if argument == "--version" else "analysis.coupling") in outcome.stdout


def test_choices_are_those_of_the_configuration():
    assert {"experiment=spatial_full", "system=videocrafter2", "train/recipe=partial"} <= set(words())
