"""Orderings of the committed tables of the learned metrics: what each must notice, and what it must not."""

import csv
from pathlib import Path

import pytest

from perturb.metrics.calibration.distortions import DISTORTIONS
from perturb.metrics.learned import packaged_metrics

FOLDER = Path(__file__).parents[2] / "experiments" / "metric_calibration"
DRIFTS = ("stlpips_drift", "cvvdp_drift", "lite0_frechet_step0")
ORDERED = [one.name for one in DISTORTIONS if len(one.strengths) > 1]


def read(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def changes() -> dict[tuple[str, str], list[float]]:
    """(metric, distortion) → the median change at its weakest and at its strongest."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in read("learned.csv"):
        found.setdefault((row["metric"], row["distortion"]), []).append(float(row["change"]))
    return found


def family(metric: str, name: str) -> list[float]:
    return [float(row[metric]) for row in read("learned_families.csv") if row["family"] == name]


def test_every_metric_with_its_weights_is_calibrated(changes: dict[tuple[str, str], list[float]]) -> None:
    names = {info.name for metric in packaged_metrics() for info in metric.infos}
    assert {metric for metric, _ in changes} == names
    assert {distortion for _, distortion in changes} == {one.name for one in DISTORTIONS}


@pytest.mark.parametrize("metric", DRIFTS)
def test_drift_grows_with_every_distortion(metric: str, changes: dict[tuple[str, str], list[float]]) -> None:
    frames_alone = metric == "lite0_frechet_step0"  # the same frames in another order are the same set
    for distortion in ORDERED:
        if not (frames_alone and distortion == "frame shuffle"):
            weak, strong = changes[metric, distortion]
            assert 0 <= weak < strong, distortion


def test_interpolation_hears_disorder_and_no_looks(changes: dict[tuple[str, str], list[float]]) -> None:
    for distortion in ("jitter", "noise", "boiling texture", "brightness flicker", "frame shuffle", "unrelated frames"):
        weak, strong = changes["rife_error", distortion]
        assert 0 < weak < strong, distortion
    for distortion in ("static", "blur", "contrast", "desaturation"):
        assert max(changes["rife_error", distortion]) < 0.001, distortion
    for disorder in ("teleporting", "shaking object", "shuffled frames", "boiling texture, right path", "scene cut"):
        assert min(family("rife_error", disorder)) > max(family("rife_error", "moving object")), disorder


def test_cuts_are_those_of_the_scene(changes: dict[tuple[str, str], list[float]]) -> None:
    assert family("transnet_cuts", "scene cut") == [1, 1]
    for calm in ("still", "drifting still", "moving object", "bouncing disc", "shaking object"):
        assert set(family("transnet_cuts", calm)) == {0}, calm
    assert max(changes["transnet_cuts", "watermark"]) == 0


def test_text_is_found_where_it_is(changes: dict[tuple[str, str], list[float]]) -> None:
    assert changes["resting_text", "watermark"][1] > 0.2
    for distortion in {one.name for one in DISTORTIONS} - {"watermark"}:
        assert max(map(abs, changes["resting_text", distortion])) == 0, distortion
    texts = {
        row["member"]: float(row["resting_text"]) for row in read("learned_families.csv") if row["family"] == "still"
    }
    assert texts["texture 91"] == 0
    assert texts["page"] > 0.3
