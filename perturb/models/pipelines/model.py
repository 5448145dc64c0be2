"""A pipeline of diffusers as a model. Axes: b batch, c channels, t frames, h w pixels or latents."""

import dataclasses
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from perturb.diffusion import Conditioning, NoiseSchedule, epsilon_loss
from perturb.errors import UserError
from perturb.models.base import Batch
from perturb.models.partition import Partition
from perturb.models.pipelines.calls import Call, Request, answering, overhear
from perturb.models.pipelines.groups import TIME_FIRST, partition
from perturb.models.pipelines.latents import Latents
from perturb.models.pipelines.objective import Objective, objective
from perturb.models.pipelines.schedule import PipelineSchedule

UNTOLD_FPS = 8  # only names the rate of the clips, where a pipeline is told none; CogVideoX and Latte are shown at it
LATTE_TOKENS = {"LattePipeline": 120}  # written into its code; others say theirs
GUIDANCE = ("guidance_scale", "max_guidance_scale", "min_guidance_scale")
GIVEN = ("latents", "generator", "num_inference_steps", "output_type", "prompt", "image", "negative_prompt")
"""Arguments of a pipeline that come from the study."""


@dataclass(frozen=True)
class PipelineDefaults:
    """What the pipeline does when it is not told."""

    height: int
    width: int
    frames: int
    fps: int
    steps: int
    guidance: float
    eta: float = 0.0


