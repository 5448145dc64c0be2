"""A complete VideoCrafter model. Axes: b batch, c channels, t frames, h w pixels or latents, l m tokens, d features."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn

from perturb.diffusion import Conditioning, draw, epsilon_loss, sample_generator
from perturb.errors import UserError
from perturb.models.base import Batch
from perturb.models.execution import place_of
from perturb.models.partition import Partition
from perturb.models.videocrafter.encoders import ImageEncoder, TextEncoder
from perturb.models.videocrafter.image import at_frames, key_frames, per_frame
from perturb.models.videocrafter.skeleton import skeleton
from perturb.models.videocrafter.spec import ModelSpec, SamplingDefaults, build_schedule
from perturb.models.videocrafter.tokenizer import ClipTokenizer, Tokenizer, check_lengths
from perturb.nn import Resampler, VideoUNet

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class VideoSystem:
    """A `VideoModel`: UNet, autoencoder, encoders and schedule, and the few things one does with them.

    All parts are in eval mode. ``to`` casts the UNet only: the encoders run once per prompt and the autoencoder makes
    the frames that are scored, so both stay in float32. ``provenance`` says where the weights came from.
    """

    def __init__(
        self,
        *,
        spec: ModelSpec,
        unet: VideoUNet,
        vae: AutoencoderKL,
        text_encoder: TextEncoder,
        tokenizer: Tokenizer,
        image_encoder: ImageEncoder | None = None,
        image_projector: Resampler | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        assert (image_encoder is None) == (image_projector is None), "image encoder and projector come together"
        self.spec = spec
        self.unet, self.vae, self.text_encoder, self.tokenizer = unet, vae, text_encoder, tokenizer
        self.image_encoder, self.image_projector = image_encoder, image_projector
        self.schedule = build_schedule(spec.schedule)
        self.provenance = {} if provenance is None else provenance
        # Official tensors that no part reads, kept so that the checkpoint can be written back whole.
        self.extra: dict[str, Tensor] = {}
        for module in self.modules().values():
            module.eval()

    def modules(self) -> dict[str, nn.Module]:
        """The parts that hold weights, by component name; the image parts only where the model has them."""
        parts = {
            "unet": self.unet,
            "vae": self.vae,
            "text_encoder": self.text_encoder,
            "image_encoder": self.image_encoder,
            "image_projector": self.image_projector,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def network(self) -> VideoUNet:
        """The UNet."""
        return self.unet

    @property
    def name(self) -> str:
        """The name of the spec."""
        return self.spec.name

    @property
    def sampling(self) -> SamplingDefaults:
        """What the published scripts sample with."""
        return self.spec.sampling

    @property
    def size_multiple(self) -> int:
        """See `ModelSpec`."""
        return self.spec.size_multiple

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """See `ModelSpec`."""
        return self.spec.latent_shape(frames, height, width)

    @property
    def latent_scale(self) -> float:
        """The scale factor of the autoencoder."""
        return self.spec.vae.scale_factor

    @property
    def takes_image(self) -> bool:
        """Whether this is an image-to-video model."""
        return self.image_encoder is not None

    @property
    def crops_image(self) -> bool:
        """As DynamiCrafter's code does, and VideoCrafter's does not."""
        return self.spec.image is not None and self.spec.image.joins is not None

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether the UNet computes the activations of its blocks again in the backward pass."""
        return self.unet.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        self.unet.gradient_checkpointing = value

    def partition(self) -> Partition:
        """By the ``group`` of the UNet's block classes."""
        return Partition.of(self.unet)

    @property
    def device(self) -> torch.device:
        """Where the parts compute."""
        return place_of(self.unet)

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet computes in."""
        return next(self.unet.parameters()).dtype

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> VideoSystem:
        """Moves every part to ``device``, in place; ``dtype`` is for the UNet, the other parts stay float32."""
        for module in self.modules().values():
            module.to(device)
        self.unet.to(dtype=dtype)
        self.schedule.to(device)
        return self

    def denoise(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """ε̂ (or v̂) b c t h w (float32) of x of the same shape at timesteps t (b, or b t for one per frame; int64)."""
        # The tokens may belong to a graph: nothing is detached, and a cast to the dtype they have is free.
        cond = cond.to(x.device, self.dtype)
        output = self.unet(
            self._joined(x, cond.image_latents).to(self.dtype),
            t,
            cond.text,
            cond.fps,
            image_context=cond.image,
            guidance=cond.guidance,
            motion=cond.motion,
            injected_context=cond.injected,
            windows=cond.windows,
            dilation=cond.dilation,
        )
        return output.float()

    def _joined(self, x: Tensor, latents: Tensor | None) -> Tensor:
        """x with the latents of the image behind its channels, where this model joins any."""
        if (latents is None) != (self.spec.unet.in_channels == x.shape[1]):
            raise UserError(f"{self.spec.name} joins {'no' if latents is not None else 'the'} latents of an image to x")
        return x if latents is None else torch.cat([x, at_frames(latents.to(x), x.shape[2])], dim=1)

    def loss(self, batch: Batch) -> Tensor:
        """The ε-loss (or v-loss), one value per sample."""
        return epsilon_loss(self.denoise, self.schedule, batch.x0, batch.t, batch.noise, batch.cond)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Text tokens b l d of the prompts."""
        return self.text_encoder(self.tokenizer(prompts).to(self.device))

    @torch.no_grad()
    def embed_image(self, images: Tensor) -> Tensor:
        """Image tokens b m d (or b t m d) of images b 3 h w in [−1, 1]; UserError when the model takes no image."""
        if self.spec.image is None or self.image_encoder is None or self.image_projector is None:
            raise UserError(f"{self.spec.name} takes no image; use an image-to-video model such as i2v_512_v1")
        return per_frame(self.image_projector(self.image_encoder(images.to(self.device).float())), self.spec.image)

    def null_image_embedding(self) -> Tensor:
        """Image tokens 1 m d of the unconditional side: those of the all-zero (mid grey) image, of any size."""
        return self.embed_image(torch.zeros(1, 3, 224, 224))

    def image_latents(self, image: Tensor) -> Tensor | None:
        """Scaled latents b c k h/f w/f of the k key frames that are joined to x (see `conditioning`), None for none.

        They are drawn from the posterior as published, always with the same noise.
        """
        video = None if self.spec.image is None else key_frames(image, self.spec)
        return None if video is None else self.encode(video, [sample_generator("image latents") for _ in video])

    def check_prompts(self, prompts: Mapping[str, str]) -> None:
        """See `tokenizer.check_lengths`."""
        check_lengths(self.tokenizer, prompts)

    def conditioning(self, prompts: Sequence[str], fps: int | Tensor, image: Tensor | None = None) -> Conditioning:
        """Conditioning for the prompts at ``fps`` (one for all, or b int64).

        ``image`` is b 3 h w (or 1 3 h w for all prompts) in [−1, 1]: needed by image-to-video models, refused by the
        others, UserError in both cases. Models between two images take b 3 2 h w, the first frame and the last; a
        single one is both, so that the clip is a loop.
        """
        if (image is None) == (self.image_encoder is not None):
            need = "needs a conditioning image" if image is None else "takes no conditioning image"
            raise UserError(f"{self.spec.name} {need}: {'give' if image is None else 'leave out'} image=…")
        if image is None:
            return self._told(prompts, fps)
        latents = self.image_latents(image)  # first: it knows how many images this model takes
        return self._told(prompts, fps, self.embed_image(image if image.ndim == 4 else image[:, :, 0]), latents)

    def unconditional(self, count: int, fps: int | Tensor, negative: str = "") -> Conditioning:
        """The other side of guidance: the negative prompt, the null image, the same fps. Latents: see `beside`."""
        row = self._told([negative], 0, None if self.image_encoder is None else self.null_image_embedding())
        return dataclasses.replace(row.index([0] * count), fps=self._fps(count, fps))

    def _told(
        self, prompts: Sequence[str], fps: int | Tensor, image: Tensor | None = None, latents: Tensor | None = None
    ) -> Conditioning:
        """Of tokens and latents for each prompt, or one for all."""
        count, unet = len(prompts), self.spec.unet
        # what a distilled network reads unless a sampler says otherwise: it was never trained without
        guidance = None if unet.guidance_dim is None else torch.full((1,), self.spec.sampling.guidance)
        motion = torch.zeros(1) if unet.motion_cond else None
        parts = {"image": image, "image_latents": latents, "guidance": guidance, "motion": motion}
        told = {name: part.to(self.device) for name, part in parts.items() if part is not None}
        rows = {k: part.expand(count, *part.shape[1:]) if len(part) == 1 else part for k, part in told.items()}
        return dataclasses.replace(Conditioning(self.embed(prompts), self._fps(count, fps)), **rows)

    def _fps(self, count: int, fps: int | Tensor) -> Tensor:
        values = torch.as_tensor(fps, dtype=torch.long, device=self.device)
        return values.expand(count) if values.ndim == 0 else values

    @torch.no_grad()
    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (b 4 t h/f w/f, not scaled) of the latent of video b 3 t h w in [−1, 1]."""
        frames = rearrange(video.to(self.device).float(), "b c t h w -> (b t) c h w")
        latent = self.vae.encode(frames).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        mean, std = (rearrange(x, "(b t) c h w -> b c t h w", b=len(video)) for x in (latent.mean, latent.std))
        return mean, std

    def encode(self, video: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Scaled latents b 4 t h/f w/f of video b 3 t h w in [−1, 1]: 0.18215 (μ + σ z), z = 0 without generators.

        z of sample i is drawn from generator i (on the CPU).
        """
        mean, std = self.posterior(video)
        if generators is not None:
            mean = mean + std * draw(mean.shape[1:], generators, mean.device)
        return self.spec.vae.scale_factor * mean

    @torch.no_grad()
    def decode(self, latents: Tensor, frames_per_batch: int = 8) -> Tensor:
        """Video b 3 t h w (about [−1, 1], not clamped) of scaled latents b 4 t h/f w/f, a few frames at a time."""
        frames = rearrange(latents.to(self.device).float() / self.spec.vae.scale_factor, "b c t h w -> (b t) c h w")
        decode = typing.cast("Callable[..., tuple[Tensor]]", self.vae.decode)
        parts = [decode(part, return_dict=False)[0] for part in frames.split(frames_per_batch)]
        return rearrange(torch.cat(parts), "(b t) c h w -> b c t h w", b=len(latents))


def build_system(
    spec: ModelSpec, tokenizer: Tokenizer | None = None, device: torch.device | str = "cpu"
) -> VideoSystem:
    """The system ``spec`` describes with fresh weights (from torch's global random state) in float32 on ``device``.

    ``tokenizer`` may be left out when the spec's is CLIP's own; UserError when it is a file's.
    """
    if tokenizer is None:
        if spec.text.tokenizer == "file":
            raise UserError(f"{spec.name} reads its words from a tokenizer file; pass tokenizer=FileTokenizer(path, …)")
        tokenizer = ClipTokenizer.of(spec.text)
    parts: dict[str, Any] = skeleton(spec, "cpu")
    return VideoSystem(spec=spec, tokenizer=tokenizer, **parts).to(device)
