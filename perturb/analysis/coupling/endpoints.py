"""The declared endpoints of a coupling study, read from its runs; `statistics.endpoints` says what they are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perturb.analysis.coupling.design import LORA, RANDOM, TRAININGS, Cell, Condition, Design
from perturb.analysis.coupling.fits import Fit, mean_known, times
from perturb.analysis.statistics.contrast import slope_weights
from perturb.analysis.statistics.endpoints import (
    CEILING,
    CO_PRIMARY,
    CONVERGED,
    FLOOR,
    PRIMARY,
    Decision,
    Mixed,
    PairEndpoints,
    Path,
    decide,
    mixed,
    over_pairs,
    together,
)
from perturb.analysis.statistics.estimates import Estimate
from perturb.analysis.statistics.resampling import Floats
from perturb.analysis.table import cell as written
from perturb.errors import UserError

REASONS = {
    "unmeasured": "no prompt has motion quality in every state of both models",
    "floor": f"both models keep less than {FLOOR:.0%} of their motion, and on the floor no difference can show",
    "ceiling": f"both models keep more than {CEILING:.0%} of their motion, and where nothing is lost no difference can "
    "show",
    "one pair": "one pair of twins was compared, and no interval here covers other pairs",
    "not converged": f"the fits have not come within {CONVERGED:g} times the loss on the models' own training images "
    "and are not flat, or that is not known",
    "interval": "the interval of the primary endpoint holds 0",
    "endpoints": "the primary and the co-primary endpoint do not agree",
}
"""Why there is no verdict."""
NOTHING = Estimate(np.nan, np.nan, 0)
HEADER = ("", "full", "partial", "full − partial", "P(steadier)", "pairs", "fits", "D_I", "verdict")
"""Of the table that answers."""


@dataclass(frozen=True)
class Finding:
    """What may be said under one condition.

    ``pairs``, ``fits``: by pair, the endpoints, and the fits of the full and the partial model · ``seeds``: the fewest
    and the most LoRA seeds of a pair · ``slope`` and ``change``: descriptive, full − partial, of motion quality per 100
    steps and from the first to the last state · ``controls``: by training, the share of motion kept under the random Δ.
    """

    condition: Condition
    decision: Decision
    pairs: Mapping[str, PairEndpoints]
    fits: Mapping[str, tuple[Fit, ...]]
    seeds: tuple[int, int]
    prompts: int
    slope: Estimate = NOTHING
    change: Estimate = NOTHING
    controls: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """``full keeps more``, ``inconclusive: floor``."""
        found = self.decision
        return f"{found.kind} keeps more" if found.is_conclusive else f"inconclusive: {found.kind}"

    @property
    def has_number(self) -> bool:
        """Whether a difference may be shown: on the floor there is none."""
        return self.decision.kind not in ("floor", "unmeasured")

    @property
    def convergence(self) -> str:
        """``converged``, ``not converged``, ``not recorded``."""
        return {True: "converged", False: "not converged", None: "not recorded"}[self.decision.converged]

    @property
    def distances(self) -> tuple[float | None, float | None]:
        """How far D_I is from the full and from the partial model: means over pairs, None where it is not recorded."""
        full, partial = (mean_known([fits[i].distance for fits in self.fits.values()]) for i in range(2))
        return full, partial

    @property
    def rests_on(self) -> str:
        """``5 pairs × 1 to 2 LoRA seeds × 32 prompts``."""
        counts = {"pair": [len(self.fits)], "LoRA seed": sorted({*self.seeds}), "prompt": [self.prompts]}
        return " × ".join(f"{' to '.join(map(str, n))} {name}{'s' * (n != [1])}" for name, n in counts.items())

    @property
    def cells(self) -> list[str]:
        """The row of `HEADER`."""
        found = self.decision
        difference = written(found.difference, 3, "+") if self.has_number else "–"
        sure = f"{found.superiority.mean:.0%}" if self.has_number and found.superiority else "–"
        shares = ("–" if np.isnan(share.mean) else f"{share.mean:.0%}" for share in (found.full, found.partial))
        distance = ", ".join(dict.fromkeys(map(times, self.distances)))
        counts = (difference, sure, str(found.pairs), self.convergence, distance)
        return [str(self.condition), *shares, *counts, self.verdict]


def findings(design: Design) -> tuple[Finding, ...]:
    """Of every condition. Raises UserError for a study without a condition that the headline is about."""
    found = tuple(_finding(design, condition) for condition in design.conditions)
    if not any(each.condition.is_primary for each in found):
        raise UserError(
            "No pair of twins was perturbed in space with images.as_video=single_frame, which the endpoints are of; "
            f"there are {[str(each.condition) for each in found]}. Give such runs too."
        )
    return found


def _finding(design: Design, condition: Condition) -> Finding:
    twins = design.twins(condition)
    cells = [Cell(training, condition, LORA) for training in TRAININGS]
    fits = {p: tuple(Fit.of(design.of_pair(cell, p, seeds)) for cell in cells) for p, seeds in twins.items()}
    read = {p: [design.trajectories(cell, p, seeds, PRIMARY) for cell in cells] for p, seeds in twins.items()}
    keep = np.logical_and.reduce([each.complete for sides in read.values() for each in sides])
    counts = sorted(len(seeds) for seeds in twins.values())
    seeds = counts[0], counts[-1]
    if not keep.any():
        nothing = Decision("unmeasured", len(twins), NOTHING, NOTHING, None, NOTHING, NOTHING, None)
        return Finding(condition, nothing, {}, fits, seeds, 0)
    quality = {pair: [each.by_prompt(keep) for each in sides] for pair, sides in read.items()}
    x = design.samples[condition].steps
    pairs = {}
    for pair, sides in quality.items():
        jerk = _jerk(design, cells, pair, twins[pair])
        paths = [Path(sides[i], jerk[i], x, fits[pair][i].horizon) for i in range(2)]
        pairs[pair] = PairEndpoints.of(*paths)
    w = slope_weights(np.array(x) / 100)
    return Finding(
        condition,
        decide(list(pairs.values())),
        pairs,
        fits,
        seeds,
        next(iter(quality.values()))[0].shape[1],
        slope=over_pairs([(full - partial) @ w for full, partial in quality.values()]),
        change=over_pairs([_change(full) - _change(partial) for full, partial in quality.values()]),
        controls=dict(_controls(design, condition, fits)),
    )


def _jerk(design: Design, cells: Sequence[Cell], pair: str, seeds: Sequence[int]) -> list[Floats] | list[None]:
    """The jerk of both models' paths over the trajectories that both have whole; None where there are none."""
    read = [design.trajectories(cell, pair, seeds, CO_PRIMARY) for cell in cells]
    keep = read[0].complete & read[1].complete
    return [each.by_prompt(keep) for each in read] if keep.any() else [None, None]


