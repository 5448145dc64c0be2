"""The rows of a study's tables: runs, curves and contrasts."""

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from perturb.analysis.coupling.comparisons import LEADING, PRIMARY_CONDITION, PRIMARY_METRIC, Results, Row
from perturb.analysis.load import completeness
from perturb.analysis.replicates import interval_columns
from perturb.analysis.statistics.estimates import Estimate
from perturb.analysis.statistics.significance import FOOTNOTE
from perturb.analysis.table import cell, decimals, number

TITLES = {
    "primary": "motion quality, {condition}",
    "motion": "motion quality, {condition}",
    "parts": "parts and labels, {condition}",
    "visual": "visual measures, {condition}",
    "random": "motion quality, random controls",
    "control": "motion quality, LoRA − its control",
}


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
    """contrasts.csv: a row per comparison and reading; the first one is the leading reading."""
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
    """Every reading of motion quality under LoRA; of all else the leading one alone."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for header in ("first", "second", "first − second", "± prompts", "± seeds", "p", "p Holm"):
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
        f"Leading reading (inverted row, descriptive): slope of {PRIMARY_METRIC.replace('_', ' ')} per 100 steps, "
        f"full − partial, under the {PRIMARY_CONDITION} perturbation; below 0: the full model loses more. First and "
        "second: full and partial, under “LoRA − its control” LoRA and control. ±: half-width of the 95 % interval "
        "over prompts × LoRA seeds (two-way, Satterthwaite), then over either alone; bold where it excludes 0. No "
        f"interval covers other pairs of models. {FOOTNOTE} Holm within a family and a reading.\n"
        f"Runs: {sum(map(len, design.runs.values()))} (LoRA seeds: {', '.join(f'{n} {k}' for k, n in seeds.items())}). "
        f"Prompts: {prompts}, noises: {len(design.clips) // prompts}. "
        f"Incomplete pairs left out of a contrast: at most {incomplete} of {len(design.clips)}. "
        f"Values: {sum(c.expected for c in counts)}, of them {sum(c.missing for c in counts)} missing, "
        f"{sum(c.failed for c in counts)} failed, {sum(c.unavailable for c in counts)} unavailable."
    )
