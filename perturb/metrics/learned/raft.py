"""RAFT: flow score and warping error as EvalCrafter defines them, dynamic degree as VBench does.

Both use the weights that torchvision publishes as C_T_V1 (trained on FlyingChairs and FlyingThings).
Axes: t frames, n pairs of frames, h w pixels; a row is a pair, `2 3 h w` uint8; flow `n 2 h w` = (x, y) in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perturb.device import pick_device
from perturb.errors import UserError
from perturb.metrics.base import Clip, Context, MetricInfo, Value
from perturb.metrics.learned.files import frozen, state_dict
from perturb.metrics.learned.network import Learned, pixels, through, values
from perturb.metrics.learned.weights import WeightFile

if TYPE_CHECKING:
    from torch import Tensor, nn

RAFT_FILE = "raft_large_C_T_V1-22a6c225.pth"
RAFT = WeightFile(
    RAFT_FILE,
    f"https://download.pytorch.org/models/{RAFT_FILE}",
    licence="BSD-3-Clause (torchvision, from princeton-vl/RAFT)",
    digest="22a6c225",  # as far as its name says
)
UPDATES = 20
MIN_SIDE = 128  # px; RAFT's pyramid has no room below
STRIDE = 8
FASTEST = 0.05
SPEED_UNIT = 6 / 256  # of the shorter side
SMALL = f"Frames below {MIN_SIDE} px are enlarged for the network, by a whole factor; the flow is in their own pixels."


def flow(network: nn.Module, before: Tensor, after: Tensor) -> Tensor:
    """Displacement to the next frame in pixels of the given size: two `n 3 h w` in [0, 1] → `n 2 h w`.

    Frames are enlarged by a whole factor to at least 128 px and padded to multiples of 8 by repeating their border.
    """
    import torch.nn.functional as F
    from torchvision.models.optical_flow import Raft_Large_Weights

    height, width = before.shape[-2:]
    factor = max(1, -(-MIN_SIDE // min(height, width)))
    tall, wide = factor * height, factor * width
    above, left = (-tall % STRIDE) // 2, (-wide % STRIDE) // 2
    border = (left, -wide % STRIDE - left, above, -tall % STRIDE - above)

    def ready(frames: Tensor) -> Tensor:
        large = F.interpolate(frames, size=(tall, wide), mode="bilinear") if factor > 1 else frames
        return F.pad(large, border, mode="replicate")

    inputs = Raft_Large_Weights.C_T_V1.transforms()(ready(before), ready(after))
    found = network(*inputs, num_flow_updates=UPDATES)[-1][..., above : above + tall, left : left + wide]
    return F.avg_pool2d(found, factor) / factor if factor > 1 else found


def speeds(network: nn.Module, pairs: Tensor) -> Tensor:
    """Mean |flow| of each pair, and the mean of its 5 % fastest pixels, in pixels per pair: `n 2 3 h w` → `n 2`."""
    import torch

    before, after = (pairs.float() / 255).unbind(1)
    magnitude = flow(network, before, after).norm(dim=1).flatten(1)
    count = max(1, int(FASTEST * magnitude.shape[1]))
    return torch.stack([magnitude.mean(1), magnitude.topk(count, dim=1).values.mean(1)], dim=1)


def warp(image: Tensor, field: Tensor) -> Tensor:
    """image(x + flow(x)) by bilinear sampling, the border repeated outside: `n c h w`, flow `n 2 h w`."""
    import torch
    import torch.nn.functional as F

    _, _, height, width = image.shape
    y, x = torch.meshgrid(
        torch.arange(height, device=image.device), torch.arange(width, device=image.device), indexing="ij"
    )
    across = 2 * (x + field[:, 0]) / max(width - 1, 1) - 1
    down = 2 * (y + field[:, 1]) / max(height - 1, 1) - 1
    return F.grid_sample(image, torch.stack([across, down], -1), padding_mode="border", align_corners=True)


def visible(forward: Tensor, backward: Tensor) -> Tensor:
    """Where the next frame shows the pixel too, and motion has no edge: flows `n 2 h w` → boolean `n h w`.

    |b(x + f) + f|² ≤ .01(|b(x + f)|² + |f|²) + .5 and ‖∇f‖² ≤ .01|f|² + .002 (Sundaram et al. 2010, Lai et al. 2018);
    nowhere for a flow that is not a number.
    """
    import torch.nn.functional as F

    back = warp(backward, forward)
    speed, speed_back = (forward**2).sum(1), (back**2).sum(1)
    returns = ((back + forward) ** 2).sum(1) <= 0.01 * (speed_back + speed) + 0.5
    across = F.pad(forward.diff(dim=3), (0, 1)).square().sum(1)
    down = F.pad(forward.diff(dim=2), (0, 0, 0, 1)).square().sum(1)
    return returns & (across + down <= 0.01 * speed + 0.002)


def warping_errors(network: nn.Module, pairs: Tensor) -> Tensor:
    """Σ|I_1(x + f) - I_0(x)|² over RGB and visible pixels / their number, at half size: `n 2 3 h w` → `n 1`.

    RGB in [0, 1]. NaN for a pair without any visible pixel, which EvalCrafter's script counts as 0.
    """
    import torch.nn.functional as F

    before, after = (
        F.interpolate(frames, scale_factor=0.5, mode="bilinear") for frames in (pairs.float() / 255).unbind(1)
    )
    forward, backward = flow(network, before, after), flow(network, after, before)
    seen = visible(forward, backward)
    error = ((warp(after, forward) - before) ** 2).sum(1) * seen
    return (error.sum((1, 2)) / seen.sum((1, 2)))[:, None]


def dynamic(fastest: Sequence[float], *, frames: int, side: int) -> float:
    """1 if at least round(4·frames/16), and at least one, of the sampled pairs have fast pixels above 6·side/256 px."""
    if np.isnan(fastest).any():
        return float("nan")
    fast = np.asarray(fastest) > SPEED_UNIT * side
    return float(fast.sum() >= max(1, round(4 * frames / 16)))


class Raft(Learned["nn.Module"]):
    """Flow score, dynamic degree and warping error; ``chunk`` counts pairs of frames."""

    weights = (RAFT,)
    infos = (
        MetricInfo.of(
            "flow_score",
            "motion",
            "mean over adjacent pairs and pixels of |RAFT flow|",
            "EvalCrafter (Liu et al. 2024); RAFT: Teed and Deng 2020 (torchvision, C_T_V1, 20 updates)",
            f"How much moves, not how well: flicker and noise read as motion. {SMALL}",
            unit="px per frame",
            range=(0.0, None),
            direction="band",
            needs=(RAFT.name,),
            depends=("fps", "size"),
        ),
        MetricInfo.of(
            "dynamic_degree",
            "motion",
            "1 if ≥ max(1, round(4n/16)) pairs of the n frames 0, k, 2k, … (k = max(1, round(fps/8))) have a mean "
            "|RAFT flow| of their 5 % fastest pixels above 6·min(h, w)/256 px; its mean is the rate",
            "VBench (Huang et al. 2024); RAFT: Teed and Deng 2020 (torchvision, C_T_V1, 20 updates)",
            "All or nothing per clip: needs many clips. The distance between sampled frames follows the nominal "
            "fps, so a wrong fps changes it. VBench calls every clip of 2 sampled frames dynamic; here one pair "
            f"must move. {SMALL}",
            needs=(RAFT.name,),
            depends=("fps",),
        ),
        MetricInfo.of(
            "warping_error",
            "motion",
            "mean over adjacent pairs of Σ|I_1(x + f) - I_0(x)|² / visible pixels, RGB in [0, 1], at half size",
            "EvalCrafter (Liu et al. 2024), after Lai et al. 2018; RAFT: Teed and Deng 2020 (torchvision, C_T_V1)",
            "A static clip has 0. Shuffled or unrelated frames count as occluded and are hidden; a pair without "
            "any visible pixel makes the clip fail. EvalCrafter's script gives RAFT frames of the wrong range, "
            f"so its numbers cannot be compared. {SMALL}",
            range=(0.0, 3.0),
            direction="down",
            needs=(RAFT.name,),
            depends=("fps", "size"),
        ),
    )

    def __init__(self, *, device: str = "auto", weights: str | None = None, chunk: int = 4) -> None:
        super().__init__(device=device, weights=weights, chunk=chunk)

    def load(self, paths: Sequence[Path], device: str) -> nn.Module:
        """torchvision's raft_large with every tensor of its published file."""
        from torchvision.models.optical_flow import raft_large

        network = raft_large(weights=None)
        network.load_state_dict(state_dict(paths[0]))
        return frozen(network, device)

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]:
        """One pass at full size for the speeds, two at half size for the warping error."""
        import torch

        network, device = self.network(), pick_device(self.device)

        def rows(clip: Clip, chosen: Sequence[tuple[int, int]]) -> Tensor:
            return pixels(clip, device)[torch.tensor(chosen)]

        moved = through(lambda n: speeds(network, n), clips, lambda c: rows(c, pairs(c)), chunk=self.chunk)
        warped = through(lambda n: warping_errors(network, n), clips, lambda c: rows(c, adjacent(c)), chunk=self.chunk)

        def flow_score(clip: Clip, found: np.ndarray) -> float:
            mean = dict(zip(pairs(clip), found[:, 0], strict=True))
            return float(np.mean([mean[pair] for pair in adjacent(clip)]))

        def dynamic_degree(clip: Clip, found: np.ndarray) -> float:
            fastest = dict(zip(pairs(clip), found[:, 1], strict=True))
            chosen = sampled(clip)
            side = min(clip.frames.shape[1:3])
            return dynamic([fastest[pair] for pair in chosen], frames=len(chosen) + 1, side=side)

        def warping_error(_clip: Clip, found: np.ndarray) -> float:
            if blind := int(np.isnan(found).sum()):
                raise UserError(f"in {blind} of {len(found)} pairs no pixel is visible in both frames")
            return float(found.mean())

        return values({"flow_score": flow_score, "dynamic_degree": dynamic_degree}, clips, moved) | values(
            {"warping_error": warping_error}, clips, warped
        )


def adjacent(clip: Clip) -> list[tuple[int, int]]:
    """Every frame and the next. UserError for a single frame."""
    if len(clip.frames) < 2:
        raise UserError("flow is between frames: needs at least 2, not 1")
    return [(one, one + 1) for one in range(len(clip.frames) - 1)]


def sampled(clip: Clip) -> list[tuple[int, int]]:
    """Neighbours among the frames 0, k, 2k, … with k = max(1, round(fps/8)): VBench's 8 frames per second."""
    step = max(1, round(clip.fps / 8))
    chosen = range(0, len(clip.frames), step)
    if len(chosen) < 2:
        raise UserError(f"at {clip.fps:g} fps every {step}th frame counts: {len(clip.frames)} frames are too few")
    return list(pairwise(chosen))


def pairs(clip: Clip) -> list[tuple[int, int]]:
    """All pairs of which the flow at full size is needed."""
    wanted = adjacent(clip)
    try:
        return sorted({*wanted, *sampled(clip)})
    except UserError:
        return wanted
