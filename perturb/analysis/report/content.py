"""What a report is about: the runs, and the coupling study that they make, or the reason why they make none."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturb.analysis.coupling.curves import Results
from perturb.analysis.coupling.design import Design
from perturb.analysis.coupling.fits import Fit, times
from perturb.analysis.load import Run, Study, find_runs, load
from perturb.analysis.notation import leaf
from perturb.analysis.result import Result
from perturb.analysis.table import percent
from perturb.errors import UserError

FOLDERS = re.compile(r"(?<![\w.<])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\",;:()]+[/\\])+(?=[^\s/\\])")
"""The folders of an absolute path: a page that is passed on should not tell where its maker keeps things."""


@dataclass(frozen=True)
class Report:
    """All runs, one by one; ``coupling`` is None where they make no study, and ``reason`` then says why."""

    runs: tuple[Result, ...]
    coupling: Results | None
    reason: str

    @staticmethod
    def of(paths: Iterable[str | Path]) -> "Report":
        """From run directories, or folders with run directories anywhere beneath. Raises UserError for none."""
        study = load(find_runs(paths))
        runs = tuple(Result.of(study, run) for run in study.runs)
        curves = tuple(result.run for result in runs if result.is_curve)
        if not curves:
            return Report(runs, None, "No run goes along the steps of a fit, so none is part of a coupling study.")
        if len(runs) == 1:
            return Report(runs, None, "One run holds one model; a contrast needs its twin under the same perturbation.")
        try:
            return Report(runs, Results.of(Design.of(Study(curves, study.frames))), "")
        except UserError as error:
            return Report(runs, None, _named(study, str(error)))


def name(run: Run) -> str:
    """How a report calls a run: ``spatial_full/0123456789``."""
    return f"{run.manifest.experiment or 'run'}/{run.manifest.run_id}"


def without_folders(text: object) -> str:
    """A text with every absolute path cut to its last part.

    >>> without_folders("no file /home/me/hub/alexnet.pth (see docs)"), without_folders("package:weights/nano/full")
    ('no file alexnet.pth (see docs)', 'package:weights/nano/full')
    """
    return FOLDERS.sub("", str(text))


def run_facts(result: Result) -> dict[str, Any]:
    """One line of the table of runs: which model was perturbed, how, how far, and how complete it is."""
    manifest, counts = result.run.manifest, result.counts
    perturbation, system = manifest.perturbation, manifest.system
    magnitude = max(result.run.magnitude.values(), default=None)
    fit = Fit.of([result.run]) if result.is_curve else None
    return {
        "run": name(result.run),
        "pair": str(system.get("pair") or ""),
        "model": f"{system.get('spec', 'unnamed')}, {result.training}",
        "weights": leaf(system.get("checkpoint", "")),
        "sha256": str(system.get("sha256", ""))[:12],
        "perturbed": result.group,
        "by": str(perturbation.get("kind", "")),
        "stills": str(manifest.images.get("as_video", "")).replace("_", " "),
        "D_I": leaf(manifest.images.get("source", "")),
        "distance": times(fit.distance) if fit else "",
        "fit": fit.words if fit else "",
        "seed": perturbation.get("seed", ""),
        "largest ‖Δ‖/‖θ‖": "unknown" if magnitude is None else percent(magnitude),
        "values": counts.expected,
        "missing": counts.missing,
        "failed": counts.failed,
        "unavailable": counts.unavailable,
    }


def shared_facts(runs: Iterable[Result]) -> Iterator[tuple[str, str]]:
    """What the runs have in common, in words; where they differ, every variant once."""
    results = list(runs)
    for what, tell in FACTS.items():
        values = list(dict.fromkeys(text for result in results if (text := tell(result))))
        if values:
            yield what, " · ".join(map(without_folders, values))


def _clips(result: Result) -> str:
    clips = result.run.manifest.clips
    if not {"frames", "height", "width", "fps"} <= set(clips):
        return ""
    return f"{clips['frames']} frames of {clips['height']}×{clips['width']} at {clips['fps']} fps"


def _images(result: Result) -> str:
    images = result.run.manifest.images
    count, source = images.get("count"), images.get("source")
    skipped = f", {len(images['skipped'])} damaged ones left out" if images.get("skipped") else ""
    return f"{count} from {leaf(source)}{skipped}" if source else ""


def _states(result: Result) -> str:
    """``by spatial and temporal: 0, 0; 0, 1; 1, 0; 1, 1``."""
    return f"by {' and '.join(result.run.coordinates)}: {'; '.join(result.labels.values())}"


def _perturbation(result: Result) -> str:
    perturbation = result.run.manifest.perturbation
    known = {key: perturbation[key] for key in ("rank", "alpha", "dropout", "targets") if key in perturbation}
    layers = perturbation.get("layers")
    if layers:
        known["layers"] = len(layers)
    return ", ".join([str(perturbation.get("kind", "")), *(f"{key} {value}" for key, value in known.items())])


FACTS = {
    "sample": lambda result: result.size,
    "probe steps": lambda result: ", ".join(result.labels.values()) if result.is_curve else "",
    "states": lambda result: "" if result.is_curve else _states(result),
    "clips": _clips,
    "sampler": lambda result: str(result.run.manifest.clips.get("sampler", "")),
    "precision": lambda result: str(result.run.manifest.clips.get("precision", "")),
    "stills (D_I)": _images,
    "perturbation": _perturbation,
    "parameters by group": lambda result: ", ".join(f"{k} {v}" for k, v in result.run.manifest.partition.items()),
    "versions": lambda result: ", ".join(f"{k} {v}" for k, v in result.run.manifest.versions.items()),
    "revision": lambda result: result.run.manifest.git[:12],
}


def _named(study: Study, message: str) -> str:
    """A message with runs by their names instead of where they lie."""
    for run in study.runs:
        message = message.replace(str(run.directory.path), name(run))
    return without_folders(message)
