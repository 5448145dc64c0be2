"""Perturbations: a change Δ of the weights of one group of a network."""

from perturb.perturbation.base import Magnitude, Perturbation
from perturb.perturbation.lora import LoraPerturbation

__all__ = ["LoraPerturbation", "Magnitude", "Perturbation"]
