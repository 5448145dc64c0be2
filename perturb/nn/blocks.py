"""What a VideoUNet is made of, resolution by resolution: stages, levels, and the builder that sizes them.

Axes: b batch, t frames, c channels, h w latent positions, d features. Feature maps are frame-flattened: (b t) c h w.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from perturb.nn.resblock import Downsample, ResBlock, Upsample
from perturb.nn.transformer import InitialTemporalTransformer, SpatialTransformer, TemporalTransformer
from perturb.nn.windows import Windows


@dataclass(frozen=True)
class Signals:
    """What every stage of one forward is told: embedding (b t) d, tokens b l d and b m d (or one set per frame)."""

    embedding: Tensor
    frames: int
    context: Tensor
    image_context: Tensor | None
    windows: Windows | None


class Stage(nn.Module):
    """A residual block, then a spatial transformer where this resolution attends, and a temporal one.

    The temporal one is where the spatial one is; AnimateDiff's is everywhere, but not always in the middle.
    """

    def __init__(
        self, resblock: ResBlock, spatial: SpatialTransformer | None, temporal: TemporalTransformer | None
    ) -> None:
        super().__init__()
        self.resblock = resblock
        self.spatial = spatial
        self.temporal = temporal

    def forward(self, x: Tensor, signals: Signals) -> Tensor:
        x = self.resblock(x, signals.embedding, signals.frames)
        if self.spatial is not None:
            x = self.spatial(x, signals.context, signals.image_context)
        return x if self.temporal is None else self.temporal(x, signals.frames, signals.windows)


class MiddleStage(nn.Module):
    """The lowest resolution: a stage that always attends, and one more residual block."""

    def __init__(self, stage: Stage, resblock: ResBlock) -> None:
        super().__init__()
        self.stage = stage
        self.resblock = resblock

    def forward(self, x: Tensor, signals: Signals) -> Tensor:
        return self.resblock(self.stage(x, signals), signals.embedding, signals.frames)


class Level(nn.Module):
    """The stages of one resolution and the way to the next one (None at the end)."""

    def __init__(self, stages: Sequence[Stage], resample: Downsample | Upsample | ResBlock | None) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.resample = resample

    @staticmethod
    def each(modules: nn.ModuleList) -> "Iterator[Level]":
        """The levels in a module list, which forgets their type."""
        for level in modules:
            assert isinstance(level, Level)
            yield level


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Makes the blocks of one network: everything about them that does not change with the resolution."""

    embedding_dim: int
    num_head_channels: int | None
    num_heads: int | None
    transformer_depth: int
    context_dim: int
    relative_length: int | None
    causal: bool
    image_attention: bool
    learned_image_scale: bool
    temporal_conv: bool
    scale_shift_norm: bool
    resblock_updown: bool
    norm_groups: int
    motion: bool
    motion_norm: Literal["frame", "clip"]
    clip_norm: bool

    def heads(self, channels: int) -> tuple[int, int]:
        """How many heads an attention has, and their width."""
        count = self.num_heads or channels // (self.num_head_channels or channels)
        return count, channels // count

    def resblock(self, channels: int, out: int) -> ResBlock:
        return ResBlock(
            channels=channels,
            out_channels=out,
            embedding_dim=self.embedding_dim,
            temporal_conv=self.temporal_conv,
            scale_shift_norm=self.scale_shift_norm,
            norm_groups=self.norm_groups,
            clip_norm=self.clip_norm,
        )

    def stage(self, channels: int, out: int, *, attends: bool, moves: bool | None = None) -> Stage:
        """``moves``: whether it has a temporal transformer; None: where it attends, and motion modules everywhere."""
        moves = (attends or self.motion) if moves is None else moves
        resblock = self.resblock(channels, out)
        return Stage(resblock, self.spatial(out) if attends else None, self.temporal(out) if moves else None)

    def spatial(self, channels: int) -> SpatialTransformer:
        heads, head_dim = self.heads(channels)
        return SpatialTransformer(
            channels=channels,
            heads=heads,
            head_dim=head_dim,
            depth=self.transformer_depth,
            context_dim=self.context_dim,
            image_attention=self.image_attention,
            learned_image_scale=self.learned_image_scale,
            norm_groups=self.norm_groups,
        )

    def temporal(self, channels: int) -> TemporalTransformer:
        heads, head_dim = self.heads(channels)
        return TemporalTransformer(
            channels=channels,
            heads=heads,
            head_dim=head_dim,
            depth=1,  # published: ``transformer_depth`` deepens the spatial and the initial transformers only
            relative_length=self.relative_length,
            causal=self.causal,
            norm_groups=self.norm_groups,
            positions=self.motion,
            frame_norm=self.motion and self.motion_norm == "frame",
        )

    def initial(self, channels: int) -> InitialTemporalTransformer:
        return InitialTemporalTransformer(
            channels=channels,
            head_dim=self.heads(channels)[1],
            depth=self.transformer_depth,
            relative_length=self.relative_length,
            causal=self.causal,
            norm_groups=self.norm_groups,
        )

    def resample(self, channels: int, direction: Literal["up", "down"]) -> Downsample | Upsample | ResBlock:
        if not self.resblock_updown:
            return Downsample(channels=channels) if direction == "down" else Upsample(channels=channels)
        return ResBlock(
            channels=channels,
            out_channels=channels,
            embedding_dim=self.embedding_dim,
            temporal_conv=False,
            scale_shift_norm=self.scale_shift_norm,
            norm_groups=self.norm_groups,
            resample=direction,
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Channels and attention of every resolution, the finest first."""

    model_channels: int
    widths: tuple[int, ...]
    attends: tuple[bool, ...]
    num_res_blocks: int

    @staticmethod
    def of(
        *, model_channels: int, channel_mult: Sequence[int], attention_resolutions: Sequence[int], num_res_blocks: int
    ) -> "Plan":
        return Plan(
            model_channels=model_channels,
            widths=tuple(mult * model_channels for mult in channel_mult),
            attends=tuple(2**level in attention_resolutions for level in range(len(channel_mult))),
            num_res_blocks=num_res_blocks,
        )

    def down(self, build: Builder) -> tuple[nn.ModuleList, list[int]]:
        """The levels of the way down, and the channels of every skip in the order in which they arise."""
        channels, skips, levels = self.model_channels, [self.model_channels], []
        for index, (width, attends) in enumerate(zip(self.widths, self.attends, strict=True)):
            stages = []
            for _ in range(self.num_res_blocks):
                stages.append(build.stage(channels, width, attends=attends))
                channels = width
                skips.append(channels)
            last = index == len(self.widths) - 1
            levels.append(Level(stages, None if last else build.resample(channels, "down")))
            skips += [] if last else [channels]
        return nn.ModuleList(levels), skips

    def up(self, build: Builder, skips: Sequence[int]) -> nn.ModuleList:
        """The levels of the way up, the coarsest first: one stage more than on the way down, each taking a skip."""
        waiting, channels, levels = list(skips), self.widths[-1], []
        for index in reversed(range(len(self.widths))):
            stages = []
            for _ in range(self.num_res_blocks + 1):
                stages.append(build.stage(channels + waiting.pop(), self.widths[index], attends=self.attends[index]))
                channels = self.widths[index]
            levels.append(Level(stages, build.resample(channels, "up") if index else None))
        return nn.ModuleList(levels)
