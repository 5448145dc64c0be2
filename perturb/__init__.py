"""Perturb a video diffusion model in space or time, and measure what happens to its motion.

    import perturb

    model = perturb.load("nano_full")  # or perturb.load("videocrafter2", "model.ckpt")
    lora = model.lora("runs/spatial_full/<run id>/adapters/step_000300")
    before, after = model.sample(prompts, scale=0), model.sample(prompts, scale=1)  # they show themselves in Jupyter
    perturb.compare(before, after)  # a DataFrame: measure, before, after, change, interval

Names are imported when they are first used: `import perturb` alone needs neither torch nor seconds.
"""

import os
import sys
import warnings
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perturb.face import Clips, Model, compare, load, sample, score
    from perturb.models.partition import Partition
    from perturb.perturbation import LoraPerturbation as Lora

__version__: str

# OpenMP reads these when torch is imported. Threads that wait by spinning take the cores from each other and from
# everything else on the machine (experiments/speed); what the user has set stays.
for _name, _value in {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}.items():
    os.environ.setdefault(_name, _value)
warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's, in notebooks, of bars that are not ours

__all__ = ["Clips", "Lora", "Model", "Partition", "__version__", "compare", "load", "sample", "score"]

_HOMES = {
    **dict.fromkeys(("Clips", "Model", "compare", "load", "sample", "score"), "perturb.face"),
    "Partition": "perturb.models.partition",
    "Lora": "perturb.perturbation",
}
_OTHER_NAMES = {"Lora": "LoraPerturbation"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # half the time of importing perturb

        return version("perturb")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), _OTHER_NAMES.get(name, name))
    raise AttributeError(f"module 'perturb' has no attribute {name!r}; it offers {', '.join(__all__)}")


class _Package(ModuleType):
    """Keeps its functions where commands of the same names (perturb/sample.py, …) are imported as modules."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
