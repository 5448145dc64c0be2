"""Diffusion: noise schedule, guidance, samplers and the training loss; knows tensors, no model and no file."""

from perturb.diffusion.conditioning import Conditioning
from perturb.diffusion.ddim import DDIMSampler
from perturb.diffusion.guidance import Guidance, guided
from perturb.diffusion.loss import epsilon_loss
from perturb.diffusion.noise import draw, sample_generator
from perturb.diffusion.protocols import Defaults, Denoise, Sampler, SamplerStep
from perturb.diffusion.schedule import DDIMRow, DDIMTable, NoiseSchedule

__all__ = [
    "Conditioning",
    "DDIMRow",
    "DDIMSampler",
    "DDIMTable",
    "Defaults",
    "Denoise",
    "Guidance",
    "NoiseSchedule",
    "Sampler",
    "SamplerStep",
    "draw",
    "epsilon_loss",
    "guided",
    "sample_generator",
]
