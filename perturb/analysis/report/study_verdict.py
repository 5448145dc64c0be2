"""The verdict on a coupling study: what was compared, by how much, how sure. Computes no numbers.

Space and time are strongly coupled where motion survives a spatial perturbation. But a study holds one pair of twins,
and no interval of it covers other pairs: it names no model as the more strongly coupled one.
"""

import math
from collections.abc import Iterator

from perturb.analysis.coupling.comparisons import PRIMARY_CONDITION, PRIMARY_METRIC, Row
from perturb.analysis.coupling.design import LORA, TRAININGS, Cell
from perturb.analysis.coupling.endpoints import headline
from perturb.analysis.notation import symbol
from perturb.analysis.report.content import Coupling
from perturb.analysis.report.words import Figure, Verdict, absent, between, p_value
from perturb.analysis.result import Result
from perturb.analysis.statistics.contrast import Nested
from perturb.analysis.statistics.endpoints import Decision
from perturb.analysis.statistics.significance import SIZE_IF_SKEWED, SKEWED
from perturb.analysis.table import decimals, number

FEW_SEEDS = 3
"""Below so many LoRA seeds a claim is about these LoRAs."""


def of_study(coupling: Coupling, runs: tuple[Result, ...]) -> Verdict:
    row = coupling.primary
    found = row.contrast
    digits = decimals([found.first, found.second])
    return Verdict(
        headline(coupling.decision),
        (
            *_endpoints(coupling.decision),
            *_losses(row, digits),
            _seeds_sentence(found.difference, digits),
            _robustness(coupling),
        ),
        tuple(_study_figures(coupling, digits)),
        (*_cautions(coupling), *absent(runs)),
    )


def _endpoints(found: Decision) -> Iterator[str]:
    """The gate, then the declared endpoints, then what they rest on."""
    if math.isnan(found.difference.mean):
        return
    over = f"{found.pairs} pairs" if found.pairs > 1 else "prompts and LoRA seeds of the one pair"
    yield (
        "Coupling is strong where motion survives a spatial perturbation. Along the path the fully trained model keeps "
        f"{found.full.mean:.0%} of its motion and the partially trained one {found.partial.mean:.0%}: a difference of "
        f"{number(found.difference.mean, 3, '+')} (95 % interval over {over} {between(found.difference, 3)}), the "
        "primary endpoint."
    )
    if found.superiority is not None:
        yield (
            "In the fully trained model the object's path stays steadier in "
            f"{found.superiority.mean:.0%} of comparisons (95 % {between(found.superiority, 2, '')}), co-primary."
        )
    said = {True: "The fits have converged.", False: "The fits have not converged.", None: ""}[found.converged]
    yield said or "Whether the fits have converged is not recorded: read every number as one of an unfinished fit."


def _losses(row: Row, digits: int) -> Iterator[str]:
    found = row.contrast
    both = found.difference.over_both
    if not both.n:
        yield "No prompt has motion quality at every step in both models."
        return
    first, second = (
        f"{letter} {'loses' if value < 0 else 'gains'} {number(abs(value), digits)}"
        for letter, value in (("M_F'", found.first), ("M_P'", found.second))
    )
    yield (
        f"Descriptive: as the perturbation grows, {first} of motion quality per 100 steps and {second}: a difference "
        f"of {number(both.mean, digits, '+')} (95 % interval over {found.difference.units} {between(both, digits)}; "
        f"sign flips over prompts {p_value(found.test.p)})."
    )


def _seeds_sentence(difference: Nested, digits: int) -> str:
    seeds = difference.over_seeds
    if seeds.n < 2:
        return "One LoRA per model was fitted: the numbers are about these LoRAs, and say nothing about other ones."
    few = "" if seeds.n >= FEW_SEEDS else ", too few to say much"
    return (
        f"Alone, the interval over {difference.over_prompts.n} prompts is {between(difference.over_prompts, digits)}, "
        f"and that over {seeds.n} LoRA seeds{few}, {between(seeds, digits)}."
    )


def _readings(coupling: Coupling) -> tuple[list[Row], list[Row]]:
    """The readings of the primary comparison that agree with the primary one, with certainty, and the others."""
    primary = coupling.primary
    rows = [row for row in coupling.results.rows if row.comparison == primary.comparison]
    agreeing = [row for row in rows if row == primary or _agrees(row, primary)]
    return agreeing, [row for row in rows if row not in agreeing]


def _agrees(row: Row, primary: Row) -> bool:
    """Whether it has the sign of the primary one, and its interval excludes 0."""
    mine, its = row.contrast.difference, primary.contrast.difference
    return mine.over_both.mean * its.over_both.mean > 0 and mine.over_both.excludes_zero


def _robustness(coupling: Coupling) -> str:
    """How the other readings of the same comparison come out."""
    difference = coupling.primary.contrast.difference.over_both
    if not difference.n:
        return ""
    agreeing, other = _readings(coupling)
    said = {"For this pair, the same follows from": agreeing[1:], "It does not follow from": other}
    if not difference.excludes_zero:
        said = {"Read otherwise, full − partial is": agreeing[1:] + other}
    return " ".join(f"{words}: {'; '.join(map(_reading, rows))}." for words, rows in said.items() if rows)


