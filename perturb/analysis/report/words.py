"""What every verdict is made of: its parts, and numbers in words."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from perturb.analysis.coupling.comparisons import Comparison
from perturb.analysis.coupling.design import LORA
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


def contrast_in_words(comparison: Comparison) -> str:
    """``full − partial: spatial``; with controls ``… (random Δ)`` and ``LoRA − random: full, spatial``."""
    first, shared = comparison.first, comparison.columns
    if not shared["kind"]:
        return f"LoRA − random: {shared['training']}, {first.condition}"
    return f"{comparison.name}: {first.condition}{'' if first.kind == LORA else ' (random Δ)'}"


def p_value(p: float) -> str:
    """``p = 0.0006``, ``p < 0.0001``, ``no p``.

    >>> p_value(0.0006), p_value(0.00002), p_value(0.2512), p_value(math.nan)
    ('p = 0.0006', 'p < 0.0001', 'p = 0.251', 'no p')
    """
    if math.isnan(p):
        return "no p"
    if p < 0.0001:
        return "p < 0.0001"
    return f"p = {p:.4f}" if p < 0.01 else f"p = {p:.3f}"


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
