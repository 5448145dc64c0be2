"""`python -m perturb.analysis.coupling RUNS… -o experiments/coupling`: a study's tables and figures.

Writes runs.csv, curves.csv, contrasts.csv, gaps.csv, cells.csv, prompts.csv.gz and the figures as png and pdf; prints
the contrasts.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perturb.analysis.cells import interval_columns
from perturb.analysis.command import compare_runs
from perturb.analysis.coupling.comparisons import LEADING, PRIMARY_CONDITION, PRIMARY_METRIC, Results, Row
from perturb.analysis.coupling.design import Design
from perturb.analysis.coupling.stepwise import Stepwise, cell_rows, gap_rows
from perturb.analysis.load import completeness, find_runs, load
from perturb.analysis.prompts import Clips, write_prompts
from perturb.analysis.statistics.estimates import Estimate
from perturb.analysis.statistics.significance import FOOTNOTE
from perturb.analysis.summary import WIDEST
from perturb.analysis.table import cell, decimals, number
from perturb.store.rundir import write_atomic

TITLES = {
    "primary": "motion quality, {condition}",
    "motion": "motion quality, {condition}",
    "parts": "parts and labels, {condition}",
    "visual": "visual measures, {condition}",
    "random": "motion quality, random controls",
    "control": "motion quality, LoRA − its control",
}


def analyse(paths: Iterable[str | Path], output: Path, console: Console) -> list[Path]:
    """Write the tables and figures of a study into ``output`` and print its contrasts; returns what was written.

    ``paths`` are run directories, or folders with run directories anywhere beneath. Raises UserError for runs that do
    not make one complete study.
    """
    results = Results.of(Design.of(load(find_runs(paths))))
    stepwise = Stepwise.of(results)
    tables = {
        "runs": run_rows(results),
        "curves": curve_rows(results),
        "contrasts": contrast_rows(results),
        "gaps": gap_rows(results, stepwise),
        "cells": cell_rows(results, stepwise),
    }
    written = [output / f"{name}.csv" for name in tables]
    for path, rows in zip(written, tables.values(), strict=True):
        write_atomic(path, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDEST)
    console.print(contrast_table(results))
    console.print(Text(footnote(results), style="dim"), width=min(WIDEST, console.width))
    clips = (
        Clips(where.columns, run, results.design.scores[run.manifest.run_id])
        for where, runs in results.design.runs.items()
        for run in runs.values()
    )
    written.append(write_prompts(output, clips))
    # matplotlib is slow to import, and the table should not wait for it
    from perturb.analysis.coupling import figure as coupling_figure
    from perturb.analysis.coupling import stepwise_figure
    from perturb.analysis.plots import save

    drawn = chain(coupling_figure.figures(results), stepwise_figure.figures(results, stepwise))
    return written + [path for name, figure in drawn for path in save(figure, output / f"{name}.png")]


def run_rows(results: Results) -> Iterator[dict[str, Any]]:
    """runs.csv: a row per run, ‖Δ‖/‖θ‖ at the last step, and how many of its values are what they should be."""
    design = results.design
    for where, runs in design.runs.items():
        for seed, run in runs.items():
            scores = design.scores[run.manifest.run_id]
            counts = completeness(scores)
            yield where.columns | {
                "lora_seed": seed,
                "run": run.manifest.run_id,
                "reference": (run.manifest.perturbation.get("reference") or {}).get("run", ""),
                "step": design.steps[-1],
                "magnitude": run.magnitude[design.steps[-1]],
                "ok": int((scores.status == "ok").sum()),
                "unavailable": counts.unavailable,
                "failed": counts.failed,
                "missing": counts.missing,
            }


def curve_rows(results: Results) -> Iterator[dict[str, Any]]:
    """curves.csv: a row per cell, measure and step; ``share`` is of the mean at step 0, where that means something."""
    for (where, metric), curve in results.curves.items():
        for i, step in enumerate(results.design.steps):
            level = curve.levels[i]
            shares = bounds("share", curve.shares[i].over_both) if curve.shares else {}
            yield where.columns | {
                "metric": metric,
                "step": step,
                "magnitude": float(curve.dose[i]),
                **interval_columns("mean", level),
                **shares,
            }


def contrast_rows(results: Results) -> Iterator[dict[str, Any]]:
    """contrasts.csv: a row per comparison and reading; the first one is the primary endpoint."""
    for row in results.rows:
        reading, found = row.reading, row.contrast
        yield {
            "family": row.comparison.family,
            "primary": row.is_primary,
            "contrast": row.comparison.name,
            **row.comparison.columns,
            "metric": row.comparison.metric,
            "reading": reading.summary,
            "axis": reading.axis,
            "scale": reading.scale,
            "unit": reading.unit,
            "first": found.first,
            "second": found.second,
            **interval_columns("difference", found.difference),
            "boot_low": found.bootstrap.low,
            "boot_high": found.bootstrap.high,
            **found.test.columns,
            "p_holm": row.p_holm,
            "p_bh": row.p_bh,
            "incomplete": found.incomplete,
        }


def bounds(name: str, estimate: Estimate) -> dict[str, float]:
    """Three columns: the mean under its name, and its interval."""
    return {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def contrast_table(results: Results) -> Table:
    """Every reading of motion quality under LoRA; of all else, the reading of the primary endpoint alone."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for header in ("first", "second", "first − second", "± over prompts", "± over seeds", "p", "p Holm"):
        table.add_column(header, justify="right", no_wrap=True)
    heading = ""
    for row in results.rows:
        if row.comparison.family not in ("primary", "motion") and row.reading != LEADING:
            continue
        title = TITLES[row.comparison.family].format(condition=row.comparison.first.condition)
        if title != heading:
            if heading:
                table.add_section()
            table.add_row(Text(title, style="bold"))
            heading = title
        table.add_row(*_cells(row), style="reverse" if row.is_primary else "")
    return table


