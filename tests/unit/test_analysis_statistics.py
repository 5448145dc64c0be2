"""Means, intervals and paired changes against values worked out by hand."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from perturb.analysis.statistics.estimates import (
    Estimate,
    change_curve,
    changes,
    level_curve,
    mean_interval,
    trajectories,
    typical_and_most_changed,
)
from perturb.store.records import SCORE_COLUMNS


def frame(values: Mapping[tuple[int, str, int], float | None], metric: str = "m") -> pd.DataFrame:
    """Scores of one run from {(step, prompt, seed): value}; None is a failed value."""
    rows = [
        (
            "r",
            "full",
            "spatial",
            0,
            str(step),
            prompt,
            seed,
            metric,
            value,
            "failed" if value is None else "ok",
            "",
            step,
        )
        for (step, prompt, seed), value in values.items()
    ]
    return pd.DataFrame(rows, columns=[*SCORE_COLUMNS, "step"]).astype({"value": float})


def test_interval_is_that_of_scipy() -> None:
    x = np.random.default_rng(1).normal(3, 2, 17)
    low, high = stats.t.interval(0.95, len(x) - 1, loc=x.mean(), scale=stats.sem(x))
    estimate = mean_interval(x)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), rel=1e-12)
    assert estimate.n == 17


def test_interval_of_few_values() -> None:
    one, none = mean_interval([4.0, np.nan]), mean_interval([])
    assert (one.mean, one.n) == (4.0, 1)
    assert math.isnan(one.half_width)
    assert math.isnan(none.mean)
    assert none.n == 0
    assert mean_interval([2.0, 2.0]).half_width == 0.0


def test_excludes_zero() -> None:
    assert Estimate(-0.5, 0.4, 3).excludes_zero
    assert Estimate(0.5, 0.4, 3).excludes_zero
    assert not Estimate(0.5, 0.6, 3).excludes_zero
    assert not Estimate(0.5, math.nan, 1).excludes_zero


def test_noise_seeds_are_averaged_before_prompts() -> None:
    # prompt means 2 and 8: mean 5, s = 3√2, half-width t(.975, 1)·s/√2 = 12.7062·3; pooling the clips would give 4
    scores = frame({(0, "a", 0): 1.0, (0, "a", 1): 2.0, (0, "a", 2): 3.0, (0, "b", 0): 8.0})
    estimate = level_curve(scores, "m").at(0)
    assert estimate.mean == 5.0
    assert estimate.n == 2
    assert estimate.half_width == pytest.approx(38.1186, abs=1e-4)


def test_duplicating_noises_does_not_narrow_the_interval() -> None:
    values = {(0, prompt, 0): value for prompt, value in zip("abcd", (1.0, 2.0, 4.0, 7.0), strict=True)}
    twice = values | {(step, prompt, 1): value for (step, prompt, _), value in values.items()}
    assert level_curve(frame(twice), "m") == level_curve(frame(values), "m")


def test_change_is_paired_by_prompt_and_noise() -> None:
    # the levels differ by 100 between prompts, the changes are exactly −1 and −3: mean −2 ± t(.975, 1)·√2/√2
    scores = frame({(0, "a", 0): 5.0, (0, "b", 0): 105.0, (50, "a", 0): 4.0, (50, "b", 0): 102.0})
    curve = change_curve(scores, "m")
    assert curve.points == (0, 50)
    assert (curve.at(0).mean, curve.at(0).half_width) == (0.0, 0.0)
    assert curve.at(50).mean == -2.0
    assert curve.at(50).half_width == pytest.approx(12.7062, abs=1e-4)


def test_incomplete_pairs_are_left_out_of_the_change_and_not_of_the_level() -> None:
    scores = frame(
        {(0, "a", 0): 1.0, (0, "b", 0): None, (0, "c", 0): 3.0, (9, "a", 0): 2.0, (9, "b", 0): 9.0, (9, "c", 0): None}
    )
    assert level_curve(scores, "m").at(9) == mean_interval([2.0, 9.0])
    assert change_curve(scores, "m").at(9).n == 1
    assert change_curve(scores, "m").at(9).mean == 1.0


def test_a_metric_without_values_has_an_empty_curve_over_all_steps() -> None:
    scores = pd.concat([frame({(0, "a", 0): 1.0, (7, "a", 0): 1.0}), frame({(0, "a", 0): None}, metric="absent")])
    curve = level_curve(scores, "absent")
    assert not curve.measured
    assert curve.points == (0, 7)
    assert curve.at(7).n == 0
    assert not change_curve(scores, "absent").measured


def test_trajectories_of_two_runs_are_refused() -> None:
    scores = frame({(0, "a", 0): 1.0})
    with pytest.raises(AssertionError, match="one run"):
        trajectories(pd.concat([scores, scores.assign(run_id="other")]), "m")


def test_typical_and_most_changed() -> None:
    shifts = {"a": -0.1, "b": -0.9, "c": -0.4, "d": 0.3, "e": -0.5}
    scores = frame({(0, p, 2): 1.0 for p in shifts} | {(9, p, 2): 1 + shift for p, shift in shifts.items()})
    last = changes(scores, "m").iloc[:, -1]
    assert typical_and_most_changed(last) == {"typical": ("c", 2), "most changed": ("b", 2)}
    assert typical_and_most_changed(last.iloc[:1]) == {"typical": ("a", 2)}
    assert typical_and_most_changed(last.iloc[:0]) == {}
