"""The runs of a folder at a glance: one self-contained html file, a row per run, with its clips playing in every state.

Axis letters: t frames, h w pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from perturb.analysis.load import find_runs, load
from perturb.analysis.notation import leaf
from perturb.analysis.report.content import without_folders
from perturb.analysis.report.page import template, template_text
from perturb.analysis.report.player import QUALITY, Settings, sprite
from perturb.analysis.report.write import FILE
from perturb.analysis.result import Result
from perturb.analysis.statistics.endpoints import PRIMARY
from perturb.analysis.strips import load_strips
from perturb.analysis.table import number
from perturb.errors import UserError
from perturb.store.records import Manifest
from perturb.store.rundir import RunDir, write_atomic

COLUMNS = ("run", "training", "group", "D_I", "LoRA seed", "pair", "motion quality")


@dataclass(frozen=True)
class Cell:
    """What a column says of a run: a text, something smaller beneath it, and what it is sorted by, None last."""

    text: str
    detail: str = ""
    order: str | float | None = None


def write_gallery(paths: Sequence[str | Path], output: Path, settings: Settings) -> None:
    """Write the gallery of every run in these folders, whole or not at all. Raises UserError for no run."""
    write_atomic(output, gallery(find_runs(paths), output, settings))


def gallery(runs: Sequence[Path], output: Path, settings: Settings) -> str:
    """The page, to lie at ``output``: reports of runs are linked where they lie beneath its folder."""
    rows, left = [], settings.budget * 1e6
    for path in runs:
        row = _row(path, settings, left)
        left -= len(row["clips"].get("sheet", ""))
        rows.append({**row, "link": _link(path / FILE, output.parent)})
    return template("gallery.html").render(
        columns=COLUMNS,
        rows=rows,
        unscored=sum(not row["scored"] for row in rows),
        style=Markup(template_text("page.css") + template_text("gallery.css")),
        script=Markup(template_text("gallery.js")),
    )


def _row(path: Path, settings: Settings, left: float) -> dict[str, Any]:
    """One run. One that cannot be read is not scored yet as a rule: its row says how far it is, or why."""
    directory = RunDir(path)
    manifest = directory.manifest()
    try:
        study = load([path])
        result = Result.of(study, study.runs[0])
        motion, clips = _motion(result), _clips(result, settings, left)
    except UserError as error:
        stages = ", ".join(f"{stage} {status}" for stage, status in manifest.stages.items())
        why = without_folders(error) if directory.scores.is_file() else f"not scored yet: {stages or 'nothing is done'}"
        motion, clips = Cell("–"), {"reason": why}
    return {"cells": [*_facts(manifest), motion], "clips": clips, "scored": directory.scores.is_file()}


def _facts(manifest: Manifest) -> list[Cell]:
    """The columns that the manifest knows before anything is scored."""
    seed = manifest.perturbation.get("seed")
    texts = [
        manifest.system.get("training"),
        manifest.perturbation.get("group"),
        leaf(manifest.images.get("source") or ""),
        seed,
        manifest.system.get("pair"),
    ]
    words = ["" if text is None else str(text) for text in texts]
    run = f"{manifest.experiment or 'run'}/{manifest.run_id}"
    return [Cell(manifest.experiment or "run", manifest.run_id, run), *(Cell(w or "–", order=w or None) for w in words)]


def _motion(result: Result) -> Cell:
    """Motion quality from the first state to the last, or to the lowest where the states have no order."""
    levels = result.levels.get(PRIMARY)
    known = {point: levels.at(point).mean for point in result.points if levels.at(point).n} if levels else {}
    if not known:
        return Cell("–", "not measured")
    start, end = result.points[0], max(known) if result.is_curve else min(known, key=lambda point: known[point])
    texts = [number(known[point], 2) for point in (start, end) if point in known]
    return Cell(" → ".join(texts), result.named(end), known[end])


def _clips(result: Result, settings: Settings, left: float) -> dict[str, Any]:
    """The typical clip of a run, its states below each other in one sheet of frames; or why there is none."""
    strips = load_strips(result)
    if not strips:
        why = (
            "its clips are not here" if result.levels.get(PRIMARY) else "motion quality, which chooses them, is absent"
        )
        return {"reason": f"no clips: {why}"}
    clips = strips[0].clips
    sheet = sprite(list(clips.values()), settings.side, quality=QUALITY)
    if len(sheet) > left:
        return {"reason": f"the page has no room left for its clips (--clips-mb {settings.budget:g})"}
    t, h, w, _ = next(iter(clips.values())).shape
    size = {"frames": t, "height": h, "width": w, "seconds": t / result.run.playback_fps}
    return {"sheet": sheet, "states": list(clips), "prompt": strips[0].prompt, **size}


def _link(report: Path, folder: Path) -> str:
    """The way from the page to a report beneath it; empty for one elsewhere: no page tells of other places."""
    report, folder = report.resolve(), folder.resolve()
    beneath = report.is_file() and report.is_relative_to(folder)
    return quote(report.relative_to(folder).as_posix()) if beneath else ""
