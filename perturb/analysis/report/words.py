"""What every verdict is made of: its parts, and numbers in words."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from perturb.analysis.result import Result
from perturb.analysis.statistics.estimates import Estimate
from perturb.analysis.table import number


@dataclass(frozen=True)
class Figure:
    """One number of the first screen: what it is, how much, and beneath it how sure."""

    what: str
    value: str
    detail: str


@dataclass(frozen=True)
class Verdict:
    """``headline`` answers in one sentence, ``sentences`` give the numbers, ``figures`` show them large."""

    headline: str
    sentences: tuple[str, ...]
    figures: tuple[Figure, ...]
    cautions: tuple[str, ...]


def between(estimate: Estimate, digits: int, sign: str = "+") -> str:
    """``−0.034 to −0.011``; a point where there is no interval."""
    if math.isnan(estimate.half_width):
        return "no interval"
    return f"{number(estimate.low, digits, sign)} to {number(estimate.high, digits, sign)}"


def absent(runs: tuple[Result, ...]) -> Iterator[str]:
    """What is missing, failed or unavailable, counted."""
    counts = [result.counts for result in runs]
    missing, failed = sum(c.missing for c in counts), sum(c.failed for c in counts)
    if missing or failed:
        yield f"{missing} values are missing and {failed} failed, of {sum(c.expected for c in counts)}."
    names = sorted({m.name for r in runs for m in r.measures if not r.levels[m.name].measured})
    if names:
        listed = ", ".join(name.replace("_", " ") for name in names)
        yield f"Unavailable, so not measured: {listed}. The reasons are listed with the metrics."


def capital(text: str) -> str:
    """The first letter large, the others as they are."""
    return text[0].upper() + text[1:]
