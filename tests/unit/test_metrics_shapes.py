"""Whether a clip of the embedded world shows what its prompt names."""

import numpy as np
import pytest

from perturb.errors import UserError
from perturb.metrics import Clip, Context, Value, score_clips
from perturb.metrics.embedded.shapes import LABELS, PATH, SHAPES, path_jerk, shapes_metrics
from perturb.world import frame_times, judge, named, render, scene
from perturb.world.scenes import SPEEDS

ALL = [scene(12, index) for index in range(40)]
SCENES = ALL[:6]


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
    assert names[-6:-2] == ["colour_shown", "shape_shown", "direction_shown", "speed_shown"]
    assert names[-2:] == ["path_jerk", "path_progress"]
    assert "motion_quality" in names


def path(frames: np.ndarray, prompt: str, fps: float = 8.0) -> tuple[float | None, ...]:
    scored = score_clips([PATH], [Clip(frames, fps, "p", 0, 0, prompt)], Context())
    return tuple(value.value for _, _, value in scored)


def test_path_jerk_by_hand() -> None:
    x = np.array([0.0, 2.0, 4.0, 3.0, 5.0])  # velocities 2, 2, -1, 2: changes 0, 3, 3
    assert path_jerk(np.column_stack([x, 0 * x]), speed=4.0) == pytest.approx(2 / 4)
    assert path_jerk(np.column_stack([x, 2 * x]), speed=4.0) == pytest.approx(np.sqrt(5) * 2 / 4)
    assert path_jerk(np.zeros((4, 2)), speed=4.0) == 0
    with pytest.raises(UserError, match="at least 3 frames, not 2"):
        path_jerk(np.zeros((2, 2)), speed=4.0)


@pytest.mark.parametrize("speed", SPEEDS)
def test_the_path_of_a_true_clip(speed: str) -> None:
    straight = next(one for one in ALL if one.speed == speed and one.path == "straight")
    wavy = next(one for one in ALL if one.speed == speed and one.path == "wavy")
    jerk, progress = path(render(straight, "web"), straight.caption)
    assert jerk == pytest.approx(0, abs=0.06)
    assert progress == pytest.approx(1, abs=0.02)
    true = path_jerk(wavy.position(frame_times()), SPEEDS[speed] / 8)
    assert path(render(wavy, "web"), wavy.caption)[0] == pytest.approx(true, abs=0.07)


def test_the_path_notices_what_happens_to_it() -> None:
    here = next(one for one in ALL if one.speed == "fast" and one.path == "straight")
    frames = render(here, "web")
    still, back, shuffled = np.repeat(frames[:1], 8, axis=0), frames[::-1], frames[[3, 0, 5, 1, 7, 2, 6, 4]]
    assert path(still, here.caption) == (0, 0)
    assert path(back, here.caption)[1] == pytest.approx(-1, abs=0.02)
    assert path(back, here.caption)[0] == pytest.approx(path(frames, here.caption)[0])
    # steps -3, 5, -4, 6, -5, 4, -2 of the named speed: changes 8, 9, 10, 11, 9, 6
    assert path(shuffled, here.caption)[0] == pytest.approx(53 / 6, rel=0.02)
    assert path(render(here, "web", fps=16), here.caption, 16.0)[1] == pytest.approx(1, abs=0.03)


def test_a_lost_object_has_no_path() -> None:
    frames = render(SCENES[0], "web").copy()
    frames[5] = 128
    values = score_clips([PATH], [Clip(frames, 8.0, "p", 0, 0, SCENES[0].caption)], Context())
    assert {(value.status, value.reason) for _, _, value in values} == {
        ("failed", "frame 5 shows no coloured object to follow")
    }
