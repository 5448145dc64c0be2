"""Inception score and Fréchet distance of frames against torch-fidelity and torchmetrics on the same weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from learned_files import frames, scene, write_inception
from metric_sets import gathered
from scipy.linalg import sqrtm

from perturb.metrics import Clip, Gathered, Sets, Unavailable, Value
from perturb.metrics.learned.inception import FEATURES, Inception, frechet_distance, inception_score, stacked

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torchmetrics on its buffers and splits

OWN = [scene(seed, frames=4) for seed in range(3)]
OTHER = [scene(5, frames=3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("weights")
    write_inception(place)
    return place


@pytest.fixture(scope="module")
def features(folder: Path) -> dict[str, Gathered]:
    metric = Inception(weights=str(folder), chunk=4)
    sets = {"own": OWN, "other": OTHER}
    return {name: gathered(zip(clips, kept(metric, clips), strict=True)) for name, clips in sets.items()}


def kept(metric: Inception, clips: list[Clip]) -> list[np.ndarray]:
    found = metric.features(clips)
    assert not any(isinstance(one, Value) for one in found)
    return [one for one in found if not isinstance(one, Value)]


def number(value: object) -> float:
    assert isinstance(value, Value), value
    assert value.value is not None, value.reason
    return value.value


def test_both_numbers_are_those_of_torchmetrics(folder: Path, features: dict[str, Gathered]) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore

    path = str(folder / "weights-inception-2015-12-05-6726825d.pth")
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=path
    )
    network.eval()

    class Same(torch.nn.Module):
        """Hands torchmetrics the features themselves; the first 64, for its eigenvalues of 2048² take half a minute."""

        num_features = 64

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features

    reference, score = FrechetInceptionDistance(feature=Same()), InceptionScore(Same(), splits=1)
    reference.set_dtype(torch.float64)
    for clips, real in ((OWN, False), (OTHER, True)):
        features_2048, logits = network(torch.cat([frames(clip) for clip in clips]))
        reference.update(features_2048[:, :64], real=real)
        kept_logits = stacked(features["other" if real else "own"])[:, FEATURES:]
        assert np.allclose(kept_logits, logits, rtol=1e-4, atol=1e-4)
    own, other = stacked(features["own"]), stacked(features["other"])
    assert frechet_distance(own[:, :64], other[:, :64]) == pytest.approx(float(reference.compute()), rel=1e-3)
    found = Inception(weights=str(folder)).combine(Sets(features["own"], features["other"], features["other"]))
    sharp = 3 * torch.randn(50, 1008, generator=torch.Generator().manual_seed(0))
    score.update(sharp)
    assert inception_score(sharp.numpy(), splits=1) == pytest.approx(float(score.compute()[0]), rel=1e-5)
    assert number(found["inception_score"]) == inception_score(own[:, FEATURES:])
    assert number(found["frame_fid_step0"]) == frechet_distance(own[:, :FEATURES], other[:, :FEATURES])
    assert found["frame_fid_step0"] == found["frame_fid_images"]


@pytest.mark.parametrize("counts", [(40, 30), (4, 40), (3, 5)])
def test_frechet_distance_is_the_formula(counts: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, 6)) @ rng.standard_normal((6, 6)) + shift for shift, n in enumerate(counts))
    product = np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)
    root = np.trace(np.real(sqrtm(product + 1e-12 * np.eye(6))))
    traces = np.cov(a, rowvar=False).trace() + np.cov(b, rowvar=False).trace()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + np.array([1, 2, 0, 0, 0, 0])) == pytest.approx(5)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_inception_score_by_hand() -> None:
    certain = 40 * np.tile(np.eye(4), (10, 1))  # 40 frames, evenly of 4 classes, each recognised beyond doubt
    assert inception_score(np.zeros((20, 4))) == pytest.approx(1)
    parts = np.array_split(np.random.RandomState(2020).permutation(40) % 4, 10)
    by_hand = []
    for part in parts:
        share = np.bincount(part, minlength=4)[np.bincount(part, minlength=4) > 0] / len(part)
        by_hand.append(np.exp(-(share * np.log(share)).sum()))
    assert inception_score(certain) == pytest.approx(np.mean(by_hand))


def test_the_order_of_clips_and_their_batches_do_not_matter(folder: Path, features: dict[str, Gathered]) -> None:
    metric = Inception(weights=str(folder), chunk=4)
    assert np.array_equal(kept(metric, [scene(9, frames=1, size=(24, 64)), OWN[1]])[1], features["own"].features[1])
    backwards = Gathered(list(features["own"].samples)[::-1], list(features["own"].features)[::-1])
    assert np.array_equal(stacked(backwards), stacked(features["own"]))


def test_what_is_missing_is_unavailable_with_the_reason(folder: Path, features: dict[str, Gathered]) -> None:
    few = Gathered(features["own"].samples[:1], features["own"].features[:1])
    found = Inception(weights=str(folder)).combine(Sets(few))
    reasons = {name: value.reason for name, value in found.items() if isinstance(value, Value)}
    assert {value.status for value in found.values() if isinstance(value, Value)} == {"unavailable"}
    assert "10 parts; there are 4" in reasons["inception_score"]
    assert "no step-0 clips" in reasons["frame_fid_step0"]
    assert "no images D_I" in reasons["frame_fid_images"]
    one = Gathered(few.samples, [features["own"].features[0][:1]])
    alone = Inception(weights=str(folder)).combine(Sets(one, few))["frame_fid_step0"]
    assert isinstance(alone, Value)
    assert "at least 2 frames, given 1 and 4" in alone.reason


def test_without_torch_fidelity_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perturb.metrics.learned.weights.find_spec", lambda _: None)
    with pytest.raises(Unavailable, match=r"torch_fidelity is not installed.*pip install 'perturb\[learned\]'"):
        Inception(weights=str(folder)).identity()
