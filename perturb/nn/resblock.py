"""Convolutional blocks of the UNet: residual blocks with their temporal convolutions, and resampling.

Axes: b batch, t frames, c channels, h w latent positions, d features. Feature maps are frame-flattened: (b t) c h w.
"""

from typing import ClassVar, Literal

from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, silu

from perturb.nn.spec import UNetSpec
from perturb.nn.transformer import zero


class TimeConv3d(nn.Conv3d):
    """A convolution over time alone (k×1×1, padded by ⌊k/2⌋) as a 2-D one over (time, position); b c t h w → the same.

    Of a single frame the outer taps see nothing but padding, so only the middle one is read. An adapter's factors are
    of the wrapped layer's own class, and so as fast.
    """

    def forward(self, input: Tensor) -> Tensor:
        middle = self.kernel_size[0] // 2
        weight, padding = self.weight[..., 0], middle
        if input.shape[2] == 1:
            weight, padding = weight[:, :, middle : middle + 1], 0
        # torch's own Conv3d on a processor is a slow one wherever the kernel is this thin (experiments/speed)
        y = conv2d(input.flatten(3), weight, self.bias, padding=(padding, 0))
        return y.unflatten(3, input.shape[3:])


class TemporalLayer(nn.Module):
    """``conv(dropout(SiLU(norm(x))))``; 3 frames wide, 1×1 in space; b c t h w → the same."""

    def __init__(self, *, channels: int, dropout: float, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.dropout = nn.Dropout(dropout)
        self.conv = TimeConv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.dropout(silu(self.norm(x))))


class TemporalConvolution(nn.Module):
    """``x + layer₄(layer₃(layer₂(layer₁(x))))`` along time; (b t) c h w → the same.

    GroupNorm sees all frames of a clip together. In training mode layers 2–4 drop 10 %, as published. The last
    convolution starts at zero, so that a fresh block is the identity.
    """

    group: ClassVar[str] = "temporal"

    def __init__(self, *, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TemporalLayer(channels=channels, dropout=dropout, norm_groups=norm_groups) for dropout in (0, 0.1, 0.1, 0.1)
        )
        zero(self.layers[-1].get_submodule("conv"))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        y = rearrange(x, "(b t) c h w -> b c t h w", t=frames)
        for layer in self.layers:
            y = layer(y)
        return x + rearrange(y, "b c t h w -> (b t) c h w")


class Downsample(nn.Module):
    """Half the height and width by a strided convolution."""

    group: ClassVar[str] = "spatial"

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, embedding: Tensor, frames: int) -> Tensor:
        del embedding, frames  # the residual block in the same place uses them
        return self.conv(x)


class Upsample(nn.Module):
    """Twice the height and width by repeating positions, then a convolution."""

    group: ClassVar[str] = "spatial"

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor, frames: int) -> Tensor:
        del embedding, frames  # the residual block in the same place uses them
        return self.conv(interpolate(x, scale_factor=2, mode="nearest"))


class ResBlock(nn.Module):
    """Residual block conditioned on the embedding, followed by a temporal convolution where the model has them.

        u = conv_in(SiLU(norm_in(x)))
        y = skip(x) + conv_out(SiLU(norm_out(u + W e)))               or, with scale_shift_norm,
        y = skip(x) + conv_out(SiLU(norm_out(u)·(1 + s) + r)),  [s, r] = W e

    x: (b t) c h w; embedding e = SiLU(time + fps): (b t) d; GroupNorm sees one frame at a time, or (``clip_norm``) all
    frames of a clip together. ``resample`` halves or doubles height and width of both paths before the first
    convolution.
    """

    group: ClassVar[str] = "spatial"

    def __init__(
        self, spec: UNetSpec, channels: int, out_channels: int, resample: Literal["none", "up", "down"] = "none"
    ) -> None:
        super().__init__()
        self.resample = resample
        plain, groups = resample == "none", spec.norm_groups  # one that resamples is the image model's
        self.clip_norm = spec.clip_norm and plain
        self.scale_shift_norm = spec.scale_shift_norm
        self.norm_in = nn.GroupNorm(groups, channels)
        self.conv_in = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.embedding = nn.Linear(spec.embedding_dim, out_channels * (2 if spec.scale_shift_norm else 1))
        self.norm_out = nn.GroupNorm(groups, out_channels)
        self.conv_out = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if out_channels == channels else nn.Conv2d(channels, out_channels, 1)
        convolves = spec.temporal_conv and plain
        self.temporal = TemporalConvolution(channels=out_channels, norm_groups=groups) if convolves else None

    def forward(self, x: Tensor, embedding: Tensor, frames: int) -> Tensor:
        y = self._resample(silu(normalise(self.norm_in, x, frames, self.clip_norm)))
        y = self._modulate(self.conv_in(y), rearrange(self.embedding(embedding), "n c -> n c 1 1"), frames)
        y = self.skip(self._resample(x)) + self.conv_out(silu(y))
        return y if self.temporal is None else self.temporal(y, frames)

    def _modulate(self, x: Tensor, embedding: Tensor, frames: int) -> Tensor:
        if not self.scale_shift_norm:
            return normalise(self.norm_out, x + embedding, frames, self.clip_norm)
        scale, shift = embedding.chunk(2, dim=1)
        return normalise(self.norm_out, x, frames, self.clip_norm) * (1 + scale) + shift

    def _resample(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return interpolate(x, scale_factor=2, mode="nearest")
        return avg_pool2d(x, 2) if self.resample == "down" else x


def normalise(norm: nn.Module, x: Tensor, frames: int, together: bool) -> Tensor:
    """``norm`` of each frame, or of all frames of a clip ``together``; (b t) c h w → the same."""
    if not together:
        return norm(x)
    return rearrange(norm(rearrange(x, "(b t) c h w -> b c t h w", t=frames)), "b c t h w -> (b t) c h w")
