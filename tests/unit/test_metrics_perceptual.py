"""Drift from step 0: SSIM, and LPIPS against the lpips package on the same weights in torchvision's file format."""

from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from perturb.metrics import Clip, Context, score_clips
from perturb.metrics.calibration.clips import clip, shape
from perturb.metrics.calibration.distortions import blurred, noisy
from perturb.metrics.perceptual import ALEXNET, SSIM_DRIFT, LpipsDrift, measure_ssim

SCENE = shape((2, 0), ground=0.06)
ORIGINAL = clip(SCENE)
CONTEXT = Context({ORIGINAL.sample: ORIGINAL})


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder / ALEXNET


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


def test_lpips_without_weights_names_the_file(torch_home: Path) -> None:
    value = LpipsDrift()([ORIGINAL], CONTEXT)["lpips_drift"][0]
    assert (value.status, value.value) == ("unavailable", None)
    assert str(torch_home) in value.reason
    assert not torch_home.exists()


def test_lpips_with_a_wrong_file_fails(torch_home: Path) -> None:
    torch_home.write_bytes(b"not a state dict")
    value = LpipsDrift()([ORIGINAL], CONTEXT)["lpips_drift"][0]
    assert value.status == "failed"
    assert str(torch_home) in value.reason


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lpips_equals_the_package_on_the_same_weights(torch_home: Path) -> None:
    import lpips
    import torch
    import torchvision

    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in torchvision.models.alexnet(weights=None).state_dict().items()}
    # the classifier is not used by LPIPS: one stored number per tensor keeps the file small, its shapes stay
    state = {
        key: 0.05 * torch.randn(size, generator=generator)
        if key.startswith("features")
        else torch.zeros(1).expand(size)
        for key, size in shapes.items()
    }
    torch.save(state, torch_home)
    package = lpips.LPIPS(net="alex", verbose=False)  # reads the trunk from TORCH_HOME by itself
    before = torch.get_rng_state()
    metric, changed = LpipsDrift(), clip(noisy(blurred(SCENE, 1), 0.05))
    drift = [value.value for value in metric([ORIGINAL, changed], CONTEXT)["lpips_drift"]]
    assert torch.equal(torch.get_rng_state(), before), "loading must not touch the caller's random state"
    now, then = (torch.from_numpy(one.frames).permute(0, 3, 1, 2) / 127.5 - 1 for one in (changed, ORIGINAL))
    with torch.no_grad():
        expected = package(now, then).mean().item()
    assert drift[0] == 0
    assert drift[1] == pytest.approx(expected, rel=1e-5)
    assert expected > 1e-4
