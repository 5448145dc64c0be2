"""The pipeline of a model as its sampler. Axes: b batch, c channels, t frames, h w latents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perturb.diffusion import Conditioning, Defaults, Denoise, NoiseSchedule, SamplerStep
from perturb.diffusion.protocols import Work
from perturb.diffusion.settings import check_number, check_whole, needs
from perturb.errors import UserError
from perturb.models.pipelines.schedule import PipelineSchedule


@dataclass(frozen=True)
class PipelineSampler:
    """diffusers' own pipeline with its own scheduler, clip by clip: what its users see.

    ``steps``, ``guidance``: its num_inference_steps and guidance_scale (max_guidance_scale of Stable Video Diffusion);
    None: the pipeline's.
    """

    steps: int | None = None
    guidance: float | None = None

    def resolved(self, defaults: Defaults) -> PipelineSampler:
        """The same sampler with every None replaced by the model's default."""
        return dataclasses.replace(
            self,
            steps=defaults.steps if self.steps is None else self.steps,
            guidance=defaults.guidance if self.guidance is None else self.guidance,
        )

    def check(self, schedule: NoiseSchedule, frames: int | None = None) -> None:
        """Raise UserError for a model that is no pipeline, and for settings and frames it cannot take."""
        if not isinstance(schedule, PipelineSchedule):
            raise UserError("sampler=pipeline is for system=diffusers alone; allowed here: the others, sampler=ddim")
        check_whole("sampler.steps", self.steps)
        check_number("sampler.guidance", self.guidance)
        if frames is not None:
            schedule.pipeline.check_frames(frames)

    def work(self, frames: int) -> Work:
        """Every step is both sides of guidance."""
        steps, guidance = needs(self, "steps", "guidance")
        sides = 2 if guidance > 1 else 1
        return Work(steps * sides, sides)

    @torch.no_grad()
    def __call__(  # noqa: PLR0917 - the order of the Sampler protocol
        self,
        denoise: Denoise,
        x_T: Tensor,
        cond: Conditioning,
        uncond: Conditioning | None,
        generators: Sequence[torch.Generator],
        schedule: NoiseSchedule,
        on_step: Callable[[SamplerStep], None] | None = None,
    ) -> Tensor:
        """x_0 from x_T; sample i and whatever is random in it come from generator i alone. One step is one clip."""
        del denoise  # the pipeline calls the network itself
        assert isinstance(schedule, PipelineSchedule)
        steps, guidance = needs(self, "steps", "guidance")
        negatives = [""] * len(x_T) if uncond is None else [request.prompt for request in uncond.asked]
        asked, clips = zip(cond.asked, negatives, x_T, generators, strict=True), []
        for number, (request, negative, x, generator) in enumerate(asked):
            clip = schedule.pipeline.sample(
                request, x, negative=negative, generator=generator, steps=steps, guidance=guidance
            )
            clips.append(clip)
            if on_step is not None:
                on_step(SamplerStep(number + 1, len(x_T), 0, clip, clip))
        return torch.cat(clips)
