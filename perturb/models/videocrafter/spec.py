"""Every architectural number of a model as one frozen dataclass. The published models: `published`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from perturb.diffusion import NoiseSchedule
from perturb.errors import UserError
from perturb.nn import ResamplerSpec, UNetSpec, VideoUNet
from perturb.structured import read


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

    @property
    def unread(self) -> tuple[str, ...]:
        """Prefixes of the parameters in the blocks after the layer that is read."""
        return tuple(f"transformer.encoder.layers.{i}." for i in range(self.layers - self.skip_last, self.layers))


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """CLIP vision transformer and its projector, and what else of an image the network is told.

    ``frames``: the projector's queries are those of so many frames, one after the other, and each frame reads its own;
    None: every frame reads all. ``joins``: whose latent is joined to the noisy one, that of the first frame (at every
    frame), those of both ends (zeros between them), or none.
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
    frames: int | None = None
    joins: Literal["first", "ends"] | None = None


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """Noise schedule: β by ``beta_schedule``, the latent scale s_t falling from 1 to ``latent_scale`` (None: s_t = 1).

    ``scale_table_length`` is the length of the published scale table (1400 or 1000; None where there is no table).
    ``zero_terminal_snr`` and ``prediction``: see ``perturb.diffusion.NoiseSchedule``.
    """

    timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    latent_scale: float | None = None
    scale_table_length: int | None = None
    zero_terminal_snr: bool = False
    prediction: Literal["epsilon", "v"] = "epsilon"
    beta_schedule: Literal["scaled_linear", "linear"] = "scaled_linear"


def build_schedule(spec: ScheduleSpec) -> NoiseSchedule:
    """The noise schedule of a model."""
    return NoiseSchedule(**{name: value for name, value in vars(spec).items() if name != "scale_table_length"})


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """What the published scripts sample with; height and width in pixels, fps as the conditioning value.

    ``rate``: what that value says, frames per second or the frame stride (every how many frames of a video one is).
    """

    height: int
    width: int
    frames: int
    fps: int
    rate: Literal["fps", "stride"] = "fps"
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
        """Shape c t h w of the latent of a video of this size in pixels; UserError for frames without image tokens."""
        if self.image is not None and self.image.frames not in (None, frames):
            raise UserError(
                f"{self.name} makes exactly {self.image.frames} frames, each of which has image tokens of its own; "
                f"given {frames}. A fit on stills needs images.as_video=repeat"
            )
        return (self.vae.latent_channels, frames, height // self.downsampling, width // self.downsampling)

    def build_unet(self) -> VideoUNet:
        """The denoising network with fresh weights, on the current default device (``torch.device("meta")`` works)."""
        return VideoUNet(self.unet)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict of JSON values (tuples as lists); ``from_dict`` is its inverse."""
        data = _plain(asdict(self))
        for part, field in LATER:  # models without them keep the bytes, and the hash, of their spec.json
            owner = getattr(self, part)
            if owner is not None and getattr(owner, field) == type(owner).__dataclass_fields__[field].default:
                del data[part][field]
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "ModelSpec":
        """The spec in ``data``; an unknown, missing or wrongly typed key is a UserError naming it."""
        return read(ModelSpec, data, "spec")


LATER = (
    ("schedule", "zero_terminal_snr"),
    ("schedule", "prediction"),
    ("unet", "guidance_dim"),
    ("unet", "motion_cond"),
    ("unet", "learned_image_scale"),
    ("image", "frames"),
    ("image", "joins"),
    ("sampling", "rate"),
    ("unet", "num_heads"),
    ("unet", "motion_length"),
    ("unet", "motion_middle"),
    ("unet", "motion_norm"),
    ("unet", "clip_norm"),
    ("text", "origin"),
    ("schedule", "beta_schedule"),
)
"""Fields that came after models were saved: written only where they are not at their default."""


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value
