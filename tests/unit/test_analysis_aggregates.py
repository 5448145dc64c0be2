"""What a cell keeps, when it collapses, how often one model is ahead: worked out by hand, and against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from perturb.analysis.statistics.aggregates import (
    Aggregate,
    change,
    collapse_steps,
    improvement,
    interquartile_mean,
    profile,
    retention,
)
from perturb.analysis.statistics.contrast import Trajectories, benjamini_hochberg

NEVER = math.inf


def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def made(values: list[list[list[float]]], noises: int = 1) -> Trajectories:
    """s m k at the steps 0, 20, 100; the noises of a prompt beside each other."""
    y = np.array(values, dtype=float)
    s, m, k = y.shape
    prompts = tuple(f"p{i // noises:02d}" for i in range(m))
    return Trajectories(y, prompts, (0, 20, 100), np.tile(0.01 * np.arange(k), (s, 1)), tuple(range(s)))


@pytest.mark.parametrize("n", [4, 5, 7, 32])
def test_iqm_is_the_trimmed_mean_of_scipy(n: int) -> None:
    x = rng().normal(size=(3, n))
    assert interquartile_mean(x) == pytest.approx(stats.trim_mean(x, 0.25, axis=1))


def test_iqm_does_not_see_an_outlier() -> None:
    assert interquartile_mean([0.1, 0.2, 0.3, 0.4]) == interquartile_mean([-50, 0.2, 0.3, 0.4e9])


def test_benjamini_hochberg_is_that_of_scipy() -> None:
    p = rng().uniform(size=12) ** 3
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
    assert benjamini_hochberg([0.2, np.nan, 0.9]) == pytest.approx([0.4, np.nan, 0.9], nan_ok=True)
    assert np.isnan(benjamini_hochberg([np.nan])).all()


def test_retention_by_hand() -> None:
    # shares of the start: 1, .5, .25; trapezoids .75·20 + .375·80 over 100
    both = made([[[0.4, 0.2, 0.1], [0.8, 0.4, 0.2]]])
    found = retention(both).over_prompts
    assert (found.mean, found.n) == (pytest.approx(0.45), 2)
    assert found.half_width == pytest.approx(0.0, abs=1e-12)  # both keep the same share
    assert retention(made([[[0.4] * 3, [0.6] * 3]])).over_prompts.mean == pytest.approx(1.0)


def test_collapse_step_of_every_trajectory() -> None:
    # half of the start is gone at step 20, at 100 (exactly half), never; a start of 0 and a gap have no answer
    y = made([[[0.4, 0.1, 0.9], [0.4, 0.3, 0.2], [0.4, 0.3, 0.3], [0.0, 0.0, 0.0], [0.4, np.nan, 0.1]]])
    assert collapse_steps(y)[0].tolist() == pytest.approx([20, 100, NEVER, math.nan, math.nan], nan_ok=True)


def test_improvement_by_hand() -> None:
    first = made([[[0.3, 0.5, 0.1], [0.3, 0.2, 0.1]], [[0.3, 0.5, 0.9], [0.3, 0.5, 0.1]]])
    second = made([[[0.3, 0.1, 0.1], [0.3, 0.5, 0.3]], [[0.3, 0.1, 0.3], [0.3, 0.5, 0.3]]])
    # step 20: won, lost, won, tied → 2.5 of 4; step 100: tied, lost, won, lost → 1.5 of 4
    assert [at.value for at in improvement(first, second, rng())] == [0.5, 0.625, 0.375]


def test_improvement_of_both_sides_adds_up_to_one() -> None:
    first, second = (made(rng.integers(0, 4, (2, 8, 3)).tolist()) for rng in map(np.random.default_rng, (1, 2)))
    ahead, behind = improvement(first, second, rng()), improvement(second, first, rng())
    for one, other in zip(ahead, behind, strict=True):
        assert one.value + other.value == pytest.approx(1)
        assert one.interval.low + other.interval.high == pytest.approx(1)


def test_improvement_is_the_share_of_wins_of_the_sign_test() -> None:
    first, second = made(rng().normal(size=(1, 30, 3)).tolist()), made(np.zeros((1, 30, 3)).tolist())
    wins = stats.binomtest(int((first.values[0, :, 2] > 0).sum()), 30).statistic
    assert improvement(first, second, rng())[2].value == pytest.approx(wins)


def test_gaps_are_left_out_in_pairs() -> None:
    first = made([[[0.3, 0.5, 0.1], [0.3, np.nan, 0.1]]])
    second = made([[[0.3, 0.1, 0.0], [0.3, 0.9, 0.9]]])
    assert [at.value for at in improvement(first, second, rng())] == [0.5, 1.0, 1.0]
    nothing = made([[[math.nan] * 3]])
    assert math.isnan(improvement(nothing, nothing, rng())[0].value)
    assert math.isnan(Aggregate.of(np.empty((1, 0)), interquartile_mean, rng()).interval.low)


def test_noises_of_a_prompt_count_as_one() -> None:
    # prompt 1 wins with both noises, prompt 2 with neither, prompt 3 with one of two
    first = made([[[0, 0, y] for y in (1, 1, 0, 0, 1, 0)]], noises=2)
    second = made([[[0, 0, 0.5]] * 6], noises=2)
    assert improvement(first, second, rng())[2].value == pytest.approx((1 + 0 + 0.5) / 3)


def test_profile_by_hand() -> None:
    y = made([[[0, 0, 0.1], [0, 0, 0.3], [0, 0, 0.3], [0, 0, 0.9]]])
    found = profile(y, 100, [0.0, 0.1, 0.3, 0.5, 1.0])
    assert [at.over_prompts.mean for at in found] == [1.0, 0.75, 0.25, 0.25, 0.0]


def test_change_starts_at_zero() -> None:
    y = change(made([[[0.4, 0.1, 0.9]]]))
    assert y.values[0, 0] == pytest.approx([0, -0.3, 0.5])
