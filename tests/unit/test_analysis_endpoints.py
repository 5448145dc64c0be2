"""The declared endpoints on numbers that can be computed by hand, and the gates before a verdict."""

import dataclasses

import numpy as np
import pytest

from perturb.analysis.statistics.endpoints import (
    Horizon,
    PairEndpoints,
    Path,
    along,
    decide,
    horizon,
    kept,
    mixed,
)

X = (0.0, 100.0, 300.0)
RETENTION = np.array([1.0, 0.8, 0.6])
DONE = Horizon(2, True)
rng = np.random.default_rng(0)


def path(start: float, retention: np.ndarray, jerk: float = 0.1, end: Horizon = DONE, spread: float = 0.02) -> Path:
    """2 LoRA seeds × 16 prompts that keep ``retention``, with noise of its own."""
    noise = spread * rng.standard_normal((2, 16, 3)) * (np.arange(3) > 0)
    quality = start * (1 + 0.1 * np.linspace(-1, 1, 16))[None, :, None] * (retention + noise)
    steps = np.array([0.0, 0.5, 1.0]) * jerk
    return Path(quality, 0.3 + steps + spread * rng.random((2, 16, 3)) * steps, X, end)


def pair(full: np.ndarray, partial: np.ndarray, *, steady: bool = True, end: Horizon = DONE) -> PairEndpoints:
    one, other = (0.05, 0.2) if steady else (0.2, 0.05)
    return PairEndpoints.of(path(0.42, full, one, end), path(0.35, partial, other, end))


def test_what_is_kept_along_the_path_by_hand():
    # shares of the summed start .6: 1, .5, 0 at x 0, 1, 3: (0.75 · 1 + 0.25 · 2)/3
    values = np.array([[[0.4, 0.3, 0.0], [0.2, 0.0, 0.0]]])
    assert kept(values, [0, 1, 3], 2).mean() == pytest.approx((0.75 * 1 + 0.25 * 2) / 3)
    assert kept(values, [0, 1, 3], 1).mean() == pytest.approx(0.75)
    assert along(values, [0, 1, 3], 1)[0].tolist() == pytest.approx([0.35, 0.1])


def test_a_start_does_not_move_what_is_kept():
    values = rng.random((2, 5, 3)) + 0.1
    assert kept(7.0 * values, X, 2) == pytest.approx(kept(values, X, 2))
    stretched = kept(values, [50 * x for x in X], 2)
    assert stretched == pytest.approx(kept(values, X, 2))


def test_the_horizon_is_the_first_state_that_has_learned_the_images():
    assert horizon([1.4, 3.0, 1.5, 1.0], 1.0, range(4)) == Horizon(2, True)  # not state 0, whatever its loss
    assert horizon([5.0, 3.0, 1.6], 1.0, range(3)) == Horizon(2, False)
    assert horizon([5.0, np.nan, 1.0], 1.0, range(3)) == Horizon(2, None)
    assert horizon([5.0, 1.0], None, range(2)) == Horizon(1, None)


@pytest.mark.parametrize(
    ("losses", "x", "flat"),
    [
        ([9.0, 4.2, 4.0], [0, 2, 4], True),  # 4 % of the fall
        ([9.0, 4.3, 4.0], [0, 2, 4], False),  # 6 %
        ([9.0, 4.01, 4.0], [0, 3, 4], False),  # what was lost by half of the fit is not known
        ([9.0, 4.0], [0, 4], False),
        ([9.0, 4.0, 4.2], [0, 2, 4], False),  # it rises
        ([4.0, 9.0, 9.0], [0, 2, 4], False),  # further from D_I than at the start
        ([9.0, 4.2, 4.1, 4.0], [10, 12, 13, 14], True),
    ],
)
def test_a_fit_whose_second_half_brings_nearly_nothing_is_flat(losses: list[float], x: list[int], flat: bool):
    assert horizon(losses, 1.0, x) == Horizon(len(x) - 1, flat)


