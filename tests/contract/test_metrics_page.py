"""docs/metrics.md is what the metrics say of themselves, and the command that lists them works without torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perturb.metrics.page import infos, page, table

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_is_generated() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m perturb.metrics docs > docs/metrics.md"


def test_learned_metrics_and_aggregates_name_their_pitfalls() -> None:
    names = [info.name for info in infos()]
    assert len(set(names)) == len(names)
    learned = [info for info in infos() if info.needs or info.name.startswith(("vbench", "evalcrafter"))]
    assert len(learned) > 20
    assert all(info.pitfalls.endswith(".") for info in learned)


def test_the_table_has_every_metric_and_tells_present_from_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    (tmp_path / "alexnet-owt-7be5be79.pth").write_bytes(b"weights")
    rows = {line.split()[0]: line for line in table(str(tmp_path)).splitlines() if line}
    assert {info.name for info in infos()} <= set(rows)
    assert rows["lpips_drift"].endswith("present")
    assert rows["flow_score"].endswith("absent")
    assert rows["motion_quality"].endswith("-")
    assert "raft_large_C_T_V1-22a6c225.pth and put it there" in table(str(tmp_path))


@pytest.mark.parametrize("argument", ["--help", "list"])
def test_the_command_does_not_import_torch(argument: str, tmp_path: Path) -> None:
    code = "import sys, runpy; runpy.run_module('perturb.metrics', run_name='__main__')"
    script = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {code}"
    done = subprocess.run(
        [sys.executable, "-c", script, argument],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TORCH_HOME": str(tmp_path)},
    )
    assert done.stdout.splitlines()[-1] == "False"
    assert ("motion_quality" in done.stdout) == (argument == "list")
