"""How often the interval of a win rate covers, and how often it excludes one half; experiments/votes has the result.

vote of rater r on prompt p:  1 where μ + σ_p u_p + σ_r v_r + ε > 0,  u, v, ε standard normal

python -m tests.unit.test_analysis_votes_power > experiments/votes/power.csv
"""

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from perturb.analysis.votes.crossed import win_rate

STUDIES = 1000
PREFERENCES = (0.5, 0.6, 0.65, 0.73, 0.87)
"""Of the paper: .87 for space, .73 for time."""
RATERS, PROMPTS = (5, 10, 20), (16, 32, 64)
SPREAD = {"prompts": 0.8, "raters": 0.4}
"""Standard deviations beside ε's 1: a guess, since no votes are published; prompts differ more than raters."""
MISSING = 0.1
COMMITTED = Path(__file__).parents[2] / "experiments" / "votes" / "power.csv"


def rates(preference: float, raters: int, prompts: int, studies: int = STUDIES) -> dict[str, float]:
    """Shares of studies; one without an interval neither covers nor detects."""
    rng = np.random.default_rng(0)
    middle = norm.ppf(preference) * (1 + SPREAD["prompts"] ** 2 + SPREAD["raters"] ** 2) ** 0.5
    covers, detects, width = [], [], []
    for _ in range(studies):
        z = middle + SPREAD["prompts"] * rng.normal(size=(prompts, 1)) + SPREAD["raters"] * rng.normal(size=raters)
        x = (z + rng.normal(size=z.shape) > 0).astype(float)
        x[rng.random(x.shape) < MISSING] = np.nan
        found = win_rate(x).interval
        covers.append(found.low <= preference <= found.high)
        detects.append(found.low > 0.5 or found.high < 0.5)
        width.append((found.high - found.low) / 2)
    return {
        "covers": float(np.mean(covers)),
        "excludes_half": float(np.mean(detects)),
        "half_width": round(float(np.nanmean(width)), 3),
    }


def table() -> pd.DataFrame:
    """A row per preference, number of raters and number of prompts."""
    grid = product(PREFERENCES, RATERS, PROMPTS)
    return pd.DataFrame({"preference": w, "raters": r, "prompts": p} | rates(w, r, p) for w, r, p in grid)


def test_committed_table_holds_what_the_documentation_says() -> None:
    known = pd.read_csv(COMMITTED)
    assert len(known) == len(PREFERENCES) * len(RATERS) * len(PROMPTS)
    assert known.covers.between(0.93, 1).all()
    assert (known.excludes_half[known.preference == 0.5] <= 0.06).all()
    ten = known[(known.raters == 10) & (known.prompts == 32)].set_index("preference").excludes_half
    assert ten[0.73] > 0.8
    assert ten[0.6] < 0.5


def test_tables_of_the_note_are_the_committed_numbers() -> None:
    known = pd.read_csv(COMMITTED).set_index(["preference", "raters", "prompts"])
    note = (COMMITTED.parent / "README.md").read_text(encoding="utf-8")
    for r, p in product(RATERS, PROMPTS):
        power = " | ".join(f"{100 * known.excludes_half[w, r, p]:.0f}" for w in PREFERENCES[1:])
        assert f"| {r} × {p} | {power} |" in note
    low, high = known.covers.min(), known.covers.max()
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in note
    size = known.excludes_half[0.5]
    assert f"{100 * size.min():.1f} to {100 * size.max():.1f} %" in note


@pytest.mark.slow
def test_coverage_and_power_are_as_committed() -> None:
    pd.testing.assert_frame_equal(table(), pd.read_csv(COMMITTED), rtol=1e-6)


if __name__ == "__main__":
    table().to_csv(sys.stdout, index=False)
