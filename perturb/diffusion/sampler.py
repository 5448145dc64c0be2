"""What all samplers share: one call, and a loop with guidance. Axes: b batch, c channels, t frames, h w latents."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from perturb.diffusion.conditioning import Conditioning
from perturb.diffusion.guidance import Guidance, guided
from perturb.diffusion.noise import draw
from perturb.diffusion.protocols import Defaults, Denoise, SamplerStep, Work
from perturb.diffusion.schedule import DDIMTable, NoiseSchedule
from perturb.diffusion.settings import check_number, check_whole, needs
from perturb.diffusion.spacing import Spacing

OPEN = ("steps", "guidance", "eta")  # settings that the model has defaults for


@dataclass(frozen=True)
class Given:
    """What a sampler is called with beside x_T, in the order of the `Sampler` protocol."""

    denoise: Denoise
    cond: Conditioning
    uncond: Conditioning | None
    generators: Sequence[torch.Generator]
    schedule: NoiseSchedule
    on_step: Callable[[SamplerStep], None] | None = None

    def noise(self, like: Tensor) -> Tensor:
        """The next standard normal noise, shaped like ``like`` (b …); that of sample i from generator i."""
        return draw(like.shape[1:], self.generators, like.device)

    def at_frame(self, number: int) -> "Given":
        """The same with the texts of one frame (`Conditioning.at_frame`)."""
        uncond = None if self.uncond is None else self.uncond.at_frame(number)
        return dataclasses.replace(self, cond=self.cond.at_frame(number), uncond=uncond)

    def guided(self, x: Tensor, t: Tensor, guidance: Guidance) -> Tensor:
        """The guided prediction at x b c t h w, t b or b t."""
        return guided(self.denoise, x, t, self.cond, self.uncond, guidance)

    def tell(self, step: SamplerStep) -> None:
        """Report a finished step to whoever asked for it."""
        if self.on_step is not None:
            self.on_step(step)


class OneCall:
    """The call of the `Sampler` protocol, made once: a subclass has ``sample(x_T, given)``."""

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
        """x_0 from x_T, both b c t h w; the noise of sample i comes from generator i only."""
        return self.sample(x_T, Given(denoise, cond, uncond, generators, schedule, on_step))

    def sample(self, x_T: Tensor, given: Given) -> Tensor:
        """x_0 from x_T, both b c t h w."""
        raise NotImplementedError


@dataclass(frozen=True)
class GuidedSampler(OneCall):
    """A walk down the timesteps τ with one guided prediction at each; subclasses say what a step does with it.

    A setting left None comes from the model (``resolved``); ``spacing``: which τ (``Spacing``).
    """

    steps: int | None = None
    guidance: float | None = None
    guidance_rescale: float = 0.0
    guidance_interval: Sequence[int] | None = None
    image_guidance: float | None = None
    spacing: Spacing = "uniform"

    def resolved(self, defaults: Defaults) -> Self:
        """The same sampler with every None replaced by the model's default."""
        return dataclasses.replace(self, **{n: getattr(defaults, n) for n in OPEN if getattr(self, n, 0) is None})

    def check(self, schedule: NoiseSchedule, frames: int | None = None) -> None:
        """Raise UserError for settings that are left open, are no numbers, or do not fit ``schedule``."""
        del frames  # any number of them
        needs(self, *(name for name in OPEN if hasattr(self, name)))
        check_whole("sampler.steps", self.steps)
        for name in ("guidance", "guidance_rescale"):
            check_number(f"sampler.{name}", getattr(self, name))
        self.how_guided()
        self.table(schedule)

    def table(self, schedule: NoiseSchedule) -> DDIMTable:
        """The timesteps with their coefficients."""
        return schedule.ddim_table(*needs(self, "steps"), eta=0.0, spacing=self.spacing)

    def work(self, frames: int) -> Work:
        """Every step is one batch of all sides."""
        (steps,), sides = needs(self, "steps"), self.how_guided().sides
        return Work(steps * sides, sides)

    def how_guided(self) -> Guidance:
        """The settings of guidance as one."""
        (scale,) = needs(self, "guidance")
        return Guidance.of(scale, self.guidance_rescale, self.guidance_interval, self.image_guidance)

    @torch.no_grad()
    def sample(self, x_T: Tensor, given: Given) -> Tensor:
        """x_0 from x_T, both b c t h w."""
        table, total = self.table(given.schedule), len(self.table(given.schedule))
        step = self.stepping(table, given)
        # Arithmetic in float32 whatever the network computes in: bfloat16 would lose the small steps.
        x = x_T.float()
        for number, i in enumerate(reversed(range(total))):
            timestep = int(table.timesteps[i])
            t = torch.full((len(x),), timestep, device=x.device)
            x0, x = step(i, self.predict(number, x, t, given).float(), x)
            given.tell(SamplerStep(number + 1, total, timestep, x0, x))
        return x

    def stepping(self, table: DDIMTable, given: Given) -> Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(index in the table, prediction, x) → x̂_0 and the next x; called from the last index to the first."""
        raise NotImplementedError

    def predict(self, number: int, x: Tensor, t: Tensor, given: Given) -> Tensor:
        """The guided prediction of step ``number`` (0: the noisiest); b c t h w."""
        del number  # for samplers whose prediction changes on the way
        return given.guided(x, t, self.how_guided())
