"""Score the clips of every state and write them into scores.csv, one finished state at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perturb.loop.rank import local_processes, mine, processes, wait_for
from perturb.metrics import ClipSource, Engine, Format, Metric, Scores, SetMetric, Workers, suitable_workers
from perturb.progress import progress
from perturb.store.paths import resolve
from perturb.store.records import SET_PROMPT, SET_SEED, ScoreRow, read_scores, scores_csv
from perturb.store.rundir import RunDir, write_atomic

if TYPE_CHECKING:
    from perturb.data.images import ImageSet

MAX_IMAGES = 512
"""Of D_I, in even distances: enough for statistics of single images."""


@dataclass(frozen=True)
class Labels:
    """What every score row of a run says about the run."""

    run_id: str
    training: str
    group: str
    lora_seed: int


@dataclass(frozen=True)
class Sampled:
    """What ``run`` has sampled: (prompt id, noise seed) pairs in each state, the prompts by id, and the format.

    ``states`` are ids; the first is the unperturbed model, with which the others are compared.
    """

    run: RunDir
    labels: Labels
    samples: Sequence[tuple[str, int]]
    prompts: Mapping[str, str]
    states: Sequence[str]
    form: Format

    def clips(self, state: str) -> list[ClipSource]:
        """The clips of a state, each with that of the unperturbed model to compare with."""
        return [self._clip(state, each, self._clip(self.states[0], each, None)) for each in self.samples]

    def _clip(self, state: str, sample: tuple[str, int], original: ClipSource | None) -> ClipSource:
        path = self.run.clip(state, *sample)
        read = partial(_read, path, self.form.fps)
        return ClipSource(path.name, read, *sample, state, self.prompts.get(sample[0], ""), original)


def score_cache(runs_dir: str) -> Path:
    """Where the runs of a folder keep what was measured of a clip; it may be deleted at any time."""
    return resolve(runs_dir) / ".cache" / "scores"


def score(
    metrics: Sequence[Metric | SetMetric], sampled: Sampled, *, images: ImageSet | None, cache: Path | None
) -> None:
    """Score what a run has sampled, compared with its unperturbed clips and with the images D_I.

    scores.csv is rewritten whole and sorted after each state; the rows of finished states are kept as they are.
    Processes take states by turns (of all states, since what is left changes while they begin), and hand theirs in as
    files to the one that writes the run. What was handed in and not yet taken is taken by whoever goes on.
    """
    run = sampled.run
    todo = [state for state in sampled.states if not run.is_done("score", state)]
    parts = {state: run.path / ".parts" / f"{state}.csv" for state in todo}
    own = [state for state in mine(sampled.states) if state in parts and not parts[state].is_file()]
    for state, rows in scored(metrics, sampled, own, images=images, cache=cache):
        if processes() == 1:
            _add(run, state, rows, sampled.states)
        else:
            write_atomic(parts[state], scores_csv(rows, sampled.states))
    for state, part in parts.items() if run.writes else ():
        if run.is_done("score", state):
            continue
        wait_for(part.is_file)
        _add(run, state, read_scores(part), sampled.states)
        part.unlink()


def _add(run: RunDir, state: str, rows: Sequence[ScoreRow], states: Sequence[str]) -> None:
    """Put the rows of a state into scores.csv, in the place of any that a killed process left there."""
    others = [row for row in read_scores(run.scores) if row.state != state] if run.scores.is_file() else []
    write_atomic(run.scores, scores_csv([*others, *rows], states))
    run.mark_done("score", state)


def scored(
    metrics: Sequence[Metric | SetMetric],
    sampled: Sampled,
    states: Sequence[str],
    *,
    images: ImageSet | None,
    cache: Path | None,
) -> Iterator[tuple[str, list[ScoreRow]]]:
    """State after state with its rows. ``cache``: see `Engine`."""
    if not states:
        return
    total = len(states) * len(sampled.samples)
    workers = max(1, suitable_workers(total) // local_processes())
    with Engine(metrics, cache, workers=workers) as engine, progress("score", total) as advance:
        reference = engine.gather(sampled.clips(sampled.states[0]))
        stills = None if images is None else engine.gather(image_clips(images, sampled.form), Workers(1))
        for state in states:
            survey = engine.measure(sampled.clips(state), advance)
            yield state, list(_rows(engine.scores(survey, reference, stills), state, sampled.labels))


def image_clips(images: ImageSet, form: Format) -> Iterator[ClipSource]:
    """The images D_I, at most `MAX_IMAGES`, as clips of one frame in the size of ``form``."""
    chosen = np.linspace(0, len(images) - 1, min(len(images), MAX_IMAGES)).round().astype(int)
    for index in chosen.tolist():
        read = partial(_still, images, index, form)
        yield ClipSource(f"image {index}", read, f"image {index}")


def _still(images: ImageSet, index: int, form: Format) -> tuple[np.ndarray, float]:
    pixels = images.load(index, form.height, form.width)
    frame = pixels.add(1).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 0)
    return frame[None].numpy(), form.fps


def _read(path: Path, fps: float) -> tuple[np.ndarray, float]:
    return np.load(path), fps


def _rows(scores: Scores, state: str, labels: Labels) -> Iterator[ScoreRow]:
    found = [(clip.source.sample, clip.values) for clip in scores.clips]
    for (prompt_id, seed), values in [*found, ((SET_PROMPT, SET_SEED), scores.whole)]:
        for name, value in values.items():
            place: dict[str, Any] = {"state": state, "prompt_id": prompt_id, "seed": seed, "metric": name}
            yield ScoreRow(**vars(labels), **place, **vars(value))
