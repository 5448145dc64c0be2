"""The embedded world: its ground truth, its grades, its captions and the oracle that reads it back."""

import dataclasses

import numpy as np
import pytest

from perturb.data.prompts import load_prompts
from perturb.errors import UserError
from perturb.world import WORDS, GradeStills, judge, object_mask, render, render_still, scene, true_flow
from perturb.world.scenes import DIRECTIONS, SPEEDS, frame_times, still_moment
from perturb.world.sets import STREAM

SCENES = [scene(5, index) for index in range(24)]


def test_a_scene_is_a_function_of_seed_and_index() -> None:
    assert scene(5, 3) == SCENES[3]
    assert scene(6, 3) != SCENES[3]
    np.testing.assert_array_equal(render(SCENES[3], "low", noise_seed=3), render(scene(5, 3), "low", noise_seed=3))


def test_captions_name_every_label_in_known_words() -> None:
    for here in SCENES:
        words = here.caption.split()
        assert set(words) <= set(WORDS)
        assert {here.colour, here.shape, here.direction, here.speed, here.background} <= set(words)
        assert ("wavy" in words) == (here.path == "wavy")


def test_held_out_combinations_are_never_in_a_training_stream() -> None:
    trained = {scene(101, index).caption for index in range(300)}
    held_out = {scene(1000, index, held_out=True).caption for index in range(40)}
    assert not trained & held_out


def test_the_study_prompts_are_held_out_and_balanced() -> None:
    prompts = [prompt.text for prompt in load_prompts("package:world/prompts.txt")]
    directions = [text.split()[4] for text in prompts]
    assert len(set(prompts)) == 32
    assert {name: directions.count(name) for name in DIRECTIONS} == dict.fromkeys(DIRECTIONS, 8)
    trained = {scene(201, index).caption for index in range(2000)}
    assert not trained & set(prompts)


def test_frame_times_are_centred_on_the_middle_of_a_second() -> None:
    np.testing.assert_allclose(frame_times(8, 8), [0.0625, 0.1875, 0.3125, 0.4375, 0.5625, 0.6875, 0.8125, 0.9375])
    np.testing.assert_allclose(frame_times(3, 4), [0.25, 0.5, 0.75])


def test_straight_motion_covers_speed_times_time() -> None:
    here = next(s for s in SCENES if s.path == "straight")
    travel = here.position(np.array([0.25, 0.75]))
    expected = np.array(DIRECTIONS[here.direction]) * SPEEDS[here.speed] * 0.5
    np.testing.assert_allclose(travel[1] - travel[0], expected)


def test_velocity_is_the_derivative_of_position() -> None:
    for here in SCENES:
        moments = np.array([0.2, 0.6])
        numeric = (here.position(moments + 1e-5) - here.position(moments - 1e-5)) / 2e-5
        np.testing.assert_allclose(here.velocity(moments), numeric, atol=1e-5)


def test_true_flow_moves_the_mask_onto_a_later_one() -> None:
    here = next(s for s in SCENES if s.path == "straight" and s.speed == "fast")
    masks, flow = object_mask(here), true_flow(here)
    displacement = flow[0][masks[0] > 0.5][0]
    np.testing.assert_allclose(displacement, np.array(DIRECTIONS[here.direction]) * 4.25)  # 34 pixels/s at 8 frames/s
    whole = (4 * displacement).astype(int)  # 17 pixels in four frames
    np.testing.assert_allclose(np.roll(masks[0], whole[::-1], axis=(0, 1)), masks[4], atol=1e-9)


def test_objects_stay_inside_the_picture() -> None:
    for here in SCENES:
        area = object_mask(here).sum(axis=(1, 2))
        assert area.min() > 0.93 * area.max()


@pytest.mark.parametrize("grade", ["web", "low", "high"])
def test_the_oracle_reads_every_grade(grade: str) -> None:
    for index, here in enumerate(SCENES):
        verdict = judge(render(here, grade, noise_seed=index))  # pyright: ignore[reportArgumentType]
        assert (verdict.colour, verdict.shape, verdict.direction) == (here.colour, here.shape, here.direction)


def test_the_oracle_sees_no_direction_in_a_still_and_the_other_in_reverse() -> None:
    here = next(s for s in SCENES if s.direction == "left")
    frames = render(here, "web")
    assert judge(np.repeat(frames[:1], 8, axis=0)).direction is None
    assert judge(frames[:1]).direction is None
    assert judge(frames[::-1]).direction == "right"
    assert judge(np.full((8, 64, 64, 3), 128, np.uint8)).colour is None


def test_the_grades_differ_as_the_paper_has_it() -> None:
    here = next(s for s in SCENES if s.background == "black")
    web, low, high = (render_still(here, grade).astype(float) for grade in ("web", "low", "high"))
    chroma = [(frame.max(-1) - frame.min(-1)).max() for frame in (low, web, high)]
    assert chroma[0] < chroma[1] < chroma[2]
    assert low[46:60, 8:56].std() > 3 * web[46:60, 8:56].std()  # the mark


def test_a_still_is_a_frame_of_its_clip() -> None:
    here = SCENES[0]
    np.testing.assert_array_equal(render(here, "high")[2], render_still(here, "high", moment=frame_times()[2]))


def test_high_grade_stills_refuse_another_size() -> None:
    stills = GradeStills(count=4)
    image = stills.load(1, 64, 64)
    assert image.shape == (3, 64, 64)
    assert -1 <= image.min() < image.max() <= 1
    with pytest.raises(UserError, match=r"64×64 pixels, the model wants 320×512"):
        stills.load(0, 320, 512)
    with pytest.raises(UserError, match=r"images\.count=0"):
        GradeStills(count=0)


def test_a_ladder_of_grades_from_the_twins_own_to_far_from_it() -> None:
    low, web, high = (GradeStills(count=1, grade=grade).load(0, 64, 64) for grade in ("low", "web", "high"))
    here = scene(STREAM, 0)
    assert (low.permute(1, 2, 0) + 1).mul(127.5).round().numpy().astype(np.uint8).tolist() == render_still(
        here, "low", moment=still_moment(0), noise_seed=0
    ).tolist()
    saturation = [float((still.amax(0) - still.amin(0)).mean()) for still in (web, high)]
    assert saturation[0] < saturation[1]
    grain = [float(still.diff(dim=-1).abs().median()) for still in (web, low)]
    assert grain[0] < 0.001
    assert grain[1] > 0.01  # sensor noise of .025
    with pytest.raises(UserError, match=r"images\.grade='best'; allowed: web, low, high"):
        GradeStills(grade="best")  # type: ignore[arg-type]


def test_without_a_trail_a_still_does_not_show_the_direction() -> None:
    bare = [dataclasses.replace(here, trail=False) for here in SCENES if here.path == "straight"]
    for here in bare:
        turned = dataclasses.replace(
            here, direction={"left": "right", "right": "left"}.get(here.direction, here.direction)
        )
        ways = [render_still(each, "web", moment=0.5) for each in (here, turned)]
        assert (ways[0] == ways[1]).all()
    shown = next(here for here in SCENES if here.direction == "left")
    assert (render_still(shown, "web") != render_still(dataclasses.replace(shown, direction="right"), "web")).any()