class PipelineModel:
    """As a `VideoModel`. All arguments of the pipeline that the study does not set are its own or ``arguments``."""

    latent_scale = 1.0  # `posterior` is scaled already, where it must be by channel

    def __init__(self, pipeline: Any, provenance: dict[str, Any], arguments: Mapping[str, Any]) -> None:
        self.pipeline, self.arguments = pipeline, dict(arguments)
        self.name = type(pipeline).__name__
        self.parameters = inspect.signature(pipeline.__call__).parameters
        if unknown := sorted(set(arguments) - set(self.parameters) | set(arguments) & set(GIVEN)):
            raise UserError(
                f"system.arguments has {', '.join(unknown)}; allowed: what {self.name} can be told and the study does "
                f"not say: {', '.join(name for name in self.parameters if name not in GIVEN)}"
            )
        network = getattr(pipeline, "unet", None) or pipeline.transformer
        self.network: nn.Module = network
        self.config: Mapping[str, Any] = network.config
        self.dtype: torch.dtype = network.dtype
        self.latents = Latents(pipeline.vae)
        self.schedule: NoiseSchedule = PipelineSchedule(objective(pipeline.scheduler), self.sample).to(self.device)
        self.takes_image, self.crops_image = "image" in self.parameters, False
        self.time_axis, self.channel_axis = (1, 2) if type(self.network).__name__ in TIME_FIRST else (2, 1)
        self.in_space = getattr(pipeline, "vae_scale_factor_spatial", None) or pipeline.vae_scale_factor
        self.in_time = getattr(pipeline, "vae_scale_factor_temporal", 1)
        # CogVideoX 1.5: 2, with one more latent before an odd number
        self.at_once = self.config.get("patch_size_t") or 1
        patch = self.config.get("patch_size") or 2 ** (len(self.config.get("block_out_channels", ("",))) - 1)
        self.size_multiple = self.in_space * (patch if isinstance(patch, int) else patch[-1])
        self.sampling = self._defaults()
        self.provenance = provenance | {"spec": self.name, "objective": self.objective.name}
        pipeline.set_progress_bar_config(disable=True)
        for module in self.modules().values():
            module.eval()

    def _defaults(self) -> PipelineDefaults:
        told = {name: parameter.default for name, parameter in self.parameters.items()} | self.arguments

        def first(*names: str, of: Mapping[str, Any] = told, otherwise: Any = None) -> Any:
            return next((of[name] for name in names if of.get(name) is not None), otherwise)

        def pixels(side: str) -> int:
            return first(side) or first(f"sample_{side}", "sample_size", of=self.config) * self.in_space

        frames = first("num_frames", "video_length") or first("num_frames", "sample_frames", of=self.config)
        return PipelineDefaults(
            height=pixels("height"),
            width=pixels("width"),
            frames=frames,
            fps=first("fps", "target_fps", otherwise=UNTOLD_FPS),
            steps=told["num_inference_steps"],
            guidance=first(*GUIDANCE),
        )

    @property
    def objective(self) -> Objective:
        """What the network is fitted to."""
        assert isinstance(self.schedule, PipelineSchedule)
        return self.schedule.objective

    def modules(self) -> dict[str, nn.Module]:
        """The pipeline's components with weights."""
        return {name: part for name, part in self.pipeline.components.items() if isinstance(part, nn.Module)}

    def partition(self) -> Partition:
        """See `groups.partition`."""
        return partition(self.network)

    @property
    def device(self) -> torch.device:
        """Where the network is; all parts are there."""
        return next(self.network.parameters()).device

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether the network computes activations again in the backward pass; UserError to set where it cannot."""
        return bool(self.network.is_gradient_checkpointing)

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        network: Any = self.network
        if not network._supports_gradient_checkpointing:
            if value:
                raise UserError(f"{type(network).__name__} cannot do it: set fit.gradient_checkpointing=false")
        else:
            (network.enable_gradient_checkpointing if value else network.disable_gradient_checkpointing)()

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape c t h w. UserError for a number of frames that the pipeline would change."""
        self._check_frames(frames)
        t = (frames - 1) // self.in_time + 1
        return self.latents.channels, t + t % self.at_once, height // self.in_space, width // self.in_space

    def _check_frames(self, frames: int) -> None:
        together = self.in_time * (2 if isinstance(self.pipeline.vae, AutoencoderKLCogVideoX) else 1)  # decodes by twos
        if (frames - 1) % together:
            raise UserError(f"{frames} frames do not fit {self.name}; allowed: 1 more than multiples of {together}")
        if frames not in {1, length := self.config.get("video_length", frames)}:
            raise UserError(f"{frames} frames do not fit {self.name}; allowed: {length}, or 1 to fit on stills")

    def check_prompts(self, prompts: Mapping[str, str]) -> None:
        """UserError for two texts that are the same to the tokenizer, whose pipeline warns of what is cut."""
        if "prompt" not in self.parameters:
            print(f"note   {self.name} reads no text: a prompt only names a noise and an image", file=sys.stderr)
            return
        tokenizer = self.pipeline.tokenizer
        limit = self.parameters.get("max_sequence_length") or LATTE_TOKENS.get(self.name)
        tokens = limit.default if isinstance(limit, inspect.Parameter) else limit or tokenizer.model_max_length
        first: dict[tuple[int, ...], str] = {}
        for name, text in prompts.items():
            ids = tuple(tokenizer(text, truncation=True, max_length=tokens).input_ids)
            other = first.setdefault(ids, name)
            if prompts[other] != text:
                raise UserError(f"the prompts {other} and {name} are the same {len(ids)} tokens to {self.name}")

    def conditioning(self, prompts: Sequence[str], fps: int, image: Tensor | None = None) -> Conditioning:
        """The prompts as they are: the pipeline encodes them. ``image`` b 3 h w or 1 3 h w; UserError as of any."""
        if (image is None) == self.takes_image:
            need = "needs a conditioning image: give" if image is None else "takes no conditioning image: leave out"
            raise UserError(f"{self.name} {need} image=…")
        if image is not None and image.ndim != 4:
            raise UserError(f"{self.name} takes one image: leave out last_image")
        images = [None] * len(prompts) if image is None else image.cpu().expand(len(prompts), -1, -1, -1)
        return _asked([Request(text, fps, each) for text, each in zip(prompts, images, strict=True)], fps)

    def unconditional(self, count: int, fps: int, negative: str = "") -> Conditioning:
        """The other side of guidance, as the pipeline makes it; where that takes an image, of a mid grey one."""
        if negative and "negative_prompt" not in self.parameters:
            raise UserError(f"{self.name} takes no negative prompt: leave out sample.negative_prompt")
        grey = torch.zeros(3, self.sampling.height, self.sampling.width) if self.takes_image else None
        return _asked([Request(negative, fps, grey, negative)] * count, fps)

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """See `Latents`."""
        return self.latents.posterior(video)

    def decode(self, latents: Tensor) -> Tensor:
        """See `Latents`."""
        return self.latents.decode(latents[:, :, self.at_once - 1 :])

    def denoise(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """What the network says (`Objective`) of x b c t h w at levels t (b int64), like x; one sample at a time."""
        told, said = self.objective.told, []
        for number, request in enumerate(cond.asked):
            call = self._call(request, tuple(x.shape[1:]))
            said.append(self._ours(call(self.network, self._theirs(x[number]), told[t[number]])))
        return torch.cat(said)

    def loss(self, batch: Batch) -> Tensor:
        """Mean square of what the network says against what it is to say, one value per sample."""
        return epsilon_loss(self.denoise, self.schedule, batch.x0, batch.t, batch.noise, batch.cond)

    def sample(
        self,
        x: Tensor,
        request: Request,
        negative: Request | None,
        *,
        generator: torch.Generator,
        steps: int,
        guidance: float,
    ) -> Tensor:
        """A clip's latent 1 c t h w (float32) from noise x c t h w, by the pipeline; its network alone in autocast."""
        kind, forward = x.device.type, self.network.forward
        half, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

        def answer(*given: Any, **named: Any) -> Any:
            with torch.autocast(kind, dtype, enabled=half):
                said = forward(*given, **named)
            return (said[0].to(self.dtype), *said[1:]) if half else said

        told: dict[str, Any] = {"guidance_scale": guidance, "max_guidance_scale": guidance}
        if negative is not None and negative.negative:  # else what the pipeline takes by itself
            told["negative_prompt"] = negative.negative
        with answering(self.network, answer):
            out = self._run(request, self._theirs(x), generator, told | {"num_inference_steps": steps})
        return self._ours(out.frames.float())

    def _call(self, request: Request, shape: tuple[int, ...]) -> Call:
        """What the network is told of a latent of ``shape`` c t h w; whatever is random in it is the same each time."""
        if self.device.type == "meta":
            raise UserError(f"what {self.name} takes is only known when it runs: plan=true cannot tell")
        if shape not in request.calls:
            latents, negative = self._theirs(torch.zeros(shape, device=self.device)), request.negative
            told: dict[str, Any] = dict.fromkeys(GUIDANCE, 2.0) | {"negative_prompt": negative or ""}  # 2: both sides

            def heard(asked: Request, side: int) -> Call | None:
                run = partial(self._run, asked, latents, torch.Generator().manual_seed(0), told)
                return overhear(self.network, run, latents, self.channel_axis, side)

            call = heard(request, -1) if negative is None else heard(request, 0)
            if call is None:  # each side is told alike, by itself
                call = heard(dataclasses.replace(request, prompt=negative or ""), -1)
            assert call is not None
            request.calls[shape] = call
        return request.calls[shape]

    def _run(self, request: Request, latents: Tensor, generator: torch.Generator, told: dict[str, Any]) -> Any:
        """The pipeline, from latents 1 … in its own layout."""
        t, (h, w) = latents.shape[self.time_axis], latents.shape[-2:]
        frames = (t - self.at_once) * self.in_time + 1
        told = told | {"prompt": request.prompt, "height": h * self.in_space, "width": w * self.in_space}
        told |= {"num_frames": frames, "video_length": frames, "fps": request.fps, "target_fps": request.fps}
        told |= {"latents": latents.to(self.dtype), "generator": generator, "output_type": "latent"}
        if request.image is not None:
            told["image"] = _picture(request.image)
        known = {name: value for name, value in told.items() if name in self.parameters}
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.autocast(self.device.type, enabled=False):
            torch.manual_seed(generator.initial_seed())  # I2VGenXL draws the latent of its image from the global one
            return self.pipeline(**self.arguments | known)

    def _theirs(self, x: Tensor) -> Tensor:
        return rearrange(x, "c t h w -> 1 c t h w" if self.time_axis == 2 else "c t h w -> 1 t c h w")

    def _ours(self, x: Tensor) -> Tensor:
        return x if self.time_axis == 2 else rearrange(x, "1 t c h w -> 1 c t h w")


def _asked(requests: list[Request], fps: int) -> Conditioning:
    count = len(requests)
    return Conditioning(torch.zeros(count, 0, 0), torch.full((count,), fps), asked=tuple(requests))


def _picture(image: Tensor) -> Image.Image:
    """Of 3 h w in [−1, 1]."""
    levels = ((image + 1) / 2 * 255).round().to(torch.uint8)
    return Image.fromarray(rearrange(levels, "c h w -> h w c").numpy())