def _reading(row: Row) -> str:
    """``share of start per 100 steps −0.027 ± 0.019``."""
    both = row.contrast.difference.over_both
    digits = decimals([row.contrast.first, row.contrast.second])
    return f"{row.reading.unit} {number(both.mean, digits, '+')} ± {both.half_width:.{digits}f}"


def _study_figures(coupling: Coupling, digits: int) -> Iterator[Figure]:
    found, decision = coupling.primary.contrast, coupling.decision
    both = found.difference.over_both
    if not math.isnan(decision.difference.mean):
        yield Figure(
            "Motion kept along the path, full − partial (primary endpoint)",
            number(decision.difference.mean, 3, "+"),
            f"95 % {between(decision.difference, 3)}; rests on {decision.pairs} pair{'s' * (decision.pairs > 1)}",
        )
    state = {True: "the fits have converged", False: "the fits have not converged", None: "convergence not recorded"}
    yield Figure("Rests on pairs of twins", str(decision.pairs), state[decision.converged])
    yield Figure(
        "Descriptive: slope of motion quality per 100 steps, full − partial",
        number(both.mean, digits, "+"),
        f"95 % over {found.difference.units} {between(both, digits)}",
    )
    for training in TRAININGS:
        cell = Cell(training, PRIMARY_CONDITION, LORA)
        kept = next(k for k in coupling.stepwise.kept if k.cell == cell)
        if kept.retention:
            area = kept.retention.over_both
            half = "" if math.isnan(area.half_width) else f"± {100 * area.half_width:.0f} points; "
            yield Figure(
                f"Motion kept along the steps, {symbol(training, PRIMARY_CONDITION.group)}",
                f"{100 * area.mean:.0f} %",
                half + _collapse(kept.by_share),
            )


def _collapse(step: float) -> str:
    if math.isnan(step):
        return "collapse step not measured"
    return f"half lost by step {step:.0f}" if math.isfinite(step) else "never below half"


def _cautions(coupling: Coupling) -> Iterator[str]:
    results = coupling.results
    design = results.design
    loras = [cell for cell in design.runs if cell.kind == LORA]
    seeds = len(design.seeds(loras[0]))
    if seeds < FEW_SEEDS:
        yield (
            f"{seeds} LoRA seed{'s' * (seeds > 1)}: prompts and noises do not cover the randomness of fitting. Fit "
            "three or more (fit.seed=0,1,2) before saying anything about the models."
        )
    else:
        yield (
            "The quoted intervals are over prompts and LoRA seeds together (two-way), for other prompts and other "
            "LoRAs of these models. A p of sign flips over prompts is about these LoRAs."
        )
    found = coupling.primary.contrast
    digits = decimals([found.first, found.second])
    if not math.isnan(found.bootstrap.low):
        low, high = (number(end, digits, "+") for end in (found.bootstrap.low, found.bootstrap.high))
        yield f"The studentised bootstrap over prompts, which assumes no normal law, gives {low} to {high}."
    if found.test.skewed:
        yield (
            f"The differences of the prompts are skewed (|g₁| > {SKEWED:g}): on such, sign flips reject a true null in "
            f"{SIZE_IF_SKEWED} of cases at p ≤ .05."
        )
    yield from _starts(coupling)
    yield from _control(coupling)
    yield (
        "Spatial damage leaks into measures of motion: noise alone lowers motion quality (cross-talk). Read a loss of "
        "motion together with the visual measures."
    )
    if most := max(
        (row.contrast.incomplete for row in results.rows if row.contrast.difference.over_prompts.n), default=0
    ):
        yield f"Incomplete pairs are left out of a contrast: at most {most} of {len(design.clips)}."


def _starts(coupling: Coupling) -> Iterator[str]:
    """Who has more can lose more: where both models begin, if not at the same."""
    cells = [Cell(training, PRIMARY_CONDITION, LORA) for training in TRAININGS]
    starts = [coupling.results.curves[cell, PRIMARY_METRIC].levels[0].over_prompts.mean for cell in cells]
    full, partial = (number(start, decimals(starts)) for start in starts)
    if full != partial:
        yield (
            f"The fully trained model starts at a motion quality of {full}, the partially trained one at {partial}: "
            "the one that has more can lose more, and where both keep the same share its slope is the steeper "
            "one. A share of the start allows for that."
        )


def _control(coupling: Coupling) -> Iterator[str]:
    """What the random control of the same norm says in the primary condition."""
    rows = [
        row
        for row in coupling.results.rows
        if row.comparison.family == "control" and row.reading == coupling.primary.reading
        if row.comparison.first.condition == PRIMARY_CONDITION and row.contrast.difference.over_prompts.n
    ]
    if not rows:
        yield (
            "No control: a random Δ of the same norm (perturbation=random) would tell the direction of Δ from its size."
        )
    for row in rows:
        found = row.contrast
        digits = decimals([found.first, found.second])
        yield (
            f"Control, {row.comparison.first.training} model: a random Δ of the same norm changes motion quality by "
            f"{number(found.second, digits, '+')} per 100 steps, the LoRA by {number(found.first, digits, '+')} "
            f"(difference {between(found.difference.over_both, digits)})."
        )
