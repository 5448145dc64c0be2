"""Readings, pairing, intervals and tests of a contrast, against values worked out by hand and against scipy."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import stdtr

from perturb.analysis.statistics.contrast import (
    READINGS,
    Nested,
    Reading,
    Trajectories,
    contrast,
    holm,
    levels,
    read,
    share,
    weights,
)
from perturb.analysis.statistics.resampling import sign_flip

SLOPE, SLOPE_SHARE, DOSE, DOSE_SHARE, AREA, AREA_SHARE = READINGS


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def made(values: np.ndarray, *, noises: int = 1, dose: float = 0.01) -> Trajectories:
    """s m k at the steps 0, 100, 200; the noises of a prompt beside each other; ‖Δ‖/‖θ‖ grows by ``dose`` per step."""
    s, m, k = values.shape
    prompts = tuple(f"p{i // noises}" for i in range(m))
    return Trajectories(values, prompts, (0, 100, 200), np.tile(dose * np.arange(k), (s, 1)), tuple(range(s)))


def lines(slopes: list[list[float]], start: float = 1.0) -> Trajectories:
    """Straight lines with these slopes per 100 steps, by seed and prompt."""
    return made(start + np.array(slopes)[:, :, None] * np.arange(3.0))


def test_slope_is_that_of_a_fitted_line() -> None:
    x = np.array([0.0, 20, 50, 100, 200, 300])
    y = rng().normal(size=6)
    assert weights(x, "slope") @ y == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-10)


def test_area_is_the_mean_change_under_the_trapezoids() -> None:
    # from 5 down to 3 by step 20 (mean change −1), on to 4 by step 100 (mean change −1.5): (−1·20 − 1.5·80)/100
    assert weights([0, 20, 100], "area") @ np.array([5.0, 3.0, 4.0]) == pytest.approx(-1.4)


def test_readings_have_the_unit_they_name() -> None:
    # falls by 0.2 from 0.8 in 100 steps, and in 2 % of ‖Δ‖/‖θ‖
    one = made(np.array([[[0.8, 0.6, 0.4]]]), dose=0.02)
    found = [read(one, reading, one.complete)[0, 0] for reading in READINGS]
    assert found == pytest.approx([-0.2, -0.25, -0.1, -0.125, -0.2, -0.25])


def test_every_seed_is_read_over_its_own_dose() -> None:
    one = dataclasses.replace(lines([[-0.2], [-0.2]]), dose=np.array([[0, 0.01, 0.02], [0, 0.04, 0.08]]))
    assert read(one, DOSE, one.complete)[:, 0] == pytest.approx([-0.2, -0.05])


def test_intervals_over_prompts_and_over_seeds() -> None:
    # d = first − second, seeds × prompts: [[-.1, -.2, -.3], [-.3, -.4, -.5]]
    first = lines([[-0.2, -0.3, -0.4], [-0.4, -0.5, -0.6]])
    second = lines([[-0.1, -0.1, -0.1], [-0.1, -0.1, -0.1]])
    found = contrast(first, second, SLOPE, rng(), exchangeable=True)
    assert (found.first, found.second) == pytest.approx((-0.4, -0.1))
    prompts, seeds = found.difference.over_prompts, found.difference.over_seeds
    assert (prompts.mean, prompts.n, seeds.mean, seeds.n) == pytest.approx((-0.3, 3, -0.3, 2))
    assert prompts.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)  # of −.2, −.3, −.4
    assert seeds.half_width == pytest.approx(12.706205 * 0.1, rel=1e-6)  # of −.2 and −.4: s/√2 = .1
    assert found.difference.spread == pytest.approx(0.1)
    assert found.test.p == 0.25  # three prompts of one sign: +++ and −−− of eight
    assert found.incomplete == 0


def test_three_seeds_have_two_degrees_of_freedom() -> None:
    first, second = lines([[0.1], [0.2], [0.6]]), lines([[0.0], [0.0], [0.0]])
    seeds = contrast(first, second, SLOPE, rng(), exchangeable=True).difference.over_seeds
    assert seeds.half_width == pytest.approx(4.302653 * math.sqrt(0.07 / 3), rel=1e-6)  # s² = (.2² + .1² + .3²)/2


def test_what_both_sides_share_does_not_count() -> None:
    first, second = made(rng().normal(size=(2, 5, 3))), made(np.random.default_rng(8).normal(size=(2, 5, 3)))
    shared = 100 * np.random.default_rng(9).normal(size=(2, 5, 3))
    moved, other = (dataclasses.replace(side, values=side.values + shared) for side in (first, second))
    plain, shifted = (
        contrast(first, second, SLOPE, rng(), exchangeable=True),
        contrast(moved, other, SLOPE, rng(), exchangeable=True),
    )
    assert shifted.difference.over_prompts.mean == pytest.approx(plain.difference.over_prompts.mean)
    assert shifted.difference.over_prompts.half_width == pytest.approx(plain.difference.over_prompts.half_width)
    assert shifted.difference.over_seeds.half_width == pytest.approx(plain.difference.over_seeds.half_width)
    assert shifted.test.p == plain.test.p


def test_noises_are_averaged_before_prompts() -> None:
    values, zero = rng().normal(size=(2, 4, 3)), np.zeros((2, 4, 3))
    once = contrast(made(values), made(zero), SLOPE, rng(), exchangeable=True)
    twice = contrast(
        made(values.repeat(2, 1), noises=2), made(zero.repeat(2, 1), noises=2), SLOPE, rng(), exchangeable=True
    )
    assert twice.difference.over_prompts.n == 4
    assert twice.difference.over_prompts.half_width == pytest.approx(once.difference.over_prompts.half_width)
    assert twice.test.p == once.test.p


def test_incomplete_pairs_are_counted_and_left_out_of_both_sides() -> None:
    first, second = lines([[-0.2, -0.3, -9.0], [-0.2, -0.3, -9.0]]), lines([[-0.1, -0.1, 5.0], [-0.1, -0.1, 5.0]])
    second.values[1, 2, 1] = np.nan  # one step of one seed of one side
    found = contrast(first, second, SLOPE, rng(), exchangeable=True)
    assert found.incomplete == 1
    assert (found.first, found.second) == pytest.approx((-0.25, -0.1))
    assert found.difference.over_prompts.n == 2


def test_nothing_measured() -> None:
    nothing = made(np.full((2, 3, 3), np.nan))
    found = contrast(nothing, nothing, SLOPE, rng(), exchangeable=True)
    assert (found.incomplete, found.difference.over_prompts.n) == (3, 0)
    assert math.isnan(found.difference.over_prompts.mean)
    assert math.isnan(found.test.p)
    assert not nothing.has_start


def test_unpaired_sides_are_refused() -> None:
    with pytest.raises(AssertionError, match="not paired"):
        contrast(lines([[1.0, 2.0]]), lines([[1.0]]), SLOPE, rng(), exchangeable=True)


def test_sides_that_differ_by_rounding_alone_do_not_differ() -> None:
    values = np.tile(rng().uniform(0.2, 1, (1, 20, 3)), (2, 1, 1))
    found = contrast(made(values), made(values * (1 + 2e-16) + 1e-17), SLOPE, rng(), exchangeable=True)
    assert (found.test.p, found.difference.over_prompts.mean, found.difference.over_prompts.half_width) == (
        1.0,
        0.0,
        0.0,
    )


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


def test_levels() -> None:
    one = made(np.array([[[1.0, 0.5, 0.1], [3.0, 0.7, 0.3], [np.nan, 9.0, 9.0]]]))
    raw, shares = levels(one, relative=False), levels(one, relative=True)
    assert [level.over_prompts.mean for level in raw] == pytest.approx([2.0, 0.6, 0.2])
    assert raw[1].over_prompts.half_width == pytest.approx(12.706205 * 0.1, rel=1e-6)  # of .5 and .7
    assert raw[0].over_prompts.n == 2
    assert [level.over_prompts.mean for level in shares] == pytest.approx([1.0, 0.3, 0.1])
    assert shares[0].over_prompts.half_width == 0.0


def test_a_start_that_may_be_zero_has_no_share() -> None:
    assert lines([[0.0, 0.0]], start=0.5).has_start
    assert not made(np.array([[[0.0, 1.0, 1.0], [0.1, 1.0, 1.0]]])).has_start
    assert made(np.array([[[0.04, 0.02, 0.01]]])).has_start  # one value for the whole set
    assert not made(np.array([[[0.0, 0.2, 0.3]]])).has_start


def test_standardised() -> None:
    plain = Nested.of(np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]))
    scaled = Nested.of(1000 * np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])).standardised
    assert scaled.over_prompts.mean == pytest.approx(plain.over_prompts.mean)  # its spread is 1
    assert scaled.over_seeds.half_width == pytest.approx(plain.over_seeds.half_width)


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


def test_units() -> None:
    assert Reading("slope", "step", "raw").unit == "per 100 steps"
    assert AREA_SHARE.unit == "mean change, share of start"
    assert len({reading.unit for reading in READINGS}) == len(READINGS)
