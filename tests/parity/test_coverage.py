"""No golden fixture is left out: each kind has a test that looks its fixtures up, and an unknown kind fails here."""

import re
from pathlib import Path

from perturb.models.videocrafter.keymap import PREFIXES
from tests.parity.fixtures import fixtures, folder, kinds, requires_fixtures

pytestmark = requires_fixtures

LOOK_UP = re.compile(r"""fixtures\(\s*["'](\w+)["']\s*\)""")


def kinds_asked_for() -> set[str]:
    """The kinds that some test module of this folder looks up."""
    texts = [file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py")]
    return {kind for text in texts for kind in LOOK_UP.findall(text)}


def test_every_kind_has_a_test():
    assert kinds(), f"{folder()} holds no fixtures"
    untested = {kind: names for kind, names in kinds().items() if kind not in kinds_asked_for()}
    assert not untested, f"fixtures of kinds that no test knows: {untested}"


def test_every_component_of_a_manifest_is_known():
    """The manifest tests select by component: one of a new component would otherwise be left out."""
    assert {golden.meta["role"] for golden in fixtures("manifest")} <= PREFIXES.keys()


def test_every_tensor_file_has_a_description():
    tensors = {path.stem for path in folder().glob("*.safetensors")}
    described = {name for names in kinds().values() for name in names}
    assert tensors <= described
