"""ScaleCrafter: larger frames than a model was trained on. Axes: b batch, c channels, t frames, h w latents."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from perturb.diffusion.conditioning import Conditioning
from perturb.diffusion.ddim import DDIMSampler
from perturb.diffusion.guidance import beside
from perturb.diffusion.protocols import Work
from perturb.diffusion.sampler import Given
from perturb.diffusion.schedule import NoiseSchedule
from perturb.diffusion.settings import check_number, check_whole, needs
from perturb.errors import UserError


@dataclass(frozen=True)
class ScaleCrafterSampler(DDIMSampler):
    """DDIM whose first steps widen what chosen 3×3 convolutions see (``perturb.nn.dilation``).

    ``dilation`` holds factors d by pattern of module path, for step numbers i < ``dilated_steps`` τ. ``progressive``:
    d_i = max(⌈d (τ − i)/τ⌉, 2), also where d is 1, as published. For i < ``damped_steps`` the guidance is noise-damped,
    with the smaller factors of ``damped_dilation`` (which are progressive in ``damped_steps``) on the unconditional
    side:

        o = o_u^damped + g (o_c^dilated − o_u^dilated)

    Factors of 1 are plain DDIM, unless ``progressive``. ``origin`` says in the manifest where layers and factors come
    from: no settings for a video model were published. Source: He et al. 2023 (arXiv 2310.07702) and their code, for
    images.
    """

    dilation: Mapping[str, float] = field(default_factory=dict)
    dilated_steps: int = 20
    progressive: bool = False
    damped_dilation: Mapping[str, float] = field(default_factory=dict)
    damped_steps: int = 0
    origin: str = "extrapolated from Stable Diffusion 2.1 at 1024²"

    def check(self, schedule: NoiseSchedule, frames: int | None = None) -> None:
        """Raise UserError for settings that cannot be; patterns are checked by the network at the first step."""
        super().check(schedule, frames)
        check_whole("sampler.dilated_steps", self.dilated_steps, low=0)
        check_whole("sampler.damped_steps", self.damped_steps, low=0)
        for name in ("dilation", "damped_dilation"):
            for pattern, factor in getattr(self, name).items():
                check_number(f"sampler.{name}.{pattern}", factor)
                if factor < 1:
                    raise UserError(f"sampler.{name}.{pattern} is {factor:g}; allowed: a number from 1")
        if self.damped_steps and (self.guidance_rescale or self.guidance_interval or self.image_guidance is not None):
            raise UserError("noise-damped guidance (sampler.damped_steps) goes with a plain sampler.guidance only")

    def work(self, frames: int) -> Work:
        """As DDIM, and the damped side apart."""
        plain = super().work(frames)
        return Work(plain.forwards + min(self.damped_steps, needs(self, "steps")[0]), plain.at_once)

    def predict(self, number: int, x: Tensor, t: Tensor, given: Given) -> Tensor:
        """The guided prediction with the factors of this step."""
        now = factors(self.dilation, number, self.dilated_steps, progressive=self.progressive)
        cond, uncond = dataclasses.replace(given.cond, dilation=now), given.uncond
        if number >= self.damped_steps or self.guidance == 1 or uncond is None:
            return super().predict(number, x, t, dataclasses.replace(given, cond=cond))
        uncond = beside(uncond, cond)
        damped = factors(self.damped_dilation, number, self.damped_steps, progressive=self.progressive)
        base = given.denoise(x, t, dataclasses.replace(uncond, dilation=damped))
        sides = Conditioning.concat([cond, dataclasses.replace(uncond, dilation=now)])
        o_cond, o_uncond = given.denoise(torch.cat([x, x]), torch.cat([t, t]), sides).chunk(2)
        return base + self.how_guided().scale * (o_cond - o_uncond)


def factors(listed: Mapping[str, float], number: int, steps: int, *, progressive: bool) -> Mapping[str, float] | None:
    """The factors at step ``number`` (0: the noisiest) of those that act in the first ``steps``; None: as trained."""
    if number >= steps or not listed:
        return None
    if not progressive:
        return dict(listed)
    return {pattern: max(math.ceil(d * (steps - number) / steps), 2) for pattern, d in listed.items()}
