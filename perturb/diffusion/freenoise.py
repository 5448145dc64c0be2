"""FreeNoise: more frames than a model was trained on, in one pass. Axes: b batch, c channels, t frames, h w latents."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from perturb.diffusion.ddim import DDIMSampler
from perturb.diffusion.protocols import Defaults
from perturb.diffusion.sampler import Given
from perturb.diffusion.schedule import NoiseSchedule
from perturb.diffusion.settings import needs
from perturb.nn.windows import Windows

INJECT_BEFORE, INJECT_AFTER = 5, 15  # step numbers of the published code, whatever the number of steps


@dataclass(frozen=True)
class FreeNoiseSampler(DDIMSampler):
    """DDIM (η = 0) whose noise repeats itself in shuffled blocks, and whose frames attend in windows.

        x_T[p + i] = x_T[p − W + π(i)],   i < s, for p = W, W + s, …     W = ``window``, s = ``stride``, π random

    so that every window of W frames holds W different noises (``reschedule``); temporal attention runs in the
    ``Windows`` of the same W and s. W frames are plain DDIM. η > 0 would add noise that is not rescheduled.

    Where the conditioning holds a text per frame (`by_frame`), the way down and the middle read the last frame's text
    instead at step numbers below 5 and above 15 ("motion injection", on the conditional side only), as published: the
    fixed text is the last one, not the first.
    Source: Qiu et al. 2023 (arXiv 2310.15169) and their code, which shares one noise among all prompts; here each
    sample has its own.
    """

    eta: float | None = 0.0
    window: int | None = None
    stride: int | None = None

    def resolved(self, defaults: Defaults) -> Self:
        """The same sampler with every None replaced: W by the model's frames, s by W/4, the rest by its defaults."""
        window = defaults.frames if self.window is None else self.window
        stride = max(window // 4, 1) if self.stride is None else self.stride
        return dataclasses.replace(super().resolved(defaults), window=window, stride=stride)

    def check(self, schedule: NoiseSchedule, frames: int | None = None) -> None:
        """Raise UserError for settings that cannot be, and for ``frames`` that the windows do not cover."""
        super().check(schedule, frames)
        windows = self.windows()
        if frames is not None:
            windows.check(frames)

    def windows(self) -> Windows:
        """The windows of temporal attention."""
        return Windows(*needs(self, "window", "stride"))

    def sample(self, x_T: Tensor, given: Given) -> Tensor:
        """x_0 from x_T, both b c t h w; UserError unless t is W and any multiple of s more.

        The orders π of sample i come from generator i, before any other noise.
        """
        windows = self.windows()
        windows.check(x_T.shape[2])
        blocks = range((x_T.shape[2] - windows.length) // windows.stride)
        orders = [[torch.randperm(windows.stride, generator=one) for _ in blocks] for one in given.generators]
        x_T = torch.stack([reschedule(x, order, windows) for x, order in zip(x_T, orders, strict=True)])
        return super().sample(x_T, given)

    def predict(self, number: int, x: Tensor, t: Tensor, given: Given) -> Tensor:
        """The guided prediction in windows, with the last text injected at the step numbers that the class names."""
        text = given.cond.text
        injects = text.ndim == 4 and self.guidance != 1 and not INJECT_BEFORE <= number <= INJECT_AFTER
        cond = dataclasses.replace(given.cond, windows=self.windows(), injected=text[:, -1] if injects else None)
        return super().predict(number, x, t, dataclasses.replace(given, cond=cond))


def reschedule(noise: Tensor, orders: Iterable[Tensor], windows: Windows) -> Tensor:
    """The noise c t h w of one sample with its frames from W on replaced: frame W + j s + i by j s + ``orders[j][i]``.

    A frame that is repeated may have been replaced itself. orders: a permutation (s int64) for each j.
    """
    windows.check(noise.shape[1])
    noise = noise.clone()
    for start, order in zip(range(0, noise.shape[1] - windows.length, windows.stride), orders, strict=True):
        noise[:, start + windows.length : start + windows.length + windows.stride] = noise[:, start + order]
    return noise
