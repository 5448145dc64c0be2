"""Frames between frames: an object before a background by hand, counts, loops, refusals, the command."""

from pathlib import Path

import numpy as np
import pytest

from perturb.diffusion import DDIMSampler
from perturb.errors import UserError
from perturb.metrics.embedded.perceptual import ssim
from perturb.models.videocrafter.spec import ModelSpec
from perturb.sample import generate
from perturb.study.between import between, filled, generated
from perturb.study.sample import SampleConfig
from perturb.world import render, scene
from tests.unit.image_models import built, dynamicrafter_spec


def picture(left: int, width: int) -> np.ndarray:
    """A striped background with a bright object, uint8 8 20 3."""
    frame = np.repeat(np.repeat((np.arange(20) % 5 * 20)[None, :, None], 8, 0), 3, 2).astype(np.uint8)
    frame[2:6, left : left + width] = 200
    return frame


def flow(left: int, width: int, speed: float) -> np.ndarray:
    field = np.zeros((8, 20, 2), np.float32)
    field[2:6, left : left + width, 0] = speed
    return field


@pytest.mark.parametrize(("moment", "left"), [(0.25, 4), (0.5, 5), (0.75, 6)])
def test_an_object_goes_its_way_before_the_background(moment: float, left: int):
    """It covers what it comes to and uncovers what it leaves: each is seen in one of the two frames alone."""
    made = between(picture(3, 6), picture(7, 6), flow(3, 6, 4), flow(7, 6, -4), moment)
    assert np.array_equal(made, picture(left, 6))
    # Without the occlusion test the background would shine through: with no flow at all this is a blend.
    nothing = np.zeros_like(flow(0, 0, 0))
    blend = (1 - moment) * picture(3, 6) + moment * picture(7, 6)
    assert np.array_equal(between(picture(3, 6), picture(7, 6), nothing, nothing, moment), blend.round())


def test_made_frames_are_nearer_to_the_truth_than_a_blend():
    true = render(scene(1, 3, held_out=True), "high", frames=9, fps=16)
    made = filled(true[::2], 2)
    assert made.shape == true.shape
    assert np.array_equal(made[::2], true[::2])
    blend = ((true[:-1:2].astype(float) + true[2::2]) / 2).round().astype(np.uint8)
    ours = np.mean([ssim(a, b) for a, b in zip(made[1::2], true[1::2], strict=True)])
    assert ours > np.mean([ssim(a, b) for a, b in zip(blend, true[1::2], strict=True)]) + 0.005


def test_counts_loops_and_refusals():
    clip = render(scene(1, 3, held_out=True), "high", frames=3)
    assert len(filled(clip, 4)) == 9
    circle = filled(clip[:2], 4, loop=True)
    assert len(circle) == 8
    # The way back is the way there: of the same two frames the same ones between.
    assert np.abs(circle[1:4].astype(int) - circle[:4:-1].astype(int)).max() <= 1
    assert np.abs(circle[1].astype(int) - circle[5]).max() > 20
    still = np.stack([picture(2, 6)] * 2)
    assert (filled(still, 3) == still[:1]).all()
    with pytest.raises(UserError, match="has 1 frames; there is nothing between"):
        filled(clip[:1], 2)
    with pytest.raises(UserError, match="factor is 1; allowed: a whole number from 2"):
        filled(clip, 1)


def test_a_model_fills_each_gap_from_its_two_frames(tiny_spec: ModelSpec):
    """4 frames of the model: two new ones in a gap, made from its ends alone."""
    system = built(dynamicrafter_spec(tiny_spec, "ends"))
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)

    def made(frames: np.ndarray, factor: int = 3, *, loop: bool = False) -> np.ndarray:
        config = SampleConfig(batch_size=1)
        sampler = DDIMSampler(steps=2, guidance=1.0, spacing="trailing")
        return generated(system, sampler, "a red circle", config, frames, factor, lambda share: None, loop=loop)

    whole = made(clip)
    assert np.array_equal(whole[::3], clip)
    assert np.array_equal(made(clip[:2]), whole[:4])  # what comes after does not matter
    assert np.abs(whole[1:3].astype(int) - whole[4:6]).max() > 1
    circle = made(clip, loop=True)
    assert len(circle) == 9
    assert np.array_equal(circle[:7], whole)
    assert not np.array_equal(made(clip[::-1])[1:3], whole[4:6])
    with pytest.raises(UserError, match=r"factor is 2; allowed for 4 frames of tiny_ends: \[3\]"):
        made(clip, 2)
    with pytest.raises(UserError, match=r"sample\.height is 20; allowed for tiny_ends: multiples of"):
        made(clip[:, :20])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    clip = render(scene(1, 3, held_out=True), "high", frames=3)
    np.save(tmp_path / "clip.npy", clip)
    values = {"system": {}, "sampler": {}, "sample": {"playback_fps": 5}, "prompts": {"file": None, "limit": None}}
    values |= {"interpolate": str(tmp_path / "clip.npy"), "factor": 2, "loop": True, "output": str(tmp_path / "made")}
    generate(values)
    made = np.load(tmp_path / "made" / "clip_x2.npy")
    assert np.array_equal(made[::2], clip)
    assert (tmp_path / "made" / "clip_x2.mp4").stat().st_size > 0
    assert "(3 frames, now 6, 10 per second)" in capsys.readouterr().out
    with pytest.raises(UserError, match="factor is 0; allowed"):
        generate(values | {"factor": 0})
    with pytest.raises(UserError, match=r"interpolate=.*none\.npy: cannot be read"):
        generate(values | {"interpolate": str(tmp_path / "none.npy")})