def _change(values: Floats) -> Floats:
    return values[..., -1] - values[..., 0]


def _controls(
    design: Design, condition: Condition, fits: Mapping[str, tuple[Fit, ...]]
) -> Iterator[tuple[str, Estimate]]:
    """By training, what is kept under the random Δ up to the horizon of the pair."""
    for i, training in enumerate(TRAININGS):
        cell, shares = Cell(training, condition, RANDOM), []
        for pair, seeds in design.members(cell).items():
            read = design.trajectories(cell, pair, seeds, PRIMARY)
            if pair in fits and read.complete.any():
                x = design.samples[condition].steps
                end = together(*(fit.horizon for fit in fits[pair]))[i]
                shares.append(Path(read.by_prompt(read.complete), None, x, end).kept)
        if shares:
            yield training, over_pairs(shares)


# in words -------------------------------------------------------------------------------------------------------------


def headline(found: Sequence[Finding]) -> str:
    """The verdict in one sentence; over several image sets never more than each of them supports."""
    primary = [each for each in found if each.condition.is_primary]
    if len(primary) == 1:
        return verdict_line(primary[0])
    lossy = [each for each in primary if each.decision.kind != "ceiling"]
    if len({each.decision.kind for each in lossy}) == 1 and lossy[0].decision.is_conclusive:
        names = " and ".join(each.condition.image_set or "unnamed images" for each in lossy)
        sets = f"all {len(primary)} image sets" if len(lossy) == len(primary) else f"{names}, where motion is lost,"
        return f"On {sets} the {_keeps_more(lossy)}"
    said = "; ".join(f"{each.condition.image_set or 'unnamed images'} – {each.verdict}" for each in primary)
    any_verdict = any(each.decision.is_conclusive for each in primary)
    return f"Inconclusive: {'the image sets do not agree' if any_verdict else 'no image set gives a verdict'} ({said})."


