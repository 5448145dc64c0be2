"""Who may import whom, and what stays light."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "diffusers", "transformers", "peft"}


def test_the_floors_hold():
    # in a process of its own: it silences every logger that exists when it starts
    script = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(cache_dir=None))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


LIGHT = ["perturb.run", "perturb.sample", "perturb.score"]
# scoring needs no network
LIGHT += ["perturb.metrics.embedded.shapes", "perturb.data.footage"]
LIGHT += ["perturb.study.score_folder", "perturb.study.rescore"]


@pytest.mark.parametrize("module", LIGHT)
def test_importing_it_imports_no_network_library(module: str):
    script = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert HEAVY.isdisjoint(done.stdout.split())


def test_no_module_of_analysis_imports_a_network_library():
    names = sorted(
        ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in ROOT.glob("perturb/analysis/**/*.py")
    )
    modules = [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
    assert {"perturb.analysis.coupling.figure", "perturb.analysis.report.page"} <= set(modules)
    script = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert HEAVY.isdisjoint(done.stdout.split())
