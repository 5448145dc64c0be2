"""Drift from step 0 by SSIM."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from perturb.metrics import Clip, Context, score_clips
from perturb.metrics.calibration.clips import clip, shape
from perturb.metrics.calibration.distortions import blurred, noisy
from perturb.metrics.embedded.perceptual import SSIM_DRIFT, measure_ssim, ssim

SCENE = shape((2, 0), ground=0.06)
ORIGINAL = clip(SCENE)
CONTEXT = Context({ORIGINAL.sample: ORIGINAL})


def test_ssim_drift_is_zero_at_step_0_and_grows() -> None:
    drift = [
        measure_ssim(clip(x), CONTEXT)["ssim_drift"] for x in (SCENE, blurred(SCENE, 0.7), blurred(SCENE, 2), 1 - SCENE)
    ]
    assert drift[0] == 0
    assert drift == sorted(drift)
    assert drift[3] > 0.5


def test_ssim_drift_is_the_mean_over_frames() -> None:
    spoiled = SCENE.copy()
    spoiled[3] = noisy(SCENE[3], 0.1)
    pair = clip(spoiled).frames[3], ORIGINAL.frames[3]
    frame = float(np.asarray(structural_similarity(*pair, channel_axis=-1, data_range=255)))
    assert measure_ssim(clip(spoiled), CONTEXT)["ssim_drift"] == pytest.approx((1 - frame) / 8)


def test_ssim_is_that_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    scene = (255 * SCENE[0]).round().astype(np.uint8)
    pairs = [(scene, clip(spoil(SCENE)).frames[0]) for spoil in (lambda x: blurred(x, 1), lambda x: noisy(x, 0.1))]
    pairs += [tuple(rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)) for size in ((9, 31), (70, 8), (141, 20))]
    pairs += [(scene, 255 - scene)]
    pairs += [(np.zeros_like(scene), np.full_like(scene, 255)), (np.full_like(scene, 200), np.full_like(scene, 201))]
    for one, other in pairs:
        expected = float(np.asarray(structural_similarity(one, other, channel_axis=-1, data_range=255)))
        assert ssim(one, other) == pytest.approx(expected, abs=1e-6)
        assert ssim(one, one) == 1


def test_drift_needs_the_same_prompt_seed_and_shape() -> None:
    stranger, short = clip(SCENE, seed=5), clip(SCENE[:4])
    tiny = Clip(np.zeros((2, 5, 5, 3), np.uint8), 8.0, "tiny", 0, 0)
    context = Context({**CONTEXT.reference, tiny.sample: tiny}) if CONTEXT.reference else CONTEXT
    values = [value for _, _, value in score_clips([SSIM_DRIFT], [stranger, short, tiny], context)]
    assert [value.status for value in values] == ["unavailable", "failed", "failed"]
    assert "prompt p000 seed 5" in values[0].reason
    assert "(8, 64, 64, 3)" in values[1].reason
    assert "at least 7 px" in values[2].reason
    assert measure_ssim(ORIGINAL, CONTEXT) == {"ssim_drift": 0.0}
