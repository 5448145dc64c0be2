"""The long-run behaviour of the statistics where there is no effect, measured; experiments/statistics has the result.

    Y[s, p, k] = a_p + b_p x_k + c_p x_k + d_s x_k + e[s, p, k]    heavy-tailed prompts, LoRA seeds, noise of clips

Both models are drawn from one law; they share a_p and b_p, which cancel, as twins share prompts and noises. The true
difference of their slopes is 0.
"""

import numpy as np
import pytest

from perturb.analysis.statistics.contrast import Nested, slope_weights
from perturb.analysis.statistics.resampling import Floats, sign_flip

PROMPTS, STEPS = 32, (0, 20, 50, 100, 200, 300)
STUDIES = 2000


def slopes(rng: np.random.Generator, *, seeds: int, spread: float) -> Floats:
    """s p: the difference of slopes of two cells without one; ``spread``: between LoRA seeds, per 100 steps."""
    x, both = np.array(STEPS) / 100, []
    for _ in range(2):
        own = 0.03 * rng.standard_t(4, (PROMPTS, 1)) * x  # how a prompt fares in this model, in all its LoRAs
        lora = spread * rng.standard_normal((seeds, 1, 1)) * x
        both.append(own + lora + 0.05 * rng.standard_t(4, (seeds, PROMPTS, len(STEPS))))
    return (both[0] - both[1]) @ slope_weights(x)


def rates(*, seeds: int, spread: float) -> dict[str, float]:
    """How often, over `STUDIES` simulated studies: an interval holds the truth, a test rejects it."""
    rng, hits = np.random.default_rng(0), []
    for _ in range(STUDIES):
        d = slopes(rng, seeds=seeds, spread=spread)
        found = Nested.of(d)
        hits.append(
            {
                "two-way interval": not found.over_both.excludes_zero,
                "t over prompts": not found.over_prompts.excludes_zero,
                "t over LoRA seeds": not found.over_seeds.excludes_zero if seeds > 1 else np.nan,
                "sign flip rejects": sign_flip(d.mean(axis=0), rng) <= 0.05,
            }
        )
    return {name: float(np.mean([hit[name] for hit in hits])) for name in hits[0]}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_intervals_cover_and_tests_keep_their_size_with_32_prompts() -> None:
    """The claim over prompts, about these LoRAs: LoRA seeds do not differ."""
    found = rates(seeds=1, spread=0.0)
    print(found)
    assert 0.92 <= found["t over prompts"] <= 0.98
    assert 0.035 <= found["sign flip rejects"] <= 0.065  # standard error .005


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_interval_over_both_covers_other_loras_and_that_over_prompts_does_not() -> None:
    """LoRA seeds that differ by .02 per 100 steps: three of them, two degrees of freedom."""
    found = rates(seeds=3, spread=0.02)
    print(found)
    assert 0.92 <= found["two-way interval"] <= 0.97  # three seeds that outweigh the prompts
    assert 0.92 <= found["t over LoRA seeds"] <= 0.98
    assert found["t over prompts"] < 0.85  # what the report warns of
