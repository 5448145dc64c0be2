"""Documents name only what exists: modules, linked files, choices of conf/; the README's Python is the package's."""

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from perturb.store.paths import conf_dir

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/*.md", "experiments/**/*.md", "analysis/notebooks/**/*.md", "perturb/weights/*/*.md")
    for path in ROOT.glob(pattern)
)
MODULE = re.compile(r"python -m (perturb[\w.]*)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CHOICE = re.compile(
    r"(?<![\w.])(experiment|system|perturbation|sampler|images|metrics|prompts|fit|sample|train/\w+)"
    r"=([\w/,]++)(?![$*{]|\.\w)"  # whole words; what a shell or a reader completes is left out
)


def unknown_choices(text: str) -> set[str]:
    """Choices like ``sampler=fifo`` or ``experiment=a,b`` without a yaml; a placeholder in capitals names none.

    >>> unknown_choices("sampler=fifo system=nano_full,nano_half system=nano_$x sampler=NAME system.dtype=float16")
    {'system=nano_half'}
    """
    found = [(group, name) for group, names in CHOICE.findall(text) for name in names.split(",")]
    return {
        f"{group}={name}"
        for group, name in found
        if name
        and not name.isupper()
        and not name.endswith("/")
        and not (conf_dir() / group / f"{name}.yaml").is_file()
    }


def read(document: Path) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def test_the_documents_are_found_and_name_something():
    everything = "".join(map(read, DOCUMENTS))
    assert {Path("README.md"), Path("docs/studies.md"), Path("experiments/coupling/README.md")} <= set(DOCUMENTS)
    assert {"perturb.run", "perturb.analysis.coupling", "perturb.world"} <= set(MODULE.findall(everything))
    assert len(CHOICE.findall(everything)) > 50


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_what_a_document_names_exists(document: Path):
    text = read(document)
    modules = {name.rstrip(".") for name in MODULE.findall(text)}
    assert {name for name in modules if find_spec(name) is None} == set()
    links = {link.partition("#")[0] for link in LINK.findall(text) if "://" not in link}
    assert {link for link in links if link and not (ROOT / document.parent / link).exists()} == set()
    assert unknown_choices(text) == set()


def test_the_program_of_the_readme_is_that_of_the_package_and_its_adapter_is_here():
    (program,) = re.findall(r"```python\n(.*?)```", read(Path("README.md")), re.DOTALL)
    (adapter,) = re.findall(r'model\.lora\("(.*?)"\)', program)
    assert (ROOT / adapter / "adapter_model.safetensors").is_file()
    docstring = (ROOT / "perturb" / "__init__.py").read_text(encoding="utf-8")
    for line in program.replace(adapter, "runs/spatial_full/<run id>/adapters/step_000300").splitlines():
        assert line in docstring or line.startswith("prompts = [")


def test_the_version_is_the_same_everywhere():
    wanted = tomllib.loads(read(Path("pyproject.toml")))["project"]["version"]
    locked = tomllib.loads(read(Path("uv.lock")))["package"]
    assert [package["version"] for package in locked if package["name"] == "perturb"] == [wanted]
    assert re.findall(r"^version: (\S+)$", read(Path("CITATION.cff")), re.MULTILINE) == [wanted]
    assert re.findall(r"^## (\d\S*)", read(Path("CHANGELOG.md")), re.MULTILINE)[0] == wanted


def test_every_experiment_is_in_the_menu_of_the_site() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("experiments/*/README.md")]
    assert pages
    assert [page for page in pages if page not in menu] == []