def _cells(row: Row) -> Iterator[Text]:
    found = row.contrast
    both, prompts, seeds = found.difference.over_both, found.difference.over_prompts, found.difference.over_seeds
    digits = decimals([found.first, found.second])
    yield Text(f"  {row.label}")
    if not both.n:
        yield Text("not measured", style="dim")
        return
    yield Text(number(found.first, digits))
    yield Text(number(found.second, digits))
    yield Text(cell(both, digits, sign="+"), style="bold" if both.excludes_zero else "")
    for one in (prompts, seeds):
        yield Text(f"±{one.half_width:.{digits}f}" if one.n > 1 else "–", style="bold" if one.excludes_zero else "")
    yield Text(found.test.printed(found.test.p))
    yield Text(found.test.printed(row.p_holm))


def footnote(results: Results) -> str:
    """How to read the table, what it rests on and what it leaves out."""
    design = results.design
    counts = [completeness(scores) for scores in design.scores.values()]
    incomplete = max(row.contrast.incomplete for row in results.rows if row.contrast.difference.over_prompts.n)
    prompts = len({prompt for prompt, _ in design.clips})
    seeds = {kind: len(design.seeds(where)) for where in design.runs if (kind := where.kind)}
    return (
        f"Primary endpoint (inverted row): slope of {PRIMARY_METRIC.replace('_', ' ')} per 100 steps, full − partial, "
        f"under the {PRIMARY_CONDITION} perturbation; below 0: the full model loses more. First and second: full and "
        "partial, under “LoRA − its control” LoRA and control. ±: half-width of the 95 % interval over prompts × "
        "LoRA seeds (two-way, Satterthwaite), then over either alone; bold where it excludes 0. No interval covers "
        f"other pairs of models. {FOOTNOTE} Holm within a family and a reading.\n"
        f"Runs: {sum(map(len, design.runs.values()))} (LoRA seeds: {', '.join(f'{n} {k}' for k, n in seeds.items())}). "
        f"Prompts: {prompts}, noises: {len(design.clips) // prompts}. "
        f"Incomplete pairs left out of a contrast: at most {incomplete} of {len(design.clips)}. "
        f"Values: {sum(c.expected for c in counts)}, of them {sum(c.missing for c in counts)} missing, "
        f"{sum(c.failed for c in counts)} failed, {sum(c.unavailable for c in counts)} unavailable."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    return compare_runs(analyse, name="coupling", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
