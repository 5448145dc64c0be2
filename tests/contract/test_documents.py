"""Documents name only what exists: modules, linked files, choices of conf/; the README's Python is the package's."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from perturb.cli.words import plain
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


COMMAND = re.compile(
    r"^ {4}(?:torchrun --nproc_per_node \w+ -m|python -m) perturb\.(run|sample|train|compare) ((?:[^\n\\]|\\\n|\\.)*)",
    re.MULTILINE,
)
CONFIGS = {"run": "config", "sample": "generate", "train": "train", "compare": "compare"}


def commands(document: Path) -> list[tuple[str, list[str]]]:
    """Configuration and overrides of every command in a document that is one run, and not a sweep of several."""
    found = []
    for name, text in COMMAND.findall(read(document)):
        words = shlex.split(text.replace("\\\n", " "), comments=True)
        choices = [word for word in words if not word.startswith("-")]
        if len(choices) == len(words) and "$" not in text and "for " not in text:
            found.append((CONFIGS[name], [plain(word.replace("…", "x")) for word in choices]))
    return found


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if commands(d)], ids=str)
def test_the_keys_in_the_commands_of_a_document_are_known(document: Path):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for config, overrides in commands(document):
            compose(config, overrides=overrides)  # raises for a key that there is not
