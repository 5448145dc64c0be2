"""`python -m perturb.analysis.layers RUNS… -o experiments/layers`: where in the network Δ is, and where it acts.

    energy     Σ ‖Δ_l‖² over the layers of one level and role, as a share of Σ ‖Δ_l‖² over all layers
    ablation   Y(part) − Y(none): what Δ does when only this part of the network has it

Writes energy.csv, ablation.csv and a figure per model, layers_full and layers_partial, as png and pdf; prints the
ablation of motion quality. The numbers of ablation are paired by prompt and LoRA seed.
Axes: s LoRA seed, p prompt, k state.
"""

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perturb.analysis.command import compare_runs
from perturb.analysis.coupling.comparisons import SEED
from perturb.analysis.load import Run
from perturb.analysis.replicates import (
    BOTH_MODELS,
    MOTION,
    PART,
    Replicates,
    by_prompt,
    grouped,
    interval_columns,
    paired,
    read_replicates,
)
from perturb.analysis.statistics.contrast import Floats, Nested, holm, share
from perturb.analysis.statistics.resampling import sign_flip, without_dust
from perturb.analysis.summary import WIDEST
from perturb.analysis.table import cell
from perturb.errors import UserError
from perturb.store.rundir import write_atomic

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
            shares = [_shares(d, y[:, :, 0]) if starts else None for d, y in zip(changes, values, strict=True)]
            for model, change, relative in zip(models, changes, shares, strict=True):
                yield Effect(model.training, group, measure.name, parts, change, relative)
            if paired(models):
                relative = None if shares[0] is None or shares[1] is None else shares[0] - shares[1]
                between = without_dust(changes[0] - changes[1], scale)
                yield Effect(BOTH_MODELS, group, measure.name, parts, between, relative)


def _shares(change: Floats, start: Floats) -> Floats:
    return np.stack([share(each, start) for each in np.moveaxis(change, 2, 0)], axis=-1)


def effect_rows(found: Iterable[Effect], models: Sequence[Replicates]) -> Iterator[dict[str, Any]]:
    """ablation.csv: a row per model, group, measure, scale and part; p by sign flips, Holm over the parts."""
    sizes = {(model.training, model.group): model.dose.mean(axis=0) for model in models}
    for effect in found:
        size = sizes.get((effect.training, effect.group))
        for scale, values in (("raw", effect.change), ("relative", effect.shares)):
            if values is None:
                continue
            tried = range(1, len(effect.parts))
            p = [sign_flip(values[:, :, k].mean(axis=0), np.random.default_rng(SEED)) for k in tried]
            for k, one, adjusted in zip(tried, p, holm(p), strict=True):
                yield {
                    "training": effect.training,
                    "group": effect.group,
                    "metric": effect.metric,
                    "scale": scale,
                    "part": effect.parts[k],
                    "magnitude": np.nan if size is None else float(size[k]),
                    **interval_columns("change", Nested.of(values[:, :, k])),
                    "p": one,
                    "p_holm": adjusted,
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
    path = run.directory.adapter(state) / "magnitude.csv"
    if not path.is_file():
        raise UserError(f"{path} is missing: copy the adapters' tables with the run")
    sums: dict[tuple[str, str, str], tuple[int, float, float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            place = run.manifest.perturbation["places"][row["layer"]]
            key = (place["block"], place["level"], place["role"])
            count, delta, base = sums.get(key, (0, 0.0, 0.0))
            square = float(row["base_norm"]) ** 2
            sums[key] = (count + 1, delta + float(row["delta_ratio"]) ** 2 * square, base + square)
    return sums


def analyse(paths: Iterable[str | Path], output: Path, console: Console) -> list[Path]:
    """Write tables and figures of ablation runs into ``output``, print the ablation; returns what was written.

    Raises UserError for runs that are no ablations, or not of one study.
    """
    models = read_replicates(paths, PART)
    found, energy = list(effects(models)), list(energies(models))
    frames = {"energy": pd.DataFrame(energy), "ablation": pd.DataFrame(effect_rows(found, models))}
    for name, frame in frames.items():
        write_atomic(output / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDEST)
    motion = [effect for effect in found if effect.metric == MOTION]
    heading = "\nChange of motion quality when only this part is perturbed; bold: 95 % interval over prompts excludes 0"
    console.print(Text(heading, style="bold"))
    console.print(effect_table(motion))
    from perturb.analysis.layers.figure import layers_figure  # matplotlib is slow to import
    from perturb.analysis.plots import save

    written = [output / f"{name}.csv" for name in frames]
    for training in dict.fromkeys(model.training for model in models):
        mine = [effect for effect in motion if effect.training == training]
        figure = layers_figure(training, mine, [each for each in energy if each.training == training])
        written += save(figure, output / f"layers_{training}.png")
    return written


def summarise(run_path: str | Path) -> Path:
    """Print the ablation of one run and return its figure, drawn into its directory."""
    return analyse([run_path], Path(run_path) / "figures", Console())[-2]


def effect_table(motion: Sequence[Effect]) -> Table:
    """The change of motion quality that every part makes, with its interval over prompts."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("part")
    for effect in motion:
        table.add_column(f"{effect.training}, {effect.group}", justify="right")
    for part in dict.fromkeys(part for effect in motion for part in effect.parts[1:]):
        cells = [effect.of(part).over_prompts for effect in motion]
        table.add_row(part, *(Text(cell(e, 3, "+"), style="bold" if e.excludes_zero else "") for e in cells))
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    return compare_runs(analyse, name="layers", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
