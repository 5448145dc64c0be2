"""What every command says of itself and of a user's mistake."""

import contextlib
import importlib
import sys

import pytest

import perturb
from perturb.arguments import exit_code
from perturb.errors import UserError

COMMANDS = [f"perturb.{name}" for name in ("run", "train", "sample", "score", "report", "convert", "verify")]
MODULES = ["perturb.analysis.summary", "perturb.metrics.__main__", "perturb.world.__main__"]


@pytest.mark.parametrize("module", COMMANDS + MODULES)
def test_version_is_that_of_perturb(module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", [module, "--version"])
    with contextlib.suppress(SystemExit):
        importlib.import_module(module).main()
    assert capsys.readouterr().out == f"perturb {perturb.__version__}\n"


def test_a_mistake_is_one_message_and_exit_code_2(capsys: pytest.CaptureFixture[str]):
    def mistaken() -> None:
        raise UserError("no such run")

    assert exit_code(mistaken) == 2
    assert capsys.readouterr().err == "error: no such run\n"
    assert exit_code(lambda: None) == 0
