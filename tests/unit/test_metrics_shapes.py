"""Whether a clip of the embedded world shows what its prompt names."""

import numpy as np
import pytest

from perturb.metrics import Clip, Context, Value, score_clips
from perturb.metrics.embedded.shapes import LABELS, SHAPES, shapes_metrics
from perturb.world import judge, named, render, scene

SCENES = [scene(12, index) for index in range(6)]


def shown(frames: np.ndarray, prompt: str, fps: float = 8.0) -> list[Value]:
    return [value for _, _, value in score_clips([SHAPES], [Clip(frames, fps, "p", 0, 0, prompt)], Context())]


def test_captions_are_read_back() -> None:
    for here in SCENES:
        assert named(here.caption) == {label: getattr(here, label) for label in LABELS}
    for text in (
        "",
        "a red circle",
        f"{SCENES[0].caption} and a dog",
        "a pink circle moving left fast on a gray background",
    ):
        assert named(text) is None


@pytest.mark.parametrize("here", SCENES, ids=lambda here: here.caption)
def test_the_right_prompt_is_shown(here) -> None:
    assert [value.value for value in shown(render(here, "low"), here.caption)] == [1, 1, 1, 1]


def test_each_label_counts_for_itself() -> None:
    here = next(one for one in SCENES if one.direction in ("left", "right") and one.path == "straight")
    frames = render(here, "web")
    back = {"left": "right", "right": "left"}[here.direction]
    other = {"slowly": "fast", "fast": "slowly"}[here.speed]
    assert [v.value for v in shown(frames[::-1], here.caption)] == [1, 1, 0, 1]
    assert [v.value for v in shown(frames[::-1], here.caption.replace(here.direction, back))] == [1, 1, 1, 1]
    assert [v.value for v in shown(frames, here.caption.replace(here.speed, other))] == [1, 1, 1, 0]
    assert [v.value for v in shown(np.repeat(frames[:1], 8, 0), here.caption)] == [1, 1, 0, 0]


def test_speed_is_per_second_not_per_frame() -> None:
    fast = next(one for one in SCENES if one.speed == "fast")
    frames = render(fast, "web", fps=16)
    assert judge(frames, 16).speed == "fast"
    assert judge(frames, 8).speed == "slowly"


def test_a_prompt_of_another_world_is_unavailable() -> None:
    values = shown(render(SCENES[0], "web"), "a dog in the snow")
    assert {value.status for value in values} == {"unavailable"}
    assert "'a dog in the snow'" in values[0].reason


def test_the_oracle_comes_on_top_of_the_embedded_metrics() -> None:
    names = [info.name for metric in shapes_metrics() for info in metric.infos]
    assert names[-4:] == ["colour_shown", "shape_shown", "direction_shown", "speed_shown"]
    assert "motion_quality" in names
