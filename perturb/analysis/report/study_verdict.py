"""The verdict on a coupling study: which model, by how much, how sure, on how many pairs. Computes no numbers."""

from collections.abc import Iterator

from perturb.analysis.coupling.curves import Results
from perturb.analysis.coupling.design import LORA
from perturb.analysis.coupling.endpoints import Finding, headline, verdict_line
from perturb.analysis.coupling.fits import times
from perturb.analysis.report.words import Figure, Verdict, absent, between, capital
from perturb.analysis.result import Result
from perturb.analysis.statistics.endpoints import CONVERGED
from perturb.analysis.table import number

FEW_SEEDS = 2
"""Below so many LoRA seeds a claim is about these LoRAs."""


def of_study(results: Results, runs: tuple[Result, ...]) -> Verdict:
    """From the findings of every condition; the headline is about space."""
    primary = [finding for finding in results.findings if finding.condition.is_primary]
    others = [finding for finding in results.findings if not finding.condition.is_primary]
    named = [(f"{capital(str(finding.condition))}: ", finding) for finding in (*primary, *others)]
    sentences = (f"{name if len(named) > 1 else ''}{' '.join(_said(finding))}" for name, finding in named)
    return Verdict(
        headline(results.findings),
        ("Space and time are strongly coupled where motion survives a spatial perturbation.", *sentences),
        tuple(_figures(primary)),
        (*_cautions(results), *absent(runs)),
    )


def _said(finding: Finding) -> Iterator[str]:
    """The gate, then the declared endpoints, then what they rest on."""
    found, (full, partial) = finding.decision, finding.distances
    yield verdict_line(finding)
    if finding.has_number:
        yield (
            f"Along the path the fully trained model keeps {found.full.mean:.0%} of its motion and the partially "
            f"trained one {found.partial.mean:.0%}: a difference of {number(found.difference.mean, 3, '+')} (95 % "
            f"interval over {_over(finding)} {between(found.difference, 3)}), the primary endpoint."
        )
        if found.superiority is not None:
            yield (
                "In the fully trained model the object's path stays steadier in "
                f"{found.superiority.mean:.0%} of comparisons (95 % {between(found.superiority, 2, '')}), co-primary."
            )
        yield (
            f"Descriptive, full − partial of motion quality: slope per 100 steps {number(finding.slope.mean, 3, '+')} "
            f"({between(finding.slope, 3)}), change to the last state {number(finding.change.mean, 3, '+')} "
            f"({between(finding.change, 3)})."
        )
    elif finding.pairs:
        kept = (
            f"{found.full.mean:.0%} of its motion along the path and the partially trained one {found.partial.mean:.0%}"
        )
        yield f"The fully trained model keeps {kept}."
    yield f"Rests on {finding.rests_on}."
    for i, model in enumerate(("fully", "partially")):
        words = list(dict.fromkeys(fits[i].words for fits in finding.fits.values()))
        yield f"Fits of the {model} trained model: {', '.join(words)}."
    if full is not None and partial is not None:
        yield f"D_I is {times(full)} and {times(partial)} as hard for the untouched models as their own stills."


def _over(finding: Finding) -> str:
    return f"{finding.decision.pairs} pairs" if finding.decision.pairs > 1 else "prompts and LoRA seeds of the one pair"


def _figures(primary: list[Finding]) -> Iterator[Figure]:
    for finding in primary:
        found = finding.decision
        name = f": {finding.condition.image_set}" if len(primary) > 1 else " (primary endpoint)"
        value = number(found.difference.mean, 3, "+") if finding.has_number else "–"
        sure = f"95 % {between(found.difference, 3)}; " if finding.has_number else ""
        state = f"; fits {finding.convergence}; D_I {_distance(finding)}" if len(primary) > 1 else ""
        yield Figure(f"Motion kept, full − partial{name}", value, f"{sure}{finding.verdict}{state}")
    first = primary[0]
    pairs = first.decision.pairs if len(primary) == 1 else min(finding.decision.pairs for finding in primary)
    covers = "no interval here covers other pairs" if pairs == 1 else "of twins; intervals are over them"
    yield Figure("Rests on", f"{pairs} pair{'s' * (pairs > 1)}", covers)
    if len(primary) == 1:
        if first.has_number and (ahead := first.decision.superiority):
            yield Figure(
                "Full keeps a steadier path (co-primary)", f"{ahead.mean:.0%}", f"95 % {between(ahead, 2, '')}"
            )
        rule = f"converged: loss on D_I within {CONVERGED:g} × that on own stills, or flat"
        yield Figure("Fits", first.convergence, rule)
        yield Figure("Distance of D_I", _distance(first), "loss on it over that on own stills, untouched")


def _distance(finding: Finding) -> str:
    return ", ".join(dict.fromkeys(map(times, finding.distances)))


def _cautions(results: Results) -> Iterator[str]:
    yield (
        "Intervals over pairs are Student t with one degree of freedom fewer than pairs: for other pairs of twins, not "
        "only other prompts. That of one pair is over its prompts and LoRA seeds (two-way) and covers no other pair."
    )
    if min(finding.seeds[0] for finding in results.findings) < FEW_SEEDS:
        yield "A pair has one LoRA seed: prompts and noises do not cover the randomness of fitting (fit.seed=0,1)."
    left = sum(
        seed not in results.design.members(cell).get(pair, ())
        for cell, pairs in results.design.runs.items()
        if cell.kind == LORA
        for pair, runs in pairs.items()
        for seed in runs
    )
    if left:
        yield f"{left} run{'s have' if left > 1 else ' has'} no twin with the same LoRA seed and condition: left out."
    yield from _controls(results)
    yield (
        "Spatial damage leaks into measures of motion: noise alone lowers motion quality (cross-talk). Read a loss of "
        "motion together with the visual measures."
    )


def _controls(results: Results) -> Iterator[str]:
    """What the random controls of the same norm keep."""
    found = [finding for finding in results.findings if finding.controls]
    if not found:
        yield (
            "No control: a random Δ of the same norm (perturbation=random) would tell the direction of Δ from its size."
        )
    for finding in found:
        kept = {"full": finding.decision.full, "partial": finding.decision.partial}
        for training, share in finding.controls.items():
            yield (
                f"Control, {training} model, {finding.condition}: under a random Δ of the same norm it keeps "
                f"{share.mean:.0%} of its motion along the path, under the LoRA {kept[training].mean:.0%}."
            )
