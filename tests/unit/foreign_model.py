"""A model of no known family, with classes of its own: its vae halves pictures, its network mixes space, then time.

Axes: b batch, c channels, t frames, h w pixels or latents, l text tokens, d features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from perturb.diffusion import Conditioning, NoiseSchedule
from perturb.errors import UserError
from perturb.models.base import Batch
from perturb.models.partition import Partition

WIDTH = 8


class SpaceMix(nn.Conv2d):
    """Mixes the positions of a frame."""


class TimeMix(nn.Conv1d):
    """Mixes the frames at a position."""


class Denoiser(nn.Module):
    """x + what the words say → space → time."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Linear(WIDTH, 3)
        self.space = SpaceMix(3, 3, 3, padding=1)
        self.time = TimeMix(3, 3, 3, padding=1)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        b, t, h, w = len(x), *x.shape[2:]
        x = x + rearrange(self.words(text.mean(1)), "b c -> b c 1 1 1")
        x = torch.tanh(self.space(rearrange(x, "b c t h w -> (b t) c h w")))
        x = self.time(rearrange(x, "(b t) c h w -> (b h w) c t", b=b, t=t))
        return rearrange(x, "(b h w) c t -> b c t h w", b=b, h=h, w=w)


@dataclass(frozen=True)
class Defaults:
    steps: int = 4
    guidance: float = 2.0
    eta: float = 0.0
    height: int = 16
    width: int = 16
    frames: int = 4
    fps: int = 8


class Foreign:
    """As a `VideoModel`."""

    name, sampling, size_multiple, latent_scale, takes_image = "foreign", Defaults(), 2, 2.0, False
    crops_image = False

    def __init__(self, device: str = "cpu") -> None:
        self.gradient_checkpointing, self.provenance = False, {"spec": "foreign", "sha256": "0" * 64}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = Denoiser().to(device).eval()
        self.device = torch.device(device)
        self.schedule = NoiseSchedule(timesteps=100, latent_scale=None)
        self.schedule.to(device)

    def modules(self) -> dict[str, nn.Module]:
        return {"denoiser": self.network}

    def partition(self) -> Partition:
        return Partition.of(self.network, {Denoiser: "conditioning", SpaceMix: "spatial", TimeMix: "temporal"})

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        return (3, frames, height // 2, width // 2)

    def check_prompts(self, prompts: Mapping[str, str]) -> None:
        """Any length will do."""

    def conditioning(self, prompts: Sequence[str], fps: int, image: Tensor | None = None) -> Conditioning:
        if image is not None:
            raise UserError("foreign takes no image")
        codes = [[float(ord(letter)) / 100 for letter in f"{prompt:{WIDTH}.{WIDTH}}"] for prompt in prompts]
        text = rearrange(torch.tensor(codes, device=self.device), "b d -> b 1 d")
        return Conditioning(text, torch.full((len(prompts),), fps, device=self.device))

    def unconditional(self, count: int, fps: int, negative: str = "") -> Conditioning:
        return self.conditioning([""] * count, fps)

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        mean = reduce(video.to(self.device), "b c t (h p) (w q) -> b c t h w", "mean", p=2, q=2)
        return mean, torch.full_like(mean, 0.01)

    def decode(self, latents: Tensor) -> Tensor:
        return repeat(latents / self.latent_scale, "b c t h w -> b c t (h p) (w q)", p=2, q=2)

    def denoise(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        return x + self.network(x, cond.text)

    def loss(self, batch: Batch) -> Tensor:
        eps = self.denoise(self.schedule.q_sample(batch.x0, batch.t, batch.noise), batch.t, batch.cond)
        return reduce((eps - batch.noise).abs(), "b c t h w -> b", "mean")  # no square, as another paper would have it
