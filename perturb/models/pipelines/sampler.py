"""The pipeline of a model as its sampler. Axes: b batch, c channels, t frames, h w latents."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from perturb.diffusion import Defaults, NoiseSchedule, SamplerStep
from perturb.diffusion.protocols import Work
from perturb.diffusion.sampler import Given, OneCall
from perturb.diffusion.settings import check_number, check_whole, needs
from perturb.errors import UserError
from perturb.models.pipelines.schedule import PipelineSchedule


@dataclass(frozen=True)
class PipelineSampler(OneCall):
    """diffusers' own pipeline with its own scheduler, clip by clip: what its users see.

    ``steps``, ``guidance``: its num_inference_steps and guidance_scale (max_guidance_scale of Stable Video Diffusion);
    None: the pipeline's.
    """

    steps: int | None = None
    guidance: float | None = None

    def resolved(self, defaults: Defaults) -> "PipelineSampler":
        """The same sampler with every None replaced by the model's default."""
        return dataclasses.replace(
            self,
            steps=defaults.steps if self.steps is None else self.steps,
            guidance=defaults.guidance if self.guidance is None else self.guidance,
        )

    def check(self, schedule: NoiseSchedule, frames: int | None = None) -> None:
        """Raise UserError for a model that is no pipeline, and for settings it cannot take."""
        del frames  # the model refuses what it cannot take
        if not isinstance(schedule, PipelineSchedule):
            raise UserError("sampler=pipeline is for system=diffusers alone; allowed here: the others, sampler=ddim")
        check_whole("sampler.steps", self.steps)
        check_number("sampler.guidance", self.guidance)

    def work(self, frames: int) -> Work:
        """Every step is both sides of guidance, which begins above 1."""
        steps, guidance = needs(self, "steps", "guidance")
        sides = 2 if guidance > 1 else 1
        return Work(steps * sides, sides)

    @torch.no_grad()
    def sample(self, x_T: Tensor, given: Given) -> Tensor:
        """x_0 from x_T, both b c t h w; all that is random in sample i comes from generator i. One step is one clip."""
        assert isinstance(given.schedule, PipelineSchedule)
        steps, guidance = needs(self, "steps", "guidance")
        negatives = [None] * len(x_T) if given.uncond is None else given.uncond.asked
        asked, clips = zip(x_T, given.cond.asked, negatives, given.generators, strict=True), []
        for number, (x, request, negative, generator) in enumerate(asked):
            clips.append(
                given.schedule.sample(x, request, negative, generator=generator, steps=steps, guidance=guidance)
            )
            given.tell(SamplerStep(number + 1, len(x_T), 0, clips[-1], clips[-1]))
        return torch.cat(clips)
