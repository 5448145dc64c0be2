"""The declared endpoints of a coupling study, read from its runs; `statistics.endpoints` says what they are."""

from collections.abc import Iterator
from typing import Any

from perturb.analysis.coupling.comparisons import PRIMARY_CONDITION
from perturb.analysis.coupling.design import LORA, TRAININGS, Cell, Design
from perturb.analysis.statistics.endpoints import (
    CO_PRIMARY,
    CONVERGED,
    FLOOR,
    PRIMARY,
    Decision,
    PairEndpoints,
    Path,
    decide,
    horizon,
)
from perturb.analysis.statistics.estimates import Estimate
from perturb.analysis.table import number

REASONS = {
    "unmeasured": "no prompt has motion quality in every state of both models",
    "floor": f"both models keep less than {FLOOR:.0%} of their motion, and on the floor no difference can show",
    "one pair": "one pair of twins was compared, and no interval here covers other pairs",
    "not converged": f"the fits have not come within {CONVERGED:g} times the loss on the models' own training images, "
    "or that is not known",
    "interval": "the interval of the primary endpoint holds 0",
    "endpoints": "the primary and the co-primary endpoint do not agree",
}
"""Why there is no verdict."""


def of_design(design: Design) -> Decision:
    """What may be said of the one pair of a design, under the LoRA of the primary condition."""
    cells = [Cell(training, PRIMARY_CONDITION, LORA) for training in TRAININGS]
    quality = [design.trajectories(cell, PRIMARY) for cell in cells]
    keep = quality[0].complete & quality[1].complete
    jerk = None
    if CO_PRIMARY in {measure.name for measure in design.measures}:
        measured = [design.trajectories(cell, CO_PRIMARY) for cell in cells]
        both = keep & measured[0].complete & measured[1].complete
        if both.any():
            jerk = [each.by_prompt(both) for each in measured]
    end = horizon(None, None, len(design.steps))  # runs do not record their loss on D_I by state
    paths = [
        Path(each.by_prompt(keep), None if jerk is None else jerk[i], design.steps, end)
        for i, each in enumerate(quality)
    ]
    return decide([PairEndpoints.of(*paths)])


def headline(found: Decision) -> str:
    """The verdict in one sentence."""
    if not found.is_conclusive:
        return f"Inconclusive: {REASONS[found.kind]}."
    model, other = ("fully", "partially") if found.kind == "full" else ("partially", "fully")
    difference = abs(found.difference.mean)
    return (
        f"The {model} trained model is the more strongly coupled one: over {found.pairs} pairs it keeps "
        f"{100 * difference:.0f} points more of its motion than the {other} trained one."
    )


def endpoint_rows(found: Decision) -> Iterator[dict[str, Any]]:
    """endpoints.csv: a row per endpoint, with what its interval is over, and the verdict beside it."""
    over = f"{found.pairs} pairs" if found.pairs > 1 else "LoRA seeds and prompts of one pair"
    named: dict[str, Estimate | None] = {
        "motion kept, full − partial": found.difference,
        "motion kept, full": found.full,
        "motion kept, partial": found.partial,
        "P(full keeps a steadier path)": found.superiority,
    }
    if found.pairs > 1:
        named["motion kept, full − partial, over pairs and prompts"] = found.crossed
    for name, estimate in named.items():
        ends = {} if estimate is None else {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
        yield {"endpoint": name, **ends, "interval_over": over, "verdict": found.kind, "pairs": found.pairs}


def summary(found: Decision) -> str:
    """Two lines for the terminal: the verdict, and the primary endpoint with what it rests on."""
    difference = found.difference
    pairs = f"{found.pairs} pair{'s' * (found.pairs > 1)}"
    kept = (
        f"Motion kept along the path: full {found.full.mean:.0%}, partial {found.partial.mean:.0%}; full − partial "
        f"{number(difference.mean, 3, '+')} (95 % {number(difference.low, 3, '+')} to "
        f"{number(difference.high, 3, '+')}), resting on {pairs}."
    )
    return f"{headline(found)}\n{kept}"
