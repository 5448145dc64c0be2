"""Perturbations: a change Δ of the weights of one group of a network."""

from perturb.perturbation.adapters import AdaptersPerturbation
from perturb.perturbation.base import Magnitude, Perturbation, Unfitted
from perturb.perturbation.direct import DirectPerturbation
from perturb.perturbation.lora import LoraPerturbation
from perturb.perturbation.random import RandomPerturbation
from perturb.perturbation.restore import restore
from perturb.perturbation.scaled import ScaledPerturbation

__all__ = [
    "AdaptersPerturbation",
    "DirectPerturbation",
    "LoraPerturbation",
    "Magnitude",
    "Perturbation",
    "RandomPerturbation",
    "ScaledPerturbation",
    "Unfitted",
    "restore",
]
