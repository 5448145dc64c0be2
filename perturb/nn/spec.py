"""The numbers of a network, as one frozen dataclass each."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class UNetSpec:
    """Every number of a `VideoUNet`.

    ``attention_resolutions`` are downsampling factors (1, 2, 4 …) whose stages attend; the middle always does.
    ``temporal_length`` clips relative positions. ``guidance_dim`` (with ``motion_cond``) is for networks distilled from
    guidance, ``learned_image_scale`` for image attention whose share is learned. ``num_heads``, of every attention,
    takes the place of ``num_head_channels``. ``motion_length``: the temporal transformers are AnimateDiff's motion
    modules for at most that many frames, at every resolution (``motion_middle``: in the middle too), normalised over a
    frame or a clip (``motion_norm``); ``clip_norm``: residual blocks see all frames together.
    """

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
        return tuple(self.heads_of(mult * self.model_channels) for mult in self.channel_mult)

    def heads_of(self, channels: int) -> int:
        """How many heads an attention over so many channels has."""
        return self.num_heads or channels // (self.num_head_channels or channels)

    @property
    def embedding_dim(self) -> int:
        """Width of the embedding of the timestep."""
        return 4 * self.model_channels

    @property
    def relative_length(self) -> int | None:
        """Largest distance in the tables of relative positions, None without them."""
        return self.temporal_length if self.relative_position else None


@dataclass(frozen=True, kw_only=True)
class ResamplerSpec:
    """Every number of a `Resampler`: image features → ``num_queries`` tokens of width ``output_dim``."""

    dim: int
    depth: int
    head_dim: int
    heads: int
    num_queries: int
    embedding_dim: int
    output_dim: int
    ff_mult: int = 4
