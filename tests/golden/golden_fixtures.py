"""The golden fixtures of samplers and relatives, in the format of ``tests.parity.fixtures``.

The folder is named by the environment variable PERTURB_GOLDEN, else it is ``../shared/golden`` beside the checkout.
"""

from tests.parity.fixtures import Golden

GOLDEN = Golden("PERTURB_GOLDEN", "golden")
folder, fixture, fixtures, kinds = GOLDEN.folder, GOLDEN.fixture, GOLDEN.fixtures, GOLDEN.kinds
requires_fixtures = GOLDEN.required
