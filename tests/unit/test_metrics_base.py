"""The scoring loop: order, failures, and that no failure becomes a number."""

import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from perturb.metrics import (
    Clip,
    ClipMetric,
    Context,
    MetricInfo,
    Sets,
    Unavailable,
    Value,
    embedded_metrics,
    score_clips,
)
from perturb.metrics.calibration.clips import clip, shape
from perturb.metrics.scoring.measure import clip_problem


def info(name: str, scope: str = "clip") -> MetricInfo:
    return MetricInfo(name, "visual", "1", (0.0, 1.0), "up", (), "", "", "set" if scope == "set" else "clip")


def plain(prompt_id: str, level: int = 0, seed: int = 0) -> Clip:
    return Clip(np.full((4, 16, 16, 3), level, np.uint8), 8.0, prompt_id, seed, 0)


def test_a_failing_clip_does_not_stop_the_rest() -> None:
    def measure(one: Clip, _context: Context) -> Mapping[str, float]:
        if one.prompt_id == "bad":
            raise RuntimeError("boom")
        if one.prompt_id == "lone":
            raise Unavailable("nothing here")
        return {"level": float("nan") if one.prompt_id == "nan" else one.frames.mean()}

    clips = [plain("good", 7), plain("bad"), plain("nan"), plain("lone"), plain("last", 9)]
    rows = score_clips([ClipMetric((info("level"),), measure, 1)], clips, Context())
    assert [owner for owner, _, _ in rows] == clips
    assert [value.status for _, _, value in rows] == ["ok", "failed", "failed", "unavailable", "ok"]
    assert [value.value for _, _, value in rows] == [7.0, None, None, None, 9.0]
    assert rows[1][2].reason == "RuntimeError: boom"
    assert rows[3][2].reason == "nothing here"


def test_a_crashing_metric_fails_everywhere_and_the_next_one_runs() -> None:
    class Crash:
        infos = (info("crash"), info("whole", "set"))
        batched = False

        def identity(self) -> Mapping[str, Any]:
            return {}

        def features(self, clips: Sequence[Clip]) -> Sequence[np.ndarray | Value]:
            return [np.zeros(1)] * len(clips)

        def combine(self, sets: Sets) -> Mapping[str, Value | Sequence[Value]]:
            raise MemoryError("too much")

    level = ClipMetric((info("level"),), lambda one, _context: {"level": one.frames.mean()}, 1)
    rows = score_clips([Crash(), level], [plain("a"), plain("b", 3)], Context())
    got = [(one and one.prompt_id, i.name, v.status) for one, i, v in rows]
    assert got == [
        ("a", "crash", "failed"),
        ("b", "crash", "failed"),
        (None, "whole", "failed"),
        ("a", "level", "ok"),
        ("b", "level", "ok"),
    ]


BAD = {
    "float": (np.zeros((4, 16, 16, 3), np.float32), "uint8"),
    "grey": (np.zeros((4, 16, 16), np.uint8), "shape"),
    "alpha": (np.zeros((4, 16, 16, 4), np.uint8), "shape"),
    "channels first": (np.zeros((4, 3, 16, 16), np.uint8), "shape"),
    "empty": (np.zeros((0, 16, 16, 3), np.uint8), "empty"),
    "list": ([[1]], "numpy array"),
}


@pytest.mark.parametrize("kind", BAD)
def test_ill_formed_clips_fail_with_the_reason(kind: str) -> None:
    frames, word = BAD[kind]
    bad = Clip(frames, 8.0, "bad", 0, 0)  # pyright: ignore[reportArgumentType]
    assert word in (clip_problem(bad) or "")
    good = clip(shape((2, 0)), "good")
    metrics = embedded_metrics()
    rows = score_clips(metrics, [bad, good], Context({good.sample: good}))
    per_clip = [(one, value) for one, _, value in rows if one is not None]
    assert {value.status for one, value in per_clip if one is bad} == {"failed"}
    assert all(word in value.reason for one, value in per_clip if one is bad)
    assert sum(value.status == "ok" for one, value in per_clip if one is good) == 21


def test_one_frame_has_visual_measures_but_no_motion() -> None:
    single = Clip(shape((2, 0))[:1].astype(np.uint8), 8.0, "p", 0, 0)
    metrics = [metric for metric in embedded_metrics() if metric.infos[0].axis in ("motion", "visual")]
    rows = score_clips(metrics, [single], Context())
    motion = [value for _, i, value in rows if i.axis == "motion"]
    assert {value.status for value in motion} == {"failed"}
    assert all("undefined for 1 frame" in value.reason for value in motion)
    of_sets = ("watermark", "watermark_trace", "nss_shift", "image_distance")
    assert all(v.status == "ok" for _, i, v in rows if i.axis == "visual" and i.name not in of_sets)


def test_a_value_is_a_finite_number_or_a_reason() -> None:
    assert Value.of(math.inf).status == "failed"
    with pytest.raises(AssertionError):
        Value(None, "ok")
    with pytest.raises(AssertionError):
        Value(0.0, "failed", "but a number")
    with pytest.raises(AssertionError):
        Value(math.nan, "ok")


def test_embedded_metrics_describe_themselves() -> None:
    infos = [i for metric in embedded_metrics() for i in metric.infos]
    names = [i.name for i in infos]
    assert len(set(names)) == len(names)
    assert all(i.formula and i.source and i.unit for i in infos)
    assert not any(i.needs for i in infos)
    assert [i.name for i in infos if i.scope == "set"] == ["watermark", "image_distance"]
    assert all(i.range[1] is None or i.range[0] < i.range[1] for i in infos)


def test_numbers_stay_in_their_declared_range() -> None:
    rng = np.random.default_rng(0)
    noise = [Clip(rng.integers(0, 256, (4, 24, 24, 3)).astype(np.uint8), 8.0, f"n{i}", 0, 0) for i in range(4)]
    checker = 255 * (np.indices((4, 24, 24)).sum(0) % 2)[..., None].repeat(3, -1).astype(np.uint8)
    clips = [*noise, plain("black"), plain("white", 255), Clip(checker, 8.0, "checker", 0, 0)]
    clips = [one for one in clips if one.frames.shape[1] == 24]
    metrics = embedded_metrics()
    for _, i, value in score_clips(metrics, clips, Context({one.sample: clips[0] for one in clips})):
        assert value.value is not None or value.reason, i.name
        if value.value is not None:
            low, high = i.range
            assert low - 1e-9 <= value.value <= (math.inf if high is None else high + 1e-9), i.name


def test_importing_the_metrics_does_not_import_torch() -> None:
    heavy = "{'torch', 'lpips', 'transformers', 'torchvision'}"
    code = f"import sys, perturb.metrics as m; m.all_metrics(); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
