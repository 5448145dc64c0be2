"""RIFE's IFNet, third version: flow from the middle to both frames, from coarse to fine. Axes: n c h w.

From Huang et al. 2022 and the published shapes: names of modules are those of the file.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perturb.metrics.learned.raft import warp

WIDTH = 90
SCALES = (4, 2, 1)


def _conv(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1), nn.PReLU(outside))


def _up(channels: int) -> nn.Sequential:
    half = WIDTH // 2
    first, second = (
        nn.ConvTranspose2d(inside, outside, 4, 2, 1) for inside, outside in ((WIDTH, half), (half, channels))
    )
    return nn.Sequential(first, nn.PReLU(half), second)


class IFBlock(nn.Module):
    """One level: both frames warped, the mask and the flow so far → what to add to flow (`n 4 h w`) and mask."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(_conv(3 + 3 + 1 + 4, WIDTH // 2, 2), _conv(WIDTH // 2, WIDTH, 2))
        for k in range(4):
            setattr(self, f"convblock{k}", nn.Sequential(_conv(WIDTH, WIDTH), _conv(WIDTH, WIDTH)))
        self.conv1, self.conv2 = _up(4), _up(1)

    def forward(self, seen: Tensor, flow: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        features = self.conv0(torch.cat([_resized(seen, 1 / scale), _resized(flow, 1 / scale) / scale], 1))
        for k in range(4):
            features = features + getattr(self, f"convblock{k}")(features)
        return _resized(self.conv1(features), scale) * scale, _resized(self.conv2(features), scale)


class IFNet(nn.Module):
    """The frame halfway between two, RGB in [0, 1]: `n 3 h w` twice, h and w multiples of 32 → `n 3 h w`."""

    def __init__(self) -> None:
        super().__init__()
        self.block0, self.block1, self.block2 = IFBlock(), IFBlock(), IFBlock()

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        flow = torch.cat([torch.zeros_like(before[:, :2])] * 2, 1)
        mask = torch.zeros_like(before[:, :1])
        one, other = before, after
        for block, scale in zip((self.block0, self.block1, self.block2), SCALES, strict=True):
            # Both directions are asked, so that the order of the frames does not matter.
            moved, weighed = block(torch.cat([one, other, mask], 1), flow, scale)
            moved_back, weighed_back = block(torch.cat([other, one, -mask], 1), flow.roll(2, 1), scale)
            flow = flow + (moved + moved_back.roll(2, 1)) / 2
            mask = mask + (weighed - weighed_back) / 2
            one, other = warp(before, flow[:, :2]), warp(after, flow[:, 2:])
        share = mask.sigmoid()
        return share * one + (1 - share) * other


def _resized(maps: Tensor, factor: float) -> Tensor:
    return maps if factor == 1 else F.interpolate(maps, scale_factor=factor, mode="bilinear")
