"""The training loss. Axes: b batch, c channels, t frames, h w latents."""

from einops import reduce
from torch import Tensor

from perturb.diffusion.conditioning import Conditioning
from perturb.diffusion.protocols import Denoise
from perturb.diffusion.schedule import NoiseSchedule


def epsilon_loss(  # noqa: PLR0917 - the order of the formula
    denoise: Denoise, schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor, cond: Conditioning
) -> Tensor:
    """Mean over (c, t, h, w) of (ε − ε̂(x_t, t, cond))², one value per sample; of (v − v̂)² where v is predicted.

    x0, noise: b c t h w; t: b int64; result: b. Source: Ho et al. 2020 (arXiv 2006.11239), eq. 14.
    """
    output = denoise(schedule.q_sample(x0, t, noise), t, cond)
    # float32 also when the network ran in bfloat16: a mean of squares loses too much there.
    return reduce((schedule.target(x0, t, noise).float() - output.float()).square(), "b c t h w -> b", "mean")
