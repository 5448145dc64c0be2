"""Trajectories, shares, slopes, intervals and tests, against values worked out by hand and against scipy."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import stdtr

from perturb.analysis.statistics.contrast import Nested, Trajectories, holm, share, slope_weights
from perturb.analysis.statistics.resampling import sign_flip, without_dust


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_slope_is_that_of_a_fitted_line() -> None:
    x = np.array([0.0, 20, 50, 100, 200, 300])
    y = rng().normal(size=6)
    assert slope_weights(x) @ y == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-10)


def test_noises_are_averaged_before_prompts_and_gaps_are_left_out() -> None:
    values = np.arange(12.0).reshape(1, 4, 3)
    values[0, 3, 1] = np.nan
    read = Trajectories(values, ("p0", "p0", "p1", "p1"))
    assert read.complete.tolist() == [True, True, True, False]
    assert read.by_prompt(read.complete).tolist() == [[[1.5, 2.5, 3.5], [6.0, 7.0, 8.0]]]


def test_intervals_over_prompts_and_over_seeds() -> None:
    found = Nested.of(np.array([[-0.1, -0.2, -0.3], [-0.3, -0.4, -0.5]]))
    prompts, seeds = found.over_prompts, found.over_seeds
    assert (prompts.mean, prompts.n, seeds.mean, seeds.n) == pytest.approx((-0.3, 3, -0.3, 2))
    assert prompts.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)  # of −.2, −.3, −.4
    assert seeds.half_width == pytest.approx(12.706205 * 0.1, rel=1e-6)  # of −.2 and −.4: s/√2 = .1
    assert Nested.of(np.empty((0, 0))).over_both.n == 0


def test_share_by_hand() -> None:
    # R = 3/2; r = (2 − 1.5·(1 − 2))/2 and (4 − 1.5·(3 − 2))/2
    assert share(np.array([[2.0, 4.0]]), np.array([[1.0, 3.0]])).tolist() == [[1.75, 1.25]]


def test_share_of_proportional_values_is_certain() -> None:
    start = rng().uniform(0.1, 1, (2, 6))
    assert share(0.3 * start, start) == pytest.approx(0.3)


def test_share_has_the_standard_error_of_the_jackknife() -> None:
    n = 400
    start = rng().uniform(0.5, 1.5, n)
    values = 0.4 * start + np.random.default_rng(8).normal(0, 0.2, n)
    left_out = np.array([np.delete(values, i).mean() / np.delete(start, i).mean() for i in range(n)])
    jackknife = math.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    linearised = share(values[None], start[None])[0]
    assert linearised.mean() == pytest.approx(values.mean() / start.mean())
    assert linearised.std(ddof=1) / math.sqrt(n) == pytest.approx(jackknife, rel=0.01)


def test_sign_flip_is_the_permutation_test_of_scipy() -> None:
    d = rng().normal(0.4, 1, 9)
    expected = stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=2**9).pvalue
    assert sign_flip(d, rng()) == pytest.approx(expected)


def test_sign_flip_counts_ties_whatever_their_rounding() -> None:
    assert sign_flip([0.1] * 10, rng()) == 2 / 1024
    assert sign_flip([0.1, 0.2, -0.3], rng()) == 1.0
    assert math.isnan(sign_flip([0.3], rng()))


def test_sign_flip_of_many_prompts_is_sampled() -> None:
    d = np.ones(40)  # of 2⁴⁰ patterns two are as extreme: none is drawn
    assert sign_flip(d, rng(), resamples=199) == 1 / 200
    d = rng().normal(0.3, 1, 20)
    assert sign_flip(d, rng()) == sign_flip(d, rng())
    assert sign_flip(d, rng()) == pytest.approx(2 * stdtr(19, -abs(d.mean() / stats.sem(d))), abs=0.02)


def test_sign_flip_keeps_its_size() -> None:
    generator = np.random.default_rng(5)
    p = np.array([sign_flip(generator.standard_t(4, 16), generator, resamples=199) for _ in range(600)])
    assert 0.03 < (p <= 0.05).mean() < 0.075  # standard error .009


def test_holm_by_hand() -> None:
    # sorted .005 .01 .03 .04 × 4 3 2 1 = .02 .03 .06 .04, then never falling
    assert holm([0.01, 0.04, np.nan, 0.03, 0.005]) == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0]
    assert np.isnan(holm([np.nan])).all()


def test_rounding_is_no_difference() -> None:
    dust = np.array([5.6e-17, 1.1e-16, 5.6e-17] * 11)  # of values near 1: all of one sign, and none of it real
    assert sign_flip(dust, rng()) == 1e-4
    d = without_dust(dust, scale=1.0)
    oracle = stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=999, rng=rng())
    assert sign_flip(d, rng()) == oracle.pvalue == 1.0
    small = 1e-9 * rng().normal(1, 1, 10)  # small differences of small values stay what they are
    assert without_dust(small, scale=1e-6).tolist() == small.tolist()
