"""Orderings of the calibration table: what each metric must notice, and what it must not."""

import csv
import io
import math
from itertools import pairwise

import pytest

from perturb.metrics.calibration.agreement import agreement_on_shapes
from perturb.metrics.calibration.distortions import DISTORTIONS
from perturb.metrics.calibration.table import Row, calibrate, table_csv, table_markdown

CORRUPTIONS = (
    *("jitter", "noise", "fixed-pattern noise", "boiling texture", "brightness flicker", "frame shuffle"),
    *("frame drop", "unrelated frames", "JPEG blocks"),
)
LOOKS = ("blur", "contrast", "desaturation")
OF_FRAMES = ("sharpness", "noise", "blur", "contrast", "colourfulness", "clipped", "blockiness", "image_distance")


@pytest.fixture(scope="session")
def table() -> list[Row]:
    return calibrate()


def rows(table: list[Row], metric: str, distortion: str) -> list[Row]:
    """Weakest first."""
    found = [row for row in table if (row.metric, row.distortion) == (metric, distortion)]
    assert found, f"{metric} under {distortion} is not in the table"
    return found


def changes(table: list[Row], metric: str, distortion: str) -> list[float]:
    return [row.change for row in rows(table, metric, distortion)]


def test_every_distortion_meets_every_metric_with_a_number(table: list[Row]) -> None:
    assert {len([row for row in table if row.metric == one.metric]) for one in table} == {11 + 3 * 13 + 1}
    assert all(math.isfinite(number) for row in table for number in (row.clean, row.value, row.change, row.worst))
    assert {row.distortion for row in table} == {"pan", "zoom", "rotation", *(d.name for d in DISTORTIONS)}
    assert all(row.lowest <= row.change <= row.highest for row in table)


def test_a_static_clip_scores_0(table: list[Row]) -> None:
    (static,) = rows(table, "motion_quality", "static")
    assert (static.value, static.highest) == (0, -1)
    (collapse,) = rows(table, "collapse", "static")
    assert (collapse.value, collapse.lowest, collapse.highest) == (
        1,
        0,
        1,
    )  # a clean pan, zoom or turn has collapsed too


def test_only_a_clip_without_motion_of_its_own_collapses(table: list[Row]) -> None:
    assert all(row.highest == 0 for row in table if row.metric == "collapse" and row.distortion != "static")
    assert all(row.value == 1 for distortion in ("pan", "zoom") for row in rows(table, "collapse", distortion)[:3])


def test_what_moves_beside_the_camera_does_not_see_the_camera(table: list[Row]) -> None:
    for motion in ("pan", "zoom"):
        assert max(row.value for row in rows(table, "object_motion", motion)) < 0.05
        speeds = [row.value for row in rows(table, "camera_speed", motion)]
        assert speeds == sorted(speeds)
    assert [row.value for row in rows(table, "camera_speed", "pan")] == pytest.approx(
        [0.5 / 64, 1 / 64, 2 / 64, 4 / 64, 6 / 64], rel=0.08
    )


@pytest.mark.parametrize("distortion", CORRUPTIONS)
def test_clean_motion_beats_every_corrupted_version_of_itself(table: list[Row], distortion: str) -> None:
    got = rows(table, "motion_quality", distortion)
    assert all(row.highest < 0 for row in got)
    if distortion not in ("frame shuffle", "unrelated frames"):  # these leave nothing at any strength
        assert [row.change for row in got] == sorted((row.change for row in got), reverse=True)


@pytest.mark.parametrize("distortion", ["boiling texture", "brightness flicker", "frame shuffle"])
def test_shuffle_boil_and_flicker_fall_below_half(table: list[Row], distortion: str) -> None:
    got = rows(table, "motion_quality", distortion)
    assert all(row.change < -0.5 for row in got)
    assert got[-1].highest < -0.5


@pytest.mark.parametrize("distortion", LOOKS)
def test_changes_of_look_move_motion_quality_by_less_than_a_tenth(table: list[Row], distortion: str) -> None:
    assert all(abs(row.worst) < 0.1 for row in rows(table, "motion_quality", distortion))


def test_a_watermark_moves_motion_quality_by_less_than_a_tenth(table: list[Row]) -> None:
    weak, usual, strong = rows(table, "motion_quality", "watermark")
    assert (weak.strength, usual.strength, strong.strength) == (0.1, 0.2, 0.4)
    assert max(abs(weak.worst), abs(usual.worst)) < 0.1
    assert abs(strong.change) < 0.1  # at .4 it hides part of a small object, and its motion with it


@pytest.mark.parametrize("motion", ["pan", "zoom"])
def test_dynamics_grows_with_speed(table: list[Row], motion: str) -> None:
    values = [row.value for row in rows(table, "dynamics", motion)]
    assert all(slower < faster for slower, faster in pairwise(values))


def test_real_motion_of_any_kind_stays_consistent_smooth_and_steady(table: list[Row]) -> None:
    for motion in ("pan", "zoom", "rotation"):
        for metric in ("consistency", "smoothness", "luminance_stability"):
            assert min(row.lowest for row in rows(table, metric, motion)) > -0.12


@pytest.mark.parametrize("metric", OF_FRAMES)
def test_measures_of_single_frames_do_not_see_order(table: list[Row], metric: str) -> None:
    assert all(abs(row.worst) < 1e-6 for row in rows(table, metric, "frame shuffle"))


RISES = {
    "noise": ("noise", "fixed-pattern noise"),
    "blur": ("blur",),
    "blockiness": ("JPEG blocks",),
    "watermark": ("watermark",),
    "watermark_trace": ("watermark",),
    "nss_shift": ("noise", "fixed-pattern noise", "blur", "boiling texture", "JPEG blocks", "watermark"),
    "image_distance": ("noise", "blur", "contrast", "desaturation", "boiling texture", "watermark", "unrelated frames"),
    "ssim_drift": ("noise", "blur", "contrast", "desaturation", "boiling texture", "JPEG blocks", "watermark"),
}


@pytest.mark.parametrize(("metric", "distortion"), [(m, d) for m, many in RISES.items() for d in many])
def test_what_must_rise_with_strength_does(table: list[Row], metric: str, distortion: str) -> None:
    got = [0.0, *changes(table, metric, distortion)]
    assert all(weaker < stronger for weaker, stronger in pairwise(got))


def test_what_a_distortion_takes_is_what_is_missing(table: list[Row]) -> None:
    assert changes(table, "contrast", "contrast") == pytest.approx([-0.25, -0.5, -0.75], abs=0.01)
    assert changes(table, "colourfulness", "desaturation") == pytest.approx([-0.3, -0.6, -1], abs=0.01)
    sharp = [0.0, *changes(table, "sharpness", "blur")]
    assert sharp == sorted(sharp, reverse=True)


def test_the_table_as_text(table: list[Row]) -> None:
    read = list(csv.DictReader(io.StringIO(table_csv(table))))
    assert len(read) == len(table)
    assert float(read[0]["change"]) == pytest.approx(table[0].change, rel=1e-5)
    lines = table_markdown(table).splitlines()
    assert len(lines) == 2 + 11 + 3 * 13 + 1
    assert next(line for line in lines if line.startswith("| static")).split(" | ")[6:8] == ["-100 %", "+1.00"]


def test_dynamics_and_flow_agree_with_the_true_motion_of_the_embedded_world() -> None:
    web, low, high = agreement_on_shapes()
    assert min(one.clips for one in (web, low, high)) >= 60
    assert min(one.spearman for one in (web, low, high)) >= 0.95
    assert max(one.end_point_error for one in (web, low, high)) <= 0.3
    assert high.direction_error < 2
