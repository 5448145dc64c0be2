"""The long-run behaviour of the statistics where there is no effect, measured; experiments/statistics has the result.

    Y[s, p, k] = a_p + b_p x_k + c_s x_k + e[s, p, k]      heavy-tailed prompts, LoRA seeds, noise of clips

Both models are drawn from one law and share a_p and b_p, as twins share prompts and noises; the true contrast is 0.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from perturb.analysis.statistics.aggregates import change, improvement
from perturb.analysis.statistics.contrast import READINGS, Trajectories, contrast
from perturb.analysis.statistics.resampling import max_t

PROMPTS, STEPS = 32, (0, 20, 50, 100, 200, 300)
STUDIES = 2000


def twins(rng: np.random.Generator, *, seeds: int, spread: float) -> Iterator[Trajectories]:
    """Two cells without a difference; ``spread``: standard deviation of the slope between LoRA seeds, per 100 steps."""
    x = np.array(STEPS) / 100
    start, slope = 0.4 + 0.03 * rng.standard_t(4, PROMPTS), -0.08 + 0.02 * rng.standard_t(4, PROMPTS)
    shared = start[:, None] + slope[:, None] * x
    for _ in range(2):
        own = 0.03 * rng.standard_t(4, (PROMPTS, 1)) * x  # how a prompt fares in this model, in all its LoRAs
        lora = spread * rng.standard_normal((seeds, 1, 1)) * x
        noise = 0.05 * rng.standard_t(4, (seeds, PROMPTS, len(STEPS)))
        yield Trajectories(
            values=shared + own + lora + noise,
            prompts=tuple(f"p{i:03d}" for i in range(PROMPTS)),
            steps=STEPS,
            dose=np.tile(0.0003 * np.array(STEPS), (seeds, 1)),
            seeds=tuple(range(seeds)),
        )


def at_end(cell: Trajectories) -> Trajectories:
    return dataclasses.replace(cell, values=cell.values[:, :, -1:], steps=STEPS[-1:])


def rates(*, seeds: int, spread: float) -> dict[str, float]:
    """How often, over `STUDIES` simulated studies: an interval holds the truth, a test rejects it."""
    rng, hits = np.random.default_rng(0), []
    for _ in range(STUDIES):
        first, second = twins(rng, seeds=seeds, spread=spread)
        found = contrast(first, second, READINGS[0], rng, exchangeable=True)
        both = found.difference.over_both
        prompts, across = found.difference.over_prompts, found.difference.over_seeds
        d = change(first).by_prompt(first.complete) - change(second).by_prompt(second.complete)
        by_prompt = d.mean(axis=0)
        band = max_t(by_prompt, rng, 999)
        t = by_prompt[:, 1:].mean(axis=0) / by_prompt[:, 1:].std(axis=0, ddof=1) * PROMPTS**0.5
        ahead = improvement(at_end(first), at_end(second), rng)[0].interval
        hits.append(
            {
                "two-way interval": not both.excludes_zero,
                "t over prompts": not prompts.excludes_zero,
                "studentised bootstrap over prompts": found.bootstrap.low <= 0 <= found.bootstrap.high,
                "t over LoRA seeds": not across.excludes_zero if seeds > 1 else np.nan,
                "probability of improvement (percentile)": ahead.low <= 0.5 <= ahead.high,
                "band over steps": bool((np.abs(t) <= band.critical).all()),
                "sign flip rejects": found.test.p <= 0.05,
                "band test rejects at any step": bool((band.p[1:] <= 0.05).any()),
            }
        )
    return {name: float(np.mean([hit[name] for hit in hits])) for name in hits[0]}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_intervals_cover_and_tests_keep_their_size_with_32_prompts() -> None:
    """The claim over prompts, about these LoRAs: LoRA seeds do not differ."""
    found = rates(seeds=1, spread=0.0)
    print(found)
    for name in ("t over prompts", "studentised bootstrap over prompts", "band over steps"):
        assert 0.92 <= found[name] <= 0.98, name
    assert 0.92 <= found["probability of improvement (percentile)"] <= 0.98
    assert 0.035 <= found["sign flip rejects"] <= 0.065  # standard error .005
    assert 0.03 <= found["band test rejects at any step"] <= 0.07


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_interval_over_both_covers_other_loras_and_that_over_prompts_does_not() -> None:
    """LoRA seeds that differ by .02 per 100 steps: three of them, two degrees of freedom."""
    found = rates(seeds=3, spread=0.02)
    print(found)
    assert 0.92 <= found["two-way interval"] <= 0.97  # three seeds that outweigh the prompts
    assert 0.92 <= found["t over LoRA seeds"] <= 0.98
    assert found["t over prompts"] < 0.85  # what the report warns of
