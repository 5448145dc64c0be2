"""A saved perturbation back on a network, whatever kind it is."""

from pathlib import Path

from torch import nn

from perturb.perturbation.base import Perturbation
from perturb.perturbation.direct import DirectPerturbation
from perturb.perturbation.lora import LoraPerturbation
from perturb.perturbation.moved import FILE


def restore(unet: nn.Module, folder: Path) -> Perturbation:
    """Attach what ``folder`` holds: moved weights or a LoRA in peft's format. Raises UserError when it is neither."""
    kind = DirectPerturbation if (folder / FILE).is_file() else LoraPerturbation
    return kind.restore(unet, folder)