def test_five_pairs_that_agree_give_a_verdict_and_the_sign_turns_with_the_sides():
    better, worse = RETENTION, RETENTION**2
    found = decide([pair(better, worse) for _ in range(5)])
    assert (found.kind, found.pairs, found.converged) == ("full", 5, True)
    # trapz of 1, .8, .6 and of 1, .64, .36 over 0, 100, 300
    expected = (0.9 * 100 + 0.7 * 200) / 300 - (0.82 * 100 + 0.5 * 200) / 300
    assert found.difference.mean == pytest.approx(expected, abs=0.01)
    assert found.superiority is not None
    assert found.superiority.mean == 1.0
    turned = decide([pair(worse, better, steady=False) for _ in range(5)])
    assert turned.kind == "partial"
    assert turned.difference.mean == pytest.approx(-expected, abs=0.01)


def test_one_pair_gives_numbers_and_no_verdict():
    found = decide([pair(RETENTION, RETENTION**2)])
    assert found.kind == "one pair"
    assert found.difference.excludes_zero


def test_where_both_keep_less_than_a_fifth_the_verdict_is_the_floor():
    low = np.array([1.0, 0.05, 0.03])
    assert decide([pair(low, low * 0.9) for _ in range(5)]).kind == "floor"
    # along the path they keep more, but both end surely below a fifth
    late = np.array([1.0, 0.9, 0.1])
    assert decide([pair(late, late) for _ in range(5)]).kind == "floor"


def test_where_both_lose_nothing_the_verdict_is_the_ceiling():
    most, less = np.array([1.0, 0.99, 0.98]), np.array([1.0, 0.98, 0.96])
    assert decide([pair(most, less) for _ in range(5)]).kind == "ceiling"
    assert decide([pair(most, RETENTION) for _ in range(5)]).kind == "full"  # one of them loses
    # in most pairs motion is lost
    assert decide([pair(most, less), *(pair(RETENTION, RETENTION**2) for _ in range(2))]).kind != "ceiling"


def test_endpoints_that_disagree_give_no_verdict_nor_does_a_fit_that_has_not_converged():
    apart = [pair(RETENTION, RETENTION**2, steady=False) for _ in range(5)]
    assert decide(apart).kind == "endpoints"
    early = [pair(RETENTION, RETENTION**2, end=Horizon(2, False)) for _ in range(5)]
    assert (decide(early).kind, decide(early).converged) == ("not converged", False)
    unknown = [pair(RETENTION, RETENTION**2, end=Horizon(2, None)) for _ in range(5)]
    assert (decide(unknown).kind, decide(unknown).converged) == ("not converged", None)


def test_a_pair_is_read_up_to_the_later_horizon_of_both():
    trough = np.array([1.0, 0.1, 0.5])
    # identical models, of which one has converged earlier: read to its own horizon it would keep another share
    early, late = path(0.4, trough, end=Horizon(1, True)), path(0.4, trough, end=Horizon(2, True))
    found = PairEndpoints.of(late, early)
    assert found.partial.mean() == pytest.approx(found.full.mean(), abs=0.02)
    assert abs(early.kept.mean() - late.kept.mean()) > 0.05
    assert found.converged is True


def test_equal_models_give_no_verdict_and_an_interval_around_zero():
    found = decide([pair(RETENTION, RETENTION) for _ in range(5)])
    assert found.kind in ("interval", "endpoints")
    assert abs(found.difference.mean) < 0.02


def test_the_mixed_model_has_the_mean_over_pairs_and_says_why_it_has_none():
    pairs = [pair(RETENTION, RETENTION**2) for _ in range(3)]
    found = mixed(pairs)
    assert found.estimate.mean == pytest.approx(decide(pairs).difference.mean, abs=1e-3)
    assert "one pair" in mixed(pairs[:1]).reason
    alone = [dataclasses.replace(each, full=each.full[:1], partial=each.partial[:1]) for each in pairs]
    assert mixed(alone).estimate.mean == pytest.approx(decide(alone).difference.mean, abs=1e-3)  # one LoRA seed each