def verdict_line(finding: Finding) -> str:
    """The verdict under one condition, in one sentence."""
    found = finding.decision
    return f"The {_keeps_more([finding])}" if found.is_conclusive else f"Inconclusive: {REASONS[found.kind]}."


def _keeps_more(alike: Sequence[Finding]) -> str:
    """What findings of one kind all support: the fewest pairs, the smallest difference."""
    model, other = ("fully", "partially") if alike[0].decision.kind == "full" else ("partially", "fully")
    pairs = min(each.decision.pairs for each in alike)
    points = 100 * min(abs(each.decision.difference.mean) for each in alike)
    least = "at least " * (len(alike) > 1)
    return (
        f"{model} trained model is the more strongly coupled one: over {least}{pairs} pairs it keeps {least}"
        f"{points:.0f} points more of its motion than the {other} trained one."
    )


def footnote(found: Sequence[Finding]) -> str:
    """How to read the table and what it rests on."""
    rests = "; ".join(f"{each.condition}: {each.rests_on}" for each in found)
    return (
        "full, partial: share of motion quality kept, averaged along the path up to the first state where the loss on "
        f"D_I is in both models at most {CONVERGED:g} × that of the untouched one on its own training stills, else to "
        "the last. full − partial: the primary endpoint ± half-width of its 95 % interval over pairs (of one pair over "
        "its LoRA seeds and prompts, which covers no other pair). P: how often the full model's object keeps the "
        "steadier path, the co-primary endpoint. D_I: loss of the untouched model on it over that on its own stills, "
        f"full and partial. Rests on {rests}."
    )


def endpoint_rows(found: Sequence[Finding]) -> Iterator[dict[str, Any]]:
    """endpoints.csv: a row per condition and endpoint, with what its interval is over and the verdict beside it."""
    for finding in found:
        one = finding.decision
        over = f"{one.pairs} pairs" if one.pairs > 1 else "LoRA seeds and prompts of one pair"
        full, partial = finding.distances
        for name, estimate, how, reason in _estimates(finding):
            ends = {} if estimate is None else {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
            yield {
                "group": finding.condition.group,
                "policy": finding.condition.policy,
                "images": finding.condition.images,
                "endpoint": name,
                **ends,
                "interval_over": how or over,
                "reason": reason,
                "verdict": finding.verdict,
                "pairs": one.pairs,
                "lora_seeds": finding.seeds[0],
                "most_lora_seeds": finding.seeds[1],
                "prompts": finding.prompts,
                "converged": finding.convergence,
                "distance_full": full,
                "distance_partial": partial,
            }


def _estimates(finding: Finding) -> Iterator[tuple[str, Estimate | None, str, str]]:
    """(endpoint, estimate, what its interval is over where that is not the usual, why it is absent)."""
    found, kept = finding.decision, "motion kept, full − partial"
    no_jerk = "" if found.superiority else f"{CO_PRIMARY} was not measured"
    robust = mixed(list(finding.pairs.values())) if finding.pairs else Mixed(NOTHING, REASONS["unmeasured"])
    yield kept, found.difference, "", ""
    yield "P(full keeps a steadier path)", found.superiority, "", no_jerk
    yield "motion kept, full", found.full, "", ""
    yield "motion kept, partial", found.partial, "", ""
    yield f"{kept}, over pairs and prompts", found.crossed, "pairs and prompts" if found.pairs > 1 else "", ""
    yield f"{kept}, mixed model", robust.estimate, "pairs, LoRA seeds and prompts (Wald)", robust.reason
    for training, share in finding.controls.items():
        yield f"motion kept, {training}, random Δ", share, "what has controls", ""
    yield "descriptive: slope per 100 steps, full − partial", finding.slope, "", ""
    yield "descriptive: change to the last state, full − partial", finding.change, "", ""
