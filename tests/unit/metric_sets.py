"""Features of clips as a `SetMetric` is given them."""

from collections.abc import Iterable

import numpy as np

from perturb.metrics import Clip, Gathered


def gathered(kept: Iterable[tuple[Clip, np.ndarray]]) -> Gathered:
    pairs = list(kept)
    return Gathered([clip.sample for clip, _ in pairs], [feature for _, feature in pairs])
