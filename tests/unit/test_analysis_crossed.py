"""The interval over prompts × LoRA seeds by hand, which test a difference gets, and, simulated, what both are worth."""

import math

import numpy as np
import pytest
from scipy import stats

from perturb.analysis.statistics.contrast import Nested
from perturb.analysis.statistics.crossed import crossed_error, crossed_interval, student_p
from perturb.analysis.statistics.estimates import mean_interval
from perturb.analysis.statistics.resampling import sign_flip
from perturb.analysis.statistics.significance import SIGN_FLIP, STUDENT, PairedTest, skewness

BY_HAND = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 8.0]])
"""Two LoRA seeds, three prompts: mean 3.5; MS over prompts 6.5, over seeds 13.5, residual 1.5."""


def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def test_two_way_by_hand() -> None:
    error, df = crossed_error(BY_HAND)
    assert error == pytest.approx(math.sqrt((6.5 + 13.5 - 1.5) / 6))
    assert df == pytest.approx(18.5**2 / (6.5**2 / 2 + 13.5**2 / 1 + 1.5**2 / 2))
    found = crossed_interval(BY_HAND)
    assert (found.mean, found.n) == (3.5, 3)
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, df) * error)
    assert student_p(BY_HAND) == pytest.approx(2 * stats.t.sf(3.5 / error, df))


def test_seeds_that_agree_leave_the_interval_over_prompts() -> None:
    x = np.tile(rng().normal(1, 1, 12), (3, 1))
    assert crossed_interval(x).half_width == pytest.approx(mean_interval(x[0]).half_width)
    assert student_p(x) == pytest.approx(float(np.asarray(stats.ttest_1samp(x[0], 0))[1]))
    assert crossed_interval(x.T).half_width == pytest.approx(mean_interval(x[0]).half_width)


def test_a_component_below_zero_counts_as_zero() -> None:
    x = np.array([[0.0, 1.0, 2.0, 5.0], [1.0, 0.0, 3.0, 4.0]])  # seeds agree better than their noise: MS_s 0
    one_way = mean_interval(x.mean(axis=0))
    assert crossed_interval(x).half_width == pytest.approx(one_way.half_width)
    assert Nested.of(x).over_both == crossed_interval(x)


def test_one_seed_or_one_prompt_leaves_the_other_way() -> None:
    d = rng().normal(0.5, 1, 9)
    assert crossed_interval(d[None]).half_width == pytest.approx(mean_interval(d).half_width)
    assert crossed_interval(d[:, None]).half_width == pytest.approx(mean_interval(d).half_width)
    assert crossed_interval(d[:, None]).n == 1
    assert math.isnan(crossed_interval(np.array([[1.0]])).half_width)
    assert math.isnan(student_p(np.array([[1.0]])))
    assert crossed_interval(np.empty((0, 0))).n == 0


def test_without_spread_there_is_a_point_and_no_t() -> None:
    assert crossed_interval(np.full((3, 4), 0.5)).half_width == 0
    assert math.isnan(student_p(np.full((3, 4), 0.5)))


def test_only_what_can_be_swapped_has_its_signs_flipped() -> None:
    d = rng().normal(0.4, 1, (3, 10))
    twins, control = (PairedTest.of(d, rng(), exchangeable=swap) for swap in (True, False))
    assert (twins.name, twins.p) == (SIGN_FLIP, sign_flip(d.mean(axis=0), rng()))
    assert (control.name, control.p) == (STUDENT, student_p(d))


def test_p_of_skewed_differences_is_marked() -> None:
    assert skewness(rng().exponential(1, 500)) == pytest.approx(float(stats.skew(rng().exponential(1, 500))))
    rare = np.array([[0.0] * 13 + [0.2, 0.3, 0.9]])
    marked, plain = (PairedTest.of(d, rng(), exchangeable=True) for d in (rare, np.arange(16.0)[None] - 3))
    assert (marked.skewed, plain.skewed) == (True, False)
    assert marked.p == pytest.approx(0.25, abs=0.02)  # three that are not 0: 2 of 8 patterns, sampled
    assert not PairedTest.of(rare, rng(), exchangeable=False).skewed


@pytest.mark.slow
def test_the_two_way_interval_covers_other_prompts_and_other_loras() -> None:
    """2000 studies of 32 prompts × 3 LoRA seeds, both random; seeds a fifth of what prompts are."""
    generator, hits = rng(), []
    for _ in range(2000):
        prompt, seed = generator.standard_normal((1, 32)), generator.standard_normal((3, 1)) / 5
        x = Nested.of(prompt + seed + generator.standard_normal((3, 32)))
        hits.append([abs(e.mean) <= e.half_width for e in (x.over_both, x.over_prompts, x.over_seeds)])
    both, prompts, seeds = np.mean(hits, axis=0)
    print(f"two-way {both:.3f}, over prompts {prompts:.3f}, over seeds {seeds:.3f}")
    assert 0.93 <= both <= 0.97  # standard error .005
    assert max(prompts, seeds) < 0.93


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 16, 32])
def test_sign_flips_reject_too_often_where_differences_are_skewed(n: int) -> None:
    """Why p is marked: the true mean is 0, and lognormal differences, or 80 % zeros, have few of one sign."""
    generator, sizes = rng(), {}
    laws = {
        "lognormal": lambda: generator.lognormal(0, 1, n) - math.exp(0.5),
        "normal": lambda: generator.standard_normal(n),
    }
    for name, draw in laws.items():
        p = [sign_flip(draw(), generator, 999) for _ in range(1500)]
        sizes[name] = float(np.mean(np.array(p) <= 0.05))
    print(n, sizes)
    assert sizes["normal"] < 0.065
    assert sizes["lognormal"] > 0.10
