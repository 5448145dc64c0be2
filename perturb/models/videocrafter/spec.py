"""Every architectural number of a model as one frozen dataclass, and the four published VideoCrafter models.

Sources: VideoCrafter1 (arXiv 2310.19512), VideoCrafter2 (arXiv 2401.09047) and their published configurations.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from perturb.errors import UserError
from perturb.structured import read

if TYPE_CHECKING:
    from perturb.nn import VideoUNet


@dataclass(frozen=True, kw_only=True)
class UNetSpec:
    """The arguments of ``perturb.nn.VideoUNet``."""

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    num_head_channels: int | None
    context_dim: int
    temporal_length: int
    transformer_depth: int = 1
    temporal_conv: bool
    fps_cond: bool
    relative_position: bool
    causal: bool = False
    image_attention: bool
    init_attention: bool = True
    scale_shift_norm: bool = False
    resblock_updown: bool = False
    norm_groups: int = 32
    text_tokens: int = 77
    guidance_dim: int | None = None
    motion_cond: bool = False
    learned_image_scale: bool = False
    num_heads: int | None = None
    motion_length: int | None = None
    motion_middle: bool = True
    motion_norm: Literal["frame", "clip"] = "clip"
    clip_norm: bool = False

    @property
    def heads(self) -> tuple[int, ...]:
        """Of the attention at each level, the finest first."""
        widths = [mult * self.model_channels for mult in self.channel_mult]
        return tuple(self.num_heads or width // (self.num_head_channels or width) for width in widths)


@dataclass(frozen=True, kw_only=True)
class VAESpec:
    """KL autoencoder: one entry of ``block_out_channels`` per resolution, so f = 2^(levels − 1)."""

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    norm_groups: int = 32
    latent_channels: int = 4
    scale_factor: float = 0.18215


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """CLIP text transformer; ``skip_last`` = 1 reads the penultimate layer. MLP width is 4·width.

    ``origin`` openai: QuickGELU instead of GELU, texts padded with the end token instead of 0, and in checkpoints the
    names of transformers instead of OpenCLIP's. Source: CLIP ViT-L/14 as Stable Diffusion 1 reads it.
    """

    width: int
    heads: int
    layers: int
    vocab_size: int
    tokens: int = 77
    embed_dim: int
    skip_last: int = 1
    tokenizer: Literal["clip", "file"]
    origin: Literal["open_clip", "openai"] = "open_clip"

    @property
    def activation(self) -> str:
        """As transformers calls it."""
        return "quick_gelu" if self.origin == "openai" else "gelu"


@dataclass(frozen=True, kw_only=True)
class ResamplerSpec:
    """The arguments of ``perturb.nn.Resampler``: image features → ``num_queries`` tokens of width ``output_dim``."""

    dim: int
    depth: int
    head_dim: int
    heads: int
    num_queries: int
    embedding_dim: int
    output_dim: int
    ff_mult: int = 4


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """CLIP vision transformer and its projector.

    The published image encoder also carries the embeddings of its unused text half: ``text_width``,
    ``text_tokens`` and ``vocab_size`` give their sizes, so that a checkpoint can be checked and written back whole.
    """

    width: int
    layers: int
    head_width: int
    patch_size: int
    image_size: int = 224
    embed_dim: int
    mlp_ratio: float = 4.0
    text_width: int
    text_tokens: int = 77
    vocab_size: int
    projector: ResamplerSpec


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """Noise schedule: β by ``beta_schedule``, the latent scale s_t falling from 1 to ``latent_scale`` (None: s_t = 1).

    ``scale_table_length`` is the length of the published scale table (1400 or 1000; None where there is no table).
    ``zero_terminal_snr`` and ``prediction``: see ``perturb.diffusion.NoiseSchedule``; no VideoCrafter has the former.
    """

    timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    latent_scale: float | None = None
    scale_table_length: int | None = None
    zero_terminal_snr: bool = False
    prediction: Literal["epsilon", "v"] = "epsilon"
    beta_schedule: Literal["scaled_linear", "linear"] = "scaled_linear"


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """What the published scripts sample with; height and width in pixels, fps as the conditioning value."""

    height: int
    width: int
    frames: int
    fps: int
    steps: int = 50
    guidance: float = 12.0
    eta: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One complete model: what to build, how it was noised, what to sample it with."""

    name: str
    unet: UNetSpec
    vae: VAESpec
    text: TextSpec
    image: ImageSpec | None = None
    schedule: ScheduleSpec
    sampling: SamplingDefaults

    @property
    def downsampling(self) -> int:
        """Pixels per latent position along one axis: 2^(levels of the autoencoder − 1)."""
        return 2 ** (len(self.vae.block_out_channels) - 1)

    @property
    def size_multiple(self) -> int:
        """What height and width in pixels must be multiples of: the autoencoder halves them, then the network."""
        return self.downsampling * 2 ** (len(self.unet.channel_mult) - 1)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape c t h w of the latent of a video of this size in pixels."""
        return (self.vae.latent_channels, frames, height // self.downsampling, width // self.downsampling)

    def build_unet(self) -> VideoUNet:
        """The denoising network with fresh weights, on the current default device (``torch.device("meta")`` works)."""
        from perturb.nn import VideoUNet

        return VideoUNet(**_shallow(self.unet))

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict of JSON values (tuples as lists); ``from_dict`` is its inverse."""
        data = _plain(asdict(self))
        for part, field in LATER:  # models without them keep the bytes, and the hash, of their spec.json
            owner = getattr(self, part)
            if getattr(owner, field) == type(owner).__dataclass_fields__[field].default:
                del data[part][field]
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> ModelSpec:
        """The spec in ``data``; an unknown, missing or wrongly typed key is a UserError naming it."""
        return read(ModelSpec, data, "spec")


