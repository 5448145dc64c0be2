"""Diffusion: noise schedule, guidance, samplers and the training loss; knows tensors, no model and no file."""

from perturb.diffusion.conditioning import Conditioning
from perturb.diffusion.ddim import DDIMSampler, DDIMStep
from perturb.diffusion.guidance import guided
from perturb.diffusion.loss import epsilon_loss
from perturb.diffusion.noise import draw, sample_generator
from perturb.diffusion.protocols import Defaults, Denoise, Sampler
from perturb.diffusion.schedule import DDIMTable, NoiseSchedule

__all__ = [
    "Conditioning",
    "DDIMSampler",
    "DDIMStep",
    "DDIMTable",
    "Defaults",
    "Denoise",
    "NoiseSchedule",
    "Sampler",
    "draw",
    "epsilon_loss",
    "guided",
    "sample_generator",
]
