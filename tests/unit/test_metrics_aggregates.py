"""The published aggregates by hand, and what happens when parts are absent."""

import numpy as np
import pytest

from perturb.metrics import Clip, ClipMetric, Context, MetricInfo, Value, described, embedded_metrics, score_clips
from perturb.metrics.embedded.flicker import VBENCH_FLICKER
from perturb.metrics.scoring.aggregates import AGGREGATES, aggregates

VBENCH = {
    "subject_consistency": 0.5731,  # halfway from .1462 to 1
    "background_consistency": 1.0,
    "vbench_flicker": 0.6293,
    "motion_smoothness": 0.9975,
    "aesthetic": 0.6,
    "imaging_quality": 0.7,
    "dynamic_degree": 0.4,
}


ALL = {part.metric for one in AGGREGATES for part in one.parts}


def found(means: dict[str, float]) -> dict[str, Value]:
    return {info.name: value for info, value in aggregates(means, ALL)}


def test_vbench_by_hand() -> None:
    value = found(VBENCH)["vbench_quality"]
    assert value.value == pytest.approx((0.5 + 1 + 0 + 1 + 0.6 + 0.7 + 0.5 * 0.4) / 6.5)
    assert value.reason.endswith("absent: none")


def test_absent_parts_of_vbench_are_left_out_and_named_not_counted_as_0() -> None:
    some = {name: VBENCH[name] for name in VBENCH if name not in ("imaging_quality", "motion_smoothness")}
    value = found(some)["vbench_quality"]
    assert value.value == pytest.approx((0.5 + 1 + 0 + 0.6 + 0.2) / 4.5)
    assert "present: subject_consistency, background_consistency, vbench_flicker, aesthetic, dyn" in value.reason
    assert value.reason.endswith("absent: motion_smoothness, imaging_quality")
    few = found({name: VBENCH[name] for name in ("subject_consistency", "aesthetic", "imaging_quality")})
    assert few["vbench_quality"].status == "unavailable"
    assert "too few of the parts: present: subject_consistency, aesthetic, imaging" in few["vbench_quality"].reason


def test_evalcrafter_by_hand() -> None:
    values = found(
        {
            "dover_aesthetic": 0.8,
            "dover_technical": 0.6,
            "inception_score": 15.0,
            "clip_temp": 0.998,
            "warping_error": 0.02,
            "face_consistency": 0.95,
            "action_score": 0.7,
            "motion_ac": 0.5,
            "flow_score": 4.0,
        }
    )
    visual = 500 * (0.03004555 * 0.8 + 0.02887537 * 0.6 - 0.01382558 * 0.15 + 0.087074627)
    temporal = 500 * (2.92492244 * 0.998 + 0.45475678 * 0.98 + 0.17561504 * 0.95 - 3.42274051)
    motion = 500 * (-0.01641512 * 0.7 - 0.01340959 * 0.5 - 0.10517075 * 0.04 + 0.1297562021)
    assert values["evalcrafter_visual"].value == pytest.approx(visual)
    assert values["evalcrafter_temporal"].value == pytest.approx(temporal, rel=1e-5)
    assert values["evalcrafter_motion"].value == pytest.approx(motion)
    assert (visual, temporal, motion) == pytest.approx((63.2, 54.4, 53.7), abs=0.1)


@pytest.mark.parametrize("aggregate", AGGREGATES[1:], ids=lambda one: one.info.name)
def test_a_regression_without_one_of_its_parts_is_no_number(aggregate: "type[object] | object") -> None:
    parts = [part.metric for one in AGGREGATES if one is aggregate for part in one.parts]
    for absent in parts:
        values = found({name: 0.5 for name in parts if name != absent})
        (value,) = [values[one.info.name] for one in AGGREGATES if one is aggregate]
        assert (value.status, value.value) == ("unavailable", None)
        assert value.reason.endswith(f"absent: {absent}")


def test_a_frozen_clip_has_evalcrafters_best_motion() -> None:
    still = found({"action_score": 0.0, "motion_ac": 0.0, "flow_score": 0.0})["evalcrafter_motion"].value
    lively = found({"action_score": 1.0, "motion_ac": 1.0, "flow_score": 5.0})["evalcrafter_motion"].value
    assert still is not None
    assert lively is not None
    assert still > lively


def test_vbenchs_flicker_by_hand() -> None:
    frames = np.zeros((3, 2, 2, 3), np.uint8)
    frames[1] = 51
    clips = [Clip(frames, 8.0, "c", 0, 0), Clip(frames[:1], 8.0, "one", 0, 0), Clip(frames * 0, 8.0, "still", 0, 0)]
    flickering, single, still = VBENCH_FLICKER(clips, Context())["vbench_flicker"]
    assert flickering.value == pytest.approx(0.8)
    assert (single.status, still.value) == ("failed", 1)


def test_scoring_gives_the_aggregates_whose_parts_are_measured() -> None:
    parts = ("subject_consistency", "background_consistency", "vbench_flicker", "aesthetic")
    infos = tuple(MetricInfo(name, "visual", "1", (0.0, 1.0), "up", (), "", "") for name in parts)
    metric = ClipMetric(infos, lambda clip, _context: dict.fromkeys(parts, float(clip.frames.mean())), 1)
    clips = [Clip(np.full((3, 8, 8, 3), level, np.uint8), 8.0, f"p{level}", 0, 0) for level in (0, 1)]
    whole = {info.name: value for clip, info, value in score_clips([metric], clips, Context()) if clip is None}
    assert [info.name for info in described([metric])] == [*parts, "vbench_quality"]
    assert list(whole) == ["vbench_quality"]
    assert whole["vbench_quality"] == found(dict.fromkeys(parts, 0.5))["vbench_quality"]
    assert [info.name for info in described(embedded_metrics())][-1] != "vbench_quality"