LATER = (
    ("schedule", "zero_terminal_snr"),
    ("schedule", "prediction"),
    ("unet", "guidance_dim"),
    ("unet", "motion_cond"),
    ("unet", "learned_image_scale"),
    ("unet", "num_heads"),
    ("unet", "motion_length"),
    ("unet", "motion_middle"),
    ("unet", "motion_norm"),
    ("unet", "clip_norm"),
    ("text", "origin"),
    ("schedule", "beta_schedule"),
)
"""Fields that came after models were saved: written only where they are not at their default."""


def _shallow(spec: Any) -> dict[str, Any]:
    return {field.name: getattr(spec, field.name) for field in fields(spec)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _unet(*, temporal_conv: bool, fps_cond: bool, relative_position: bool, image_attention: bool) -> UNetSpec:
    return UNetSpec(
        model_channels=320,
        channel_mult=(1, 2, 4, 4),
        num_res_blocks=2,
        attention_resolutions=(4, 2, 1),
        num_head_channels=64,
        context_dim=1024,
        temporal_length=16,
        temporal_conv=temporal_conv,
        fps_cond=fps_cond,
        relative_position=relative_position,
        image_attention=image_attention,
    )


_VAE = VAESpec(block_out_channels=(128, 256, 512, 512), layers_per_block=2)
_TEXT = TextSpec(width=1024, heads=16, layers=24, vocab_size=49408, embed_dim=1024, tokenizer="clip")
_IMAGE = ImageSpec(
    width=1280,
    layers=32,
    head_width=80,
    patch_size=14,
    embed_dim=1024,
    text_width=1024,
    vocab_size=49408,
    projector=ResamplerSpec(
        dim=1024, depth=4, head_dim=64, heads=12, num_queries=16, embedding_dim=1280, output_dim=1024
    ),
)

SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            name="t2v_512_v1",
            unet=_unet(temporal_conv=False, fps_cond=False, relative_position=True, image_attention=False),
            vae=_VAE,
            text=_TEXT,
            schedule=ScheduleSpec(),
            sampling=SamplingDefaults(height=320, width=512, frames=16, fps=28),
        ),
        ModelSpec(
            name="t2v_1024_v1",
            unet=_unet(temporal_conv=False, fps_cond=True, relative_position=True, image_attention=False),
            vae=_VAE,
            text=_TEXT,
            schedule=ScheduleSpec(latent_scale=0.3, scale_table_length=1000),
            sampling=SamplingDefaults(height=576, width=1024, frames=16, fps=28),
        ),
        ModelSpec(
            name="i2v_512_v1",
            unet=_unet(temporal_conv=True, fps_cond=True, relative_position=False, image_attention=True),
            vae=_VAE,
            text=_TEXT,
            image=_IMAGE,
            schedule=ScheduleSpec(latent_scale=0.7, scale_table_length=1400),
            sampling=SamplingDefaults(height=320, width=512, frames=16, fps=8),
        ),
        ModelSpec(
            name="t2v_512_v2",
            unet=_unet(temporal_conv=True, fps_cond=True, relative_position=False, image_attention=False),
            vae=_VAE,
            text=_TEXT,
            schedule=ScheduleSpec(latent_scale=0.7, scale_table_length=1400),
            sampling=SamplingDefaults(height=320, width=512, frames=16, fps=28),
        ),
    )
}


def get_spec(name: str) -> ModelSpec:
    """The published spec called ``name``; an unknown name is a UserError that suggests the nearest one."""
    if name in SPECS:
        return SPECS[name]
    close = difflib.get_close_matches(name, SPECS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UserError(f"unknown model spec {name!r}.{hint} Known: {', '.join(SPECS)}.")
