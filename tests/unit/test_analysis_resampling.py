"""Bootstrap intervals and bands over steps: hand-computed cases, and what scipy says of the same thing."""

import math

import numpy as np
import pytest
from scipy import stats

from perturb.analysis.statistics.estimates import mean_interval
from perturb.analysis.statistics.resampling import NO_INTERVAL, max_t, percentile, sign_flip, studentised, without_dust


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def mean(drawn: np.ndarray) -> np.ndarray:
    return drawn.mean(axis=-1)


def test_one_step_is_the_plain_sign_flip() -> None:
    d = rng().normal(0.5, 1, (9, 1))
    assert max_t(d, rng()).p[0] == sign_flip(d[:, 0], rng())
    many = rng().normal(0.2, 1, (25, 1))
    assert max_t(many, rng()).p[0] == sign_flip(many[:, 0], rng())


def test_max_t_over_all_patterns_of_scipys_t() -> None:
    # all eight patterns are four up to a common sign, which |t| does not see
    d = np.array([[1.0, 1.0], [2.0, 0.0], [3.0, -1.0]])
    signs = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [1, -1, -1]])
    largest = np.array([np.abs(np.asarray(stats.ttest_1samp(d * s[:, None], 0))[0]).max() for s in signs])
    expected = [(largest >= t - 1e-9).mean() for t in np.abs(np.asarray(stats.ttest_1samp(d, 0))[0])]
    assert max_t(d, rng()).p.tolist() == expected


def test_more_steps_never_make_a_step_more_certain() -> None:
    d = rng().normal(0.3, 1, (12, 5))
    alone = [sign_flip(at, rng()) for at in d.T]
    together = max_t(d, rng())
    assert all(together.p >= alone)
    assert together.critical > stats.t.ppf(0.975, 11)
    assert (together.p <= np.minimum(1, 5 * np.array(alone)) + 1e-12).all()  # never worse than Bonferroni


def test_steps_that_repeat_one_another_cost_nothing() -> None:
    d = rng().normal(0.3, 1, (12, 1))
    repeated = np.hstack([d, 100 * d, -d])  # t has no unit
    assert max_t(repeated, rng()).p == pytest.approx([sign_flip(d[:, 0], rng())] * 3)
    assert max_t(repeated, rng()).critical == pytest.approx(max_t(d, rng()).critical)


def test_a_step_without_spread_has_no_test() -> None:
    d = np.hstack([np.zeros((12, 1)), rng().normal(1, 1, (12, 1))])
    found = max_t(d, rng())
    assert math.isnan(found.p[0])
    assert found.p[1] == max_t(d[:, 1:], rng()).p[0]
    assert math.isnan(max_t(np.zeros((12, 2)), rng()).critical)
    assert math.isnan(max_t(np.ones((1, 2)), rng()).critical)


def test_bootstrap_t_is_that_of_student_for_a_normal_sample() -> None:
    d = stats.norm.ppf((np.arange(64) + 0.5) / 64)
    interval, t = studentised(d, rng(), 40_000), mean_interval(d)
    assert (interval.low, interval.high) == pytest.approx((t.low, t.high), rel=0.04)


def test_bootstrap_t_reaches_further_where_the_tail_is() -> None:
    d = rng().lognormal(0, 1, 40)
    interval = studentised(d, rng())
    assert interval.high - d.mean() > 1.2 * (d.mean() - interval.low)  # t is symmetric


def test_bootstrap_t_moves_and_scales_with_the_values() -> None:
    d = rng().normal(0, 1, 20)
    plain, moved = studentised(d, rng()), studentised(7 - 3 * d, rng())
    assert (moved.low, moved.high) == pytest.approx((7 - 3 * plain.high, 7 - 3 * plain.low))


def test_intervals_of_few_prompts() -> None:
    assert studentised([0.1, 0.2, 0.3, 0.4], rng()) == NO_INTERVAL
    assert percentile(np.ones((3, 4)), mean, rng()) == NO_INTERVAL
    same = studentised([0.5] * 6, rng())
    assert (same.low, same.high) == (0.5, 0.5)


def test_rounding_is_no_difference() -> None:
    dust = np.array([5.6e-17, 1.1e-16, 5.6e-17] * 11)  # of values near 1: all of one sign, and none of it real
    assert sign_flip(dust, rng()) == 1e-4
    d = without_dust(dust, scale=1.0)
    oracle = stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=999, rng=rng())
    assert sign_flip(d, rng()) == oracle.pvalue == 1.0
    assert math.isnan(max_t(d[:, None], rng()).p[0])
    small = 1e-9 * rng().normal(1, 1, 10)  # small differences of small values stay what they are
    assert without_dust(small, scale=1e-6).tolist() == small.tolist()


def test_bootstrap_t_of_prompts_that_are_nearly_all_alike_is_none() -> None:
    # all 32 prompts of a resample are among the 30 alike with probability (30/32)³² = .127, of 27 with .0043
    assert studentised([0.0] * 30 + [1.0, 2.0], rng()) == NO_INTERVAL
    mixed = studentised([0.0] * 27 + [0.5, 1.0, 1.5, 2.0, 2.5], rng())
    assert 0 < mixed.low < 7.5 / 32 < mixed.high < 2.5


def test_percentile_is_the_bootstrap_of_scipy() -> None:
    x = rng().exponential(1, 30)
    expected = stats.bootstrap((x,), np.mean, n_resamples=20_000, method="percentile", rng=rng()).confidence_interval
    found = percentile(x[None], mean, rng(), 20_000)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.02)


def test_the_seeds_of_a_prompt_stay_together() -> None:
    # two LoRA seeds that cancel in every prompt: whatever prompts are drawn, the mean is 0
    x = rng().normal(0, 1, 30)
    found = percentile(np.stack([x, -x]), mean, rng())
    assert (found.low, found.high) == pytest.approx((0.0, 0.0), abs=1e-12)
