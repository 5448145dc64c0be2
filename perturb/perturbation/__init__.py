"""Perturbations: a change Δ of the weights of one group of a network."""

from perturb.perturbation.ablation import AblationPerturbation
from perturb.perturbation.base import Magnitude, Perturbation, Prescribed
from perturb.perturbation.direct import DirectPerturbation
from perturb.perturbation.landscape import LandscapePerturbation
from perturb.perturbation.lora import LoraPerturbation
from perturb.perturbation.random import RandomPerturbation
from perturb.perturbation.restore import restore

__all__ = [
    "AblationPerturbation",
    "DirectPerturbation",
    "LandscapePerturbation",
    "LoraPerturbation",
    "Magnitude",
    "Perturbation",
    "Prescribed",
    "RandomPerturbation",
    "restore",
]
