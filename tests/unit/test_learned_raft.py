"""RAFT's three metrics: parity with torchvision on the same weights, and the definitions on flows set by hand."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from learned_files import frames, scene, write_raft
from torch import Tensor, nn

from perturb.metrics import Clip, Context
from perturb.metrics.learned.raft import Raft, dynamic, flow, sampled, speeds, visible, warp, warping_errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("weights")
    write_raft(place)
    return place


class Constant(nn.Module):
    """In RAFT's place: answers (x, y) pixels everywhere, and keeps what it was shown."""

    def __init__(self, x: float, y: float) -> None:
        super().__init__()
        self.vector = torch.tensor([x, y])
        self.seen: list[Tensor] = []

    def forward(self, before: Tensor, after: Tensor, num_flow_updates: int) -> list[Tensor]:
        assert num_flow_updates == 20
        self.seen += [before, after]
        return [self.vector[None, :, None, None].expand(len(before), 2, *before.shape[-2:])]


def moved(frames: int, step: int, size: int = 64) -> Clip:
    """A texture that moves right by `step` pixels per frame."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (size, size + step * frames, 3)).astype(np.uint8)
    start = step * (frames - 1)
    return Clip(np.stack([wide[:, start - step * t : start - step * t + size] for t in range(frames)]), 8.0, "m", 0, 0)


def pairs(clip: Clip) -> Tensor:
    return torch.stack([frames(clip)[:-1], frames(clip)[1:]], dim=1)


@torch.no_grad()
def test_flow_score_is_the_mean_of_torchvisions_flow(folder: Path) -> None:
    from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

    clip = scene(0, frames=2, size=(128, 136))
    network = raft_large(weights=None).eval()
    network.load_state_dict(torch.load(folder / "raft_large_C_T_V1-22a6c225.pth"))
    ready = Raft_Large_Weights.C_T_V1.transforms()(frames(clip)[:-1], frames(clip)[1:])
    expected = network(*ready, num_flow_updates=20)[-1].norm(dim=1).mean().item()
    single = Clip(clip.frames[:1], 8.0, "single", 0, 0)
    found = Raft(weights=str(folder), chunk=1)([single, clip], Context())
    assert found["flow_score"][1].value == pytest.approx(expected, rel=1e-5)
    assert {values[1].status for values in found.values()} == {"ok"}
    assert {values[0].status for values in found.values()} == {"failed"}, "one frame is no flow of 0"


def test_numbers_do_not_depend_on_which_clips_are_scored_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shift(Constant):
        """A flow that depends on the frames: their difference."""

        def forward(self, before: Tensor, after: Tensor, num_flow_updates: int) -> list[Tensor]:
            return [(after - before)[:, :2]]

    metric = Raft(device="cpu", chunk=4)
    monkeypatch.setattr(metric, "network", lambda: Shift(0, 0))
    clips = [scene(0), scene(1, frames=7, fps=24), scene(2, size=(130, 140)), scene(3, frames=2)]
    together = metric(clips, Context())
    for name, values in together.items():
        assert list(values) == [metric([clip], Context())[name][0] for clip in clips]
        assert {value.status for value in values} == {"ok"}


def test_small_frames_are_enlarged_and_their_flow_is_in_their_own_pixels() -> None:
    network = Constant(6.0, -3.0)
    clip = moved(2, 1, size=50)
    before, after = (frames(clip)[[t]] / 255 for t in (0, 1))
    field = flow(network, before, after)
    assert network.seen[0].shape == (1, 3, 152, 152), "50 px · 3, then padded to a multiple of 8"
    assert field.shape == (1, 2, 50, 50)
    assert torch.allclose(field, torch.tensor([2.0, -1.0])[None, :, None, None].expand_as(field))
    inner = network.seen[0][:, :, 1:151, 1:151]
    assert torch.allclose(inner[..., 1::3, 1::3], before * 2 - 1, atol=1e-6), "the middle of each 3×3 is the pixel"


def test_speeds_are_mean_and_fastest_twentieth() -> None:
    class Spot(Constant):
        def forward(self, before: Tensor, after: Tensor, num_flow_updates: int) -> list[Tensor]:
            field = torch.zeros(len(before), 2, *before.shape[-2:])
            field[:, 0, :8, :128] = 3.0
            field[:, 1, :8, :128] = 4.0  # 8 of 160 rows move by 5 px: exactly 5 %
            return [field]

    mean, fastest = speeds(Spot(0, 0), torch.zeros(1, 2, 3, 160, 128, dtype=torch.uint8))[0].tolist()
    assert mean == pytest.approx(0.25)
    assert fastest == pytest.approx(5)


@pytest.mark.parametrize(
    ("speed", "frames", "expected"),
    [
        ([6.1] * 4 + [0] * 11, 16, 1),  # round(4·16/16) = 4 pairs
        ([6.1] * 3 + [0] * 12, 16, 0),
        ([6.0] * 15, 16, 0),  # must exceed 6·256/256
        ([0.0], 2, 0),  # VBench: round(4·2/16) = 0 pairs suffice
        ([7.0], 2, 1),
    ],
)
def test_dynamic_degree_by_hand(speed: list[float], frames: int, expected: float) -> None:
    assert dynamic(speed, frames=frames, side=256) == expected
    assert dynamic([one / 4 for one in speed], frames=frames, side=64) == expected


@pytest.mark.parametrize(("fps", "chosen"), [(8, [0, 1, 2, 3, 4, 5, 6]), (24, [0, 3, 6]), (3, [0, 1, 2, 3, 4, 5, 6])])
def test_dynamic_degree_looks_at_8_frames_per_second(fps: float, chosen: list[int]) -> None:
    clip = Clip(np.zeros((7, 8, 8, 3), np.uint8), fps, "c", 0, 0)
    assert sampled(clip) == list(pairwise(chosen))


def test_the_true_flow_leaves_no_warping_error_and_no_flow_leaves_the_squared_difference() -> None:
    clip = moved(2, 4)
    half = nn.functional.interpolate(frames(clip) / 255, scale_factor=0.5, mode="bilinear")

    class There(Constant):
        """4 px at 64 px are 2 px at half size, and 8 px where RAFT sees it (32 px, enlarged four times)."""

        def forward(self, before: Tensor, after: Tensor, num_flow_updates: int) -> list[Tensor]:
            sign = 1 if not self.seen else -1
            return [sign * super().forward(before, after, num_flow_updates)[0]]

    true = float(warping_errors(There(8, 0), pairs(clip)))
    # the last 2 of 32 columns have left the frame; there the border is repeated
    kept = float(((half[1] - half[0]) ** 2).sum(0).mean())
    assert true < 0.07 * kept
    still = float(warping_errors(Constant(0, 0), pairs(clip)))
    assert still == pytest.approx(kept, rel=1e-5)


def test_a_static_clip_has_no_warping_error_and_raft_sees_its_usual_range() -> None:
    network = Constant(0, 0)
    clip = Clip(np.repeat(scene(0).frames[:1], 2, axis=0), 8.0, "static", 0, 0)
    assert float(warping_errors(network, pairs(clip))) == pytest.approx(0, abs=1e-12)
    light = torch.cat(network.seen)
    # EvalCrafter's script divides by 255 twice: RAFT would see -1 to -.99
    assert light.max() - light.min() > 0.5
    assert light.min() >= -1


def test_pixels_that_do_not_come_back_are_occluded() -> None:
    forward, backward = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    forward[:, 0], backward[:, 0] = 2.0, -2.0
    backward[:, 0, :, 6:] = 2.0  # what arrives there came from somewhere else
    seen = visible(forward, backward)[0]
    assert not seen[:, 4:].any(), "columns 4 and up land on 6 and beyond"
    assert seen[:, :4].all()
    forward[:, 1, 3] = 1.0  # an edge in the motion, against the next row and the one before
    assert not visible(forward, -forward)[0, 2:4, :6].any()


def test_warp_reads_where_the_flow_points() -> None:
    image = torch.arange(20.0).reshape(1, 1, 4, 5)
    field = torch.zeros(1, 2, 4, 5)
    field[:, 0], field[:, 1] = 1.0, 0.5
    assert warp(image, field)[0, 0, 0, :4].tolist() == pytest.approx([3.5, 4.5, 5.5, 6.5])


@pytest.mark.parametrize("answer", [lambda field: field * torch.nan, lambda field: 9 * torch.randn_like(field)])
def test_a_clip_without_any_visible_pixel_is_failed_never_zero(
    answer: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wild(Constant):
        def forward(self, before: Tensor, after: Tensor, num_flow_updates: int) -> list[Tensor]:
            return [answer(super().forward(before, after, num_flow_updates)[0] + torch.zeros_like(before[:, :2]))]

    metric = Raft(device="cpu")
    monkeypatch.setattr(metric, "network", lambda: Wild(1, 0))
    found = metric([scene(0, frames=2, size=(128, 128))], Context())
    assert (found["warping_error"][0].status, found["warping_error"][0].value) == ("failed", None)
    assert found["dynamic_degree"][0].status == found["flow_score"][0].status, "what is no number is not still either"
