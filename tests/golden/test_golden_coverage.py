"""No golden fixture is left out: each kind has a test that looks its fixtures up, or is listed as not yet built."""

import re
from pathlib import Path

from tests.golden.golden_fixtures import folder, kinds, requires_fixtures

pytestmark = requires_fixtures

LOOK_UP = re.compile(r"""fixtures\(\s*["'](\w+)["']\s*\)""")
NOT_YET: dict[str, str] = {}


def kinds_asked_for() -> set[str]:
    """The kinds that some test module of this folder looks up."""
    texts = [file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py")]
    return {kind for text in texts for kind in LOOK_UP.findall(text)}


def test_every_kind_has_a_test_or_is_listed():
    assert kinds(), f"{folder()} holds no fixtures"
    untested = {kind: names for kind, names in kinds().items() if kind not in kinds_asked_for() | NOT_YET.keys()}
    assert not untested, f"fixtures of kinds that no test knows: {untested}"


def test_what_has_a_test_is_not_listed_as_missing():
    assert not NOT_YET.keys() & kinds_asked_for()


def test_every_tensor_file_has_a_description():
    tensors = {path.stem for path in folder().glob("*.safetensors")}
    assert tensors <= {name for names in kinds().values() for name in names}
