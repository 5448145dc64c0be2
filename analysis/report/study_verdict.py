"""The verdict on a coupling study: which model is more strongly coupled, by how much, how sure. Computes no numbers.

Space and time are strongly coupled where motion survives a spatial perturbation; so the model that loses less of it is
the more strongly coupled one.
"""

import math
from collections.abc import Iterator

from analysis.comparisons import PRIMARY_CONDITION, Row
from analysis.contrast import Nested
from analysis.design import LORA, TRAININGS, Cell
from analysis.notation import model_in_words, symbol
from analysis.report.content import Coupling
from analysis.report.words import Figure, Verdict, absent, between, capital, p_value
from analysis.result import Result
from analysis.table import decimals, number

FEW_SEEDS = 3
"""Below so many LoRA seeds a claim is about these LoRAs."""


def of_study(coupling: Coupling, runs: tuple[Result, ...]) -> Verdict:
    row = coupling.primary
    found = row.contrast
    digits = decimals([found.first, found.second])
    return Verdict(
        _headline(coupling),
        (*_losses(row, digits), _seeds_sentence(found.difference, digits), _robustness(coupling)),
        tuple(_study_figures(coupling, digits)),
        (*_cautions(coupling), *absent(runs)),
    )


def _headline(coupling: Coupling) -> str:
    difference = coupling.primary.contrast.difference
    if not difference.over_prompts.n:
        return "The primary contrast could not be measured."
    if not difference.over_prompts.excludes_zero:
        return "No difference in coupling between the two models is established."
    winner = model_in_words("full" if difference.over_prompts.mean > 0 else "partial")
    claim = f"the {winner} couples space and time more strongly"
    if not difference.over_seeds.excludes_zero:
        claim = f"in these runs {claim}"
    agreeing, other = _readings(coupling)
    if other:
        all_readings = len(agreeing) + len(other)
        return f"By the primary endpoint, {claim}; {len(other)} of {all_readings} readings do not confirm it."
    return f"{capital(claim)}."


def _losses(row: Row, digits: int) -> Iterator[str]:
    found = row.contrast
    prompts = found.difference.over_prompts
    if not prompts.n:
        yield "No prompt has motion quality at every step in both models."
        return
    first, second = (
        f"{letter} {'loses' if value < 0 else 'gains'} {number(abs(value), digits)}"
        for letter, value in (("M_F'", found.first), ("M_P'", found.second))
    )
    yield (
        f"Under a growing spatial perturbation {first} of motion quality per 100 steps and {second}: a difference of "
        f"{number(prompts.mean, digits, '+')} (95 % interval over {prompts.n} prompts {between(prompts, digits)}; "
        f"sign-flip {p_value(found.p)})."
    )


def _seeds_sentence(difference: Nested, digits: int) -> str:
    seeds = difference.over_seeds
    if seeds.n < 2:
        return "One LoRA per model was fitted: the numbers are about these LoRAs, and say nothing about other ones."
    holds = (
        "excludes 0 for other LoRAs too, on these prompts"
        if seeds.excludes_zero
        else "does not exclude 0 for other LoRAs"
    )
    if not difference.over_prompts.excludes_zero and not seeds.excludes_zero:
        holds = "includes 0 as well"
    few = "" if seeds.n >= FEW_SEEDS else ", too few to say much,"
    return f"Over {seeds.n} LoRA seeds{few} the interval is {between(seeds, digits)}: it {holds}."


def _readings(coupling: Coupling) -> tuple[list[Row], list[Row]]:
    """The readings of the primary comparison that agree with the primary one, with certainty, and the others."""
    primary = coupling.primary
    rows = [row for row in coupling.results.rows if row.comparison == primary.comparison]
    sign = math.copysign(1, primary.contrast.difference.over_prompts.mean)
    agreeing = [row for row in rows if (e := row.contrast.difference.over_prompts).excludes_zero and e.mean * sign > 0]
    return agreeing, [row for row in rows if row not in agreeing]


def _robustness(coupling: Coupling) -> str:
    """How the other readings of the same comparison come out."""
    primary = coupling.primary
    if not primary.contrast.difference.over_prompts.n:
        return ""
    rows = [row for row in coupling.results.rows if row.comparison == primary.comparison and row != primary]
    said = []
    for row in rows:
        estimate = row.contrast.difference.over_prompts
        digits = decimals([row.contrast.first, row.contrast.second])
        said.append(f"{row.reading.unit} {number(estimate.mean, digits, '+')} ± {estimate.half_width:.{digits}f}")
    return f"Read otherwise, full − partial is: {'; '.join(said)}."


def _study_figures(coupling: Coupling, digits: int) -> Iterator[Figure]:
    found = coupling.primary.contrast
    prompts, seeds = found.difference.over_prompts, found.difference.over_seeds
    boot = found.bootstrap
    detail = f"95 % over prompts {between(prompts, digits)}"
    if not math.isnan(boot.low):
        detail += f"; bootstrap {number(boot.low, digits, '+')} to {number(boot.high, digits, '+')}"
    yield Figure(
        "DiD: slope of motion quality per 100 steps, full − partial", number(prompts.mean, digits, "+"), detail
    )
    yield Figure(
        "How sure",
        p_value(found.p).replace("p = ", ""),
        f"p, sign flip over {prompts.n} prompts; "
        + (
            f"over {seeds.n} LoRA seeds {between(seeds, digits)}"
            if seeds.n > 1
            else "one LoRA seed: no interval over seeds"
        ),
    )
    for training in TRAININGS:
        cell = Cell(training, PRIMARY_CONDITION, LORA)
        kept = next(k for k in coupling.stepwise.kept if k.cell == cell)
        if kept.retention:
            area = kept.retention.over_prompts
            half = "" if math.isnan(area.half_width) else f"± {100 * area.half_width:.0f} points over prompts; "
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
            f"{seeds} LoRA seeds are the top cluster: an interval over them has {seeds - 1} degrees of freedom, wide "
            "and honest. A p value over prompts is about these LoRAs."
        )
    yield from _control(coupling)
    yield (
        "Spatial damage leaks into measures of motion: noise alone lowers motion quality (cross-talk). Read a loss of "
        "motion together with the visual measures."
    )
    if most := max(
        (row.contrast.incomplete for row in results.rows if row.contrast.difference.over_prompts.n), default=0
    ):
        yield f"Incomplete pairs are left out of a contrast: at most {most} of {len(design.clips)}."


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
            f"(difference {between(found.difference.over_prompts, digits)})."
        )
