"""Perturb a video diffusion model in space or time, and measure what happens to its motion."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str

# OpenMP reads these when torch is imported. Threads that wait by spinning take the cores from each other and from
# everything else on the machine (experiments/speed); what the user has set stays.
for _name, _value in {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}.items():
    os.environ.setdefault(_name, _value)


def __getattr__(name: str) -> str:
    """``__version__``, as it was installed."""
    if name == "__version__":
        from importlib.metadata import version

        return version("perturb")
    raise AttributeError(f"module 'perturb' has no attribute {name!r}")
