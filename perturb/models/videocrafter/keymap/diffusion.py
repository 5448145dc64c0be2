"""The diffusion buffers of an official checkpoint: they follow from the schedule, and are written back from it."""

import torch
from torch import Tensor

from perturb.diffusion.schedule import latent_scale_table
from perturb.models.videocrafter.spec import ScheduleSpec, build_schedule

SCHEDULE_TABLES = ("betas", "alphas_cumprod", "scale_arr")  # the other buffers follow from these


def diffusion_buffers(spec: ScheduleSpec) -> dict[str, Tensor]:
    """Every diffusion buffer of the official state dict (no prefix) as float32: 12 of length T, and the scale table.

    The scale table has the published length (1400 in most models, although only 1000 entries are ever read). Models
    that predict v keep zeros in the two tables of 1/ᾱ, which is infinite at zero terminal SNR.
    """
    schedule = build_schedule(spec)
    cumulative, posterior = schedule.alphas_cumprod_exact, schedule.posterior()
    buffers = {
        "betas": schedule.betas_exact,
        "alphas_cumprod": cumulative,
        "alphas_cumprod_prev": schedule.alphas_cumprod_prev_exact,
        "sqrt_alphas_cumprod": cumulative.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - cumulative).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - cumulative).log(),
        "sqrt_recip_alphas_cumprod": (1 / cumulative).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / cumulative - 1).sqrt(),
        "posterior_variance": posterior["variance"],
        "posterior_log_variance_clipped": posterior["log_variance"],
        "posterior_mean_coef1": posterior["weight_x0"],
        "posterior_mean_coef2": posterior["weight_xt"],
    }
    if spec.prediction == "v":
        buffers |= {
            name: torch.zeros_like(cumulative) for name in ("sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod")
        }
    if spec.scale_table_length is not None:
        buffers["scale_arr"] = latent_scale_table(spec.latent_scale, spec.scale_table_length)
    return {name: table.float() for name, table in buffers.items()}
