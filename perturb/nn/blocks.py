"""What a VideoUNet is made of, resolution by resolution: stages, levels, and the builder that sizes them.

Axes: b batch, t frames, c channels, h w latent positions, d features. Feature maps are frame-flattened: (b t) c h w.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from perturb.nn.resblock import Downsample, ResBlock, Upsample
from perturb.nn.spec import UNetSpec
from perturb.nn.transformer import SpatialTransformer, TemporalTransformer
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


@dataclass(frozen=True)
class Builder:
    """Makes the blocks of one network."""

    spec: UNetSpec

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every resolution, the finest first."""
        return tuple(mult * self.spec.model_channels for mult in self.spec.channel_mult)

    def stage(self, channels: int, out: int, *, attends: bool, moves: bool | None = None) -> Stage:
        """``moves``: whether it has a temporal transformer; None: where it attends, and motion modules everywhere."""
        moves = (attends or self.spec.motion_length is not None) if moves is None else moves
        return Stage(
            ResBlock(self.spec, channels, out),
            SpatialTransformer(self.spec, out) if attends else None,
            TemporalTransformer(self.spec, out) if moves else None,
        )

    def resample(self, channels: int, direction: Literal["up", "down"]) -> Downsample | Upsample | ResBlock:
        if not self.spec.resblock_updown:
            return Downsample(channels=channels) if direction == "down" else Upsample(channels=channels)
        return ResBlock(self.spec, channels, channels, resample=direction)

    def down(self) -> tuple[nn.ModuleList, list[int]]:
        """The levels of the way down, and the channels of every skip in the order in which they arise."""
        channels = self.spec.model_channels
        skips, levels = [channels], []
        for index, width in enumerate(self.widths):
            stages = []
            for _ in range(self.spec.num_res_blocks):
                stages.append(self.stage(channels, width, attends=self._attends(index)))
                channels = width
                skips.append(channels)
            last = index == len(self.widths) - 1
            levels.append(Level(stages, None if last else self.resample(channels, "down")))
            skips += [] if last else [channels]
        return nn.ModuleList(levels), skips

    def up(self, skips: Sequence[int]) -> nn.ModuleList:
        """The levels of the way up, the coarsest first: one stage more than on the way down, each taking a skip."""
        waiting, channels, levels = list(skips), self.widths[-1], []
        for index in reversed(range(len(self.widths))):
            stages = []
            for _ in range(self.spec.num_res_blocks + 1):
                stages.append(self.stage(channels + waiting.pop(), self.widths[index], attends=self._attends(index)))
                channels = self.widths[index]
            levels.append(Level(stages, self.resample(channels, "up") if index else None))
        return nn.ModuleList(levels)

    def _attends(self, level: int) -> bool:
        return 2**level in self.spec.attention_resolutions
