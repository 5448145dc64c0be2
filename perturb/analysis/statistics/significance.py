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
SKEWED = 1.0
"""|g₁| above it is highly skewed. Source: Bulmer, Principles of Statistics, 1979, p. 63."""
SIZE_IF_SKEWED = ".13–.34"
"""How often the sign flip rejects a true null at 5 % on lognormal differences, and where 80 % are 0 and the others
skewed, with 8 to 32 prompts; .04–.06 on symmetric ones. Source: simulation, experiments/statistics."""


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

    def printed(self, p: float) -> str:
        """A p of this test, ``~`` before it where the differences are skewed; – where there is none.

        >>> PairedTest(SIGN_FLIP, 0.0301, skewed=True).printed(0.0602)
        '~0.0602'
        """
        return "–" if np.isnan(p) else f"{'~' if self.skewed else ''}{p:.4f}"


def skewness(values: Floats) -> float:
    """g₁ = m₃/m₂^1.5 of a sample, 0 without spread.

    >>> skewness(np.array([0.0, 0.0, 0.0, 1.0])).__round__(4)  # m₂ 3/16, m₃ 3/32
    1.1547
    """
    apart = values - values.mean()
    m2 = (apart**2).mean()
    return float((apart**3).mean() / m2**1.5) if m2 > 0 else 0.0


FOOTNOTE = (
    "p of full − partial: sign flips over prompts; of all else Student's t over prompts × LoRA seeds. "
    f"~: skewed differences (|g₁| > {SKEWED:g}), on which sign flips reject a true null in {SIZE_IF_SKEWED} of cases."
)
