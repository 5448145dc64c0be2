"""No module of perturb imports, by whatever way around, a module that imports it; and commands start at once."""

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ANALYSES = ["adapters", "coupling", "crosstalk", "finetuning", "landscape", "layers"]


def circles(imports: dict[str, set[str]]) -> set[str]:
    """The modules that are left when those that import nothing are taken away, again and again, then the importers.

    >>> sorted(circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}))
    ['b', 'c']
    """
    left = {name: set(names) for name, names in imports.items()}
    for _ in range(2):  # from below; then, turned around, from above
        while ends := {name for name, names in left.items() if not names}:
            left = {name: names - ends for name, names in left.items() if name not in ends}
        left = {name: {other for other, names in left.items() if name in names} for name in left}
    return set(left)


def test_there_are_no_import_circles():
    graph = grimp.build_graph("perturb", cache_dir=None)  # imports within functions and for types count
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 200
    assert circles(imports) == set()


@pytest.mark.parametrize("name", ANALYSES)
def test_the_help_of_an_analysis_needs_no_slow_import(name: str):
    program = (
        f"import runpy, sys; sys.argv = ['perturb', '--help']\n"
        f"try: runpy.run_module('perturb.analysis.{name}', run_name='__main__')\n"
        "finally: print({'matplotlib', 'pandas', 'scipy', 'torch'} & set(sys.modules))"
    )
    root = Path(__file__).parents[2]
    told = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True).stdout
    assert told.endswith("set()\n")
    assert f"python -m perturb.analysis.{name}" in told


@pytest.mark.parametrize("command", ["report", "convert", "verify"])
def test_a_command_can_be_stopped_before_anything_slow_is_imported(command: str):
    script = f"import sys, perturb.{command}; print(sorted({{'pandas', 'torch', 'cv2', 'altair'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
