"""Which test a difference gets: sign flips where its two sides are exchangeable under the null, Student's t elsewhere.

Twins under one perturbation are exchangeable if they do not differ: each prompt's difference could as well have the
other sign. An interaction, the effect of a part and LoRA − random are not: nothing says that they are symmetric about
0.
"""

from dataclasses import dataclass

import numpy as np

from perturb.analysis.statistics.crossed import student_p
from perturb.analysis.statistics.resampling import Floats, sign_flip

SIGN_FLIP, STUDENT = "sign flip", "t"
SEED = 0
"""Of the sign flips. Every test draws its own, so that a number does not depend on what else is compared."""
SKEWED = 1.0
"""|g₁| above it is highly skewed. Source: Bulmer, Principles of Statistics, 1979, p. 63. On such differences, with 8 to
32 prompts, sign flips reject a true null at 5 % in .13 to .34 of cases; .04 to .06 on symmetric ones. Source:
simulation, experiments/statistics."""


@dataclass(frozen=True)
class PairedTest:
    """``name`` of the test · its two-sided ``p`` · ``skewed``: a sign flip whose p is too small for its differences."""

    name: str
    p: float
    skewed: bool

    @staticmethod
    def of(values: Floats, rng: np.random.Generator, *, exchangeable: bool) -> "PairedTest":
        """Of differences s p: sign flips over prompts, or t over prompts × LoRA seeds (`crossed.student_p`)."""
        if not exchangeable:
            return PairedTest(STUDENT, student_p(values), False)
        by_prompt = values.mean(axis=0)
        return PairedTest(SIGN_FLIP, sign_flip(by_prompt, rng), abs(skewness(by_prompt)) > SKEWED)

    @property
    def columns(self) -> dict[str, str | float | bool]:
        """Of a csv."""
        return {"test": self.name, "p": self.p, "skewed": self.skewed}


def skewness(values: Floats) -> float:
    """g₁ = m₃/m₂^1.5 of a sample, 0 without spread.

    >>> skewness(np.array([0.0, 0.0, 0.0, 1.0])).__round__(4)  # m₂ 3/16, m₃ 3/32
    1.1547
    """
    apart = values - values.mean()
    m2 = (apart**2).mean()
    return float((apart**3).mean() / m2**1.5) if m2 > 0 else 0.0
