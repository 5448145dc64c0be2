"""Where in the network Δ is, and where it acts.

    energy     Σ ‖Δ_l‖² over the layers of one level and role, as a share of Σ ‖Δ_l‖² over all layers
    ablation   Y(part) − Y(none): what Δ does when only this part of the network has it

The numbers of ablation are paired by prompt and LoRA seed. Axes: s LoRA seed, p prompt, k state.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from perturb.analysis.load import Run
from perturb.analysis.replicates import (
    BOTH_MODELS,
    PART,
    Replicates,
    by_prompt,
    grouped,
    interval_columns,
    paired,
)
from perturb.analysis.statistics.contrast import Floats, Nested, holm, shares
from perturb.analysis.statistics.resampling import without_dust
from perturb.analysis.statistics.significance import SEED, PairedTest
from perturb.analysis.table import cell
from perturb.errors import UserError
from perturb.store.magnitudes import read_sizes

WHOLE = "all"


@dataclass(frozen=True)
class Effect:
    """What the parts do to one measure of one model (or the paired difference of two): ``change`` s p k.

    ``shares``: the same as a share of the mean of Y(none); None where that means nothing.
    """

    training: str
    group: str
    metric: str
    parts: tuple[str, ...]
    change: Floats
    shares: Floats | None

    def of(self, part: str) -> Nested:
        """The change that a part makes; without values (n = 0) when it was not tried."""
        return Nested.of(self.change[:, :, self.parts.index(part)] if part in self.parts else np.empty((0, 0)))


def effects(replicates: Sequence[Replicates]) -> Iterator[Effect]:
    """Of every group, model and measure; of both models with the same LoRA seeds their difference too."""
    for group, models in grouped(replicates):
        parts = tuple(map(str, models[0].column(PART)))
        for measure in models[0].measures:
            values = by_prompt(models, measure.name)
            scale = max(float(np.abs(y).max(initial=0.0)) for y in values)
            changes = [without_dust(y - y[:, :, :1], scale) for y in values]
            starts = measure.is_ratio and all(model.trajectories(measure.name).has_start for model in models)
            kept = [shares(d, y[:, :, 0]) if starts else None for d, y in zip(changes, values, strict=True)]
            for model, change, relative in zip(models, changes, kept, strict=True):
                yield Effect(model.training, group, measure.name, parts, change, relative)
            if paired(models):
                relative = None if kept[0] is None or kept[1] is None else kept[0] - kept[1]
                between = without_dust(changes[0] - changes[1], scale)
                yield Effect(BOTH_MODELS, group, measure.name, parts, between, relative)


def effect_rows(found: Iterable[Effect], models: Sequence[Replicates]) -> Iterator[dict[str, Any]]:
    """ablation.csv: a row per model, group, measure, scale and part; Holm over the parts.

    The test is Student's t, of the difference of the two models sign flips.
    """
    sizes = {(model.training, model.group): model.dose.mean(axis=0) for model in models}
    for effect in found:
        size = sizes.get((effect.training, effect.group))
        for scale, values in (("raw", effect.change), ("relative", effect.shares)):
            if values is None:
                continue
            tried = range(1, len(effect.parts))
            twins = effect.training == BOTH_MODELS
            tests = [PairedTest.of(values[:, :, k], np.random.default_rng(SEED), exchangeable=twins) for k in tried]
            for k, test, p_holm in zip(tried, tests, holm([test.p for test in tests]), strict=True):
                yield {
                    "training": effect.training,
                    "group": effect.group,
                    "metric": effect.metric,
                    "scale": scale,
                    "part": effect.parts[k],
                    "magnitude": np.nan if size is None else float(size[k]),
                    **interval_columns("change", Nested.of(values[:, :, k])),
                    **test.columns,
                    "p_holm": p_holm,
                }


@dataclass(frozen=True)
class Energy:
    """The layers of one level and role: ``share`` of Σ‖Δ‖² over all, ``ratio`` ‖Δ‖/‖θ‖; means over LoRA seeds."""

    training: str
    group: str
    block: str
    level: str
    role: str
    layers: int
    share: float
    ratio: float


def energies(models: Sequence[Replicates]) -> Iterator[Energy]:
    """Of every model and group.

    Raises UserError when no state has the whole perturbation, or its table of magnitudes is not there.
    """
    for model in models:
        parts = model.column(PART)
        if WHOLE not in parts:
            raise UserError(f"{model.first.directory.path} has no part {WHOLE!r}: add it to perturbation.parts")
        sums = [_sums(run, run.states[parts.index(WHOLE)].id) for run in model.runs.values()]
        for place in sums[0]:
            shares = [one[place][1] / sum(delta for _, delta, _ in one.values()) for one in sums]
            ratios = [(one[place][1] / one[place][2]) ** 0.5 for one in sums]
            count = sums[0][place][0]
            yield Energy(model.training, model.group, *place, count, float(np.mean(shares)), float(np.mean(ratios)))


def _sums(run: Run, state: str) -> dict[tuple[str, str, str], tuple[int, float, float]]:
    """(block, level, role) → number of layers, Σ‖Δ‖², Σ‖θ‖²."""
    sums: dict[tuple[str, str, str], tuple[int, float, float]] = {}
    for layer, size in read_sizes(run.directory.adapter(state)).items():
        place = run.manifest.perturbation["places"][layer]
        key = (place["block"], place["level"], place["role"])
        count, delta, base = sums.get(key, (0, 0.0, 0.0))
        sums[key] = (count + 1, delta + (size.ratio * size.base) ** 2, base + size.base**2)
    return sums


def effect_table(motion: Sequence[Effect]) -> Table:
    """The change of motion quality that every part makes, with its interval."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("part")
    for effect in motion:
        table.add_column(f"{effect.training}, {effect.group}", justify="right")
    for part in dict.fromkeys(part for effect in motion for part in effect.parts[1:]):
        cells = [effect.of(part).over_both for effect in motion]
        table.add_row(part, *(Text(cell(e, 3, "+"), style="bold" if e.excludes_zero else "") for e in cells))
    return table
