"""Run directories → one tidy pandas frame, one row per value, checked against the schema.

Works on runs copied from another machine: only scores.csv, states.csv and manifest.json are read here (of old runs
train.csv in the place of states.csv).
"""

import csv
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from perturb.errors import UserError
from perturb.store.records import SCORE_COLUMNS, SET_PROMPT, Manifest, ScoreRow, Status, read_scores
from perturb.store.rundir import RunDir
from perturb.store.states import STATE, STEP, State, steps

Point = int | str
"""What a state is told apart by: its step along a fit, its id elsewhere."""
KEY = ["run_id", "state", "prompt_id", "seed", "metric"]
"""The columns that name one value; no two rows of a frame share them."""

MANIFEST, FITS = "manifest.json", "fits"
AXES = ("motion", "visual", "text", "drift")


@dataclass(frozen=True)
class Measure:
    """How to read one metric: ``axis`` motion | visual | text | drift; ``direction`` up | down | band (better).

    ``floor`` is the lowest value it can take, None when there is none.
    """

    name: str
    axis: str
    unit: str
    direction: str
    floor: float | None

    @staticmethod
    def of(info: Mapping[str, Any], source: Path) -> "Measure":
        """From a metric info of the manifest. Raises UserError when it lacks a field or has an unknown axis."""
        wanted = ("name", "axis", "unit", "direction", "range")
        if absent := [key for key in wanted if key not in info]:
            raise UserError(f"{source}: the metric info {dict(info)} lacks {absent}; every metric declares {wanted}.")
        if info["axis"] not in AXES:
            raise UserError(f"{source}: metric {info['name']} has the axis {info['axis']!r}; allowed: {AXES}.")
        low = info["range"][0]
        return Measure(*(str(info[key]) for key in wanted[:4]), floor=None if low is None else float(low))

    @property
    def is_ratio(self) -> bool:
        """Whether 0 means none of it, so that a share of a value is a quantity too."""
        return self.floor == 0

    @property
    def label(self) -> str:
        """The name with its better direction: ``sharpness ↑``; two-sided measures get ``↕``."""
        return f"{self.name.replace('_', ' ')} {({'up': '↑', 'down': '↓'}).get(self.direction, '↕')}"


@dataclass(frozen=True)
class Run:
    """What a run directory says about itself, and its states, the unperturbed model first."""

    directory: RunDir
    manifest: Manifest
    measures: tuple[Measure, ...]
    states: tuple[State, ...]

    @property
    def coordinates(self) -> tuple[str, ...]:
        """The columns of the scores that say what a state is: ("step",), ("spatial", "temporal"), ("part",), …"""
        return tuple(self.states[0].coordinates)

    @property
    def along(self) -> str:
        """The column by which the states of this run are told apart: "step" where they lie along a fit, or "state"."""
        return STEP if self.coordinates == (STEP,) else STATE

    @property
    def points(self) -> dict[Point, State]:
        """The states by their value in `along`, in order."""
        along = steps(self.states)
        return {**along} or {state.id: state for state in self.states}

    @property
    def magnitude(self) -> dict[Point, float]:
        """‖Δ‖_F/‖θ‖_F by point, where it is known."""
        return {point: state.magnitude for point, state in self.points.items() if state.magnitude is not None}

    @property
    def playback_fps(self) -> float:
        """Frames per second at which its clips are shown; of runs that do not say it, what the model was told."""
        return float(self.manifest.playback_fps or self.manifest.clips.get("fps") or 8)

    @property
    def loss(self) -> dict[Point, float]:
        """The loss on D_I by point, where it was recorded. Of a random Δ none is; earlier runs repeat the LoRA's."""
        if self.manifest.perturbation.get("kind") == "random":
            return {}
        return {point: state.loss for point, state in self.points.items() if state.loss is not None}

    def clip(self, point: Point, prompt_id: str, seed: int) -> Path:
        """The lossless frames of one clip."""
        return self.directory.clip(self.points[point].id, prompt_id, seed)


@dataclass(frozen=True)
class Study:
    """Runs and all their values: a frame per run with the columns of `ScoreRow` and a column per coordinate.

    The value is NaN unless the status is ``ok``; rows are in the order of the states.
    """

    runs: tuple[Run, ...]
    frames: Mapping[str, pd.DataFrame]

    @property
    def scores(self) -> pd.DataFrame:
        """The rows of all runs; NaN where a run has not the coordinate of another."""
        return pd.concat(self.frames.values(), ignore_index=True)

    def of(self, run: Run) -> pd.DataFrame:
        """The rows of one run."""
        return self.frames[run.manifest.run_id]


def clips_of(rows: pd.DataFrame) -> list[tuple[str, int]]:
    """(prompt, noise seed) of every clip among the rows of a run, in order."""
    clips = rows.loc[rows.seed >= 0, ["prompt_id", "seed"]].drop_duplicates()
    return sorted((str(prompt), int(seed)) for prompt, seed in clips.itertuples(index=False))


@dataclass(frozen=True)
class Completeness:
    """Counts of values: ``missing`` = (clip, metric) or (state, set metric) pairs that have no row at all."""

    clips: int
    expected: int
    missing: int
    unavailable: int
    failed: int


def load(paths: Sequence[str | Path]) -> Study:
    """One or many run directories → a Study. Raises UserError naming the file, what it holds and what to do."""
    if not paths:
        raise UserError("No run directory given; give at least one, for example runs/spatial_full/0123456789.")
    loaded = [_load_one(RunDir(Path(path).expanduser())) for path in paths]
    seen: dict[str, Path] = {}
    for run, _ in loaded:
        if other := seen.get(run.manifest.run_id):
            raise UserError(
                f"{run.directory.path} and {other} hold the same run {run.manifest.run_id}. Give each run once."
            )
        seen[run.manifest.run_id] = run.directory.path
    return Study(tuple(run for run, _ in loaded), {run.manifest.run_id: scores for run, scores in loaded})


def find_runs(paths: Iterable[str | Path]) -> list[Path]:
    """Every run directory given or beneath a folder given, in order; the fits that a run made for itself are its parts.

    Raises UserError for a path that has none.
    """
    found: list[Path] = []
    for path in (Path(path).expanduser() for path in paths):
        if not path.exists():
            raise UserError(f"{path} does not exist. Give folders of `perturb.run`, or a folder above them.")
        runs = sorted(manifest.parent for manifest in path.rglob(MANIFEST))
        runs = [run for run in runs if run == path or run.parent.name != FITS]
        if not runs:
            raise UserError(f"{path} holds no run: no {MANIFEST} in it or beneath it. Give folders of `perturb.run`.")
        found += runs
    return found


def check_alike(runs: Iterable[tuple[Run, Mapping[str, Any]]]) -> None:
    """Runs with what they should share, by name. Raises UserError for the first thing in which two of them differ."""
    seen: dict[str, tuple[Any, Run]] = {}
    for run, shared in runs:
        for what, value in shared.items():
            first, other = seen.setdefault(what, (value, run))
            if first != value:
                raise UserError(
                    f"{run.directory.path} and {other.directory.path} differ in their {what}: {_apart(value, first)}. "
                    "Runs are compared prompt by prompt and state by state; give runs of one study."
                )


def _apart(one: Any, other: Any) -> str:
    """Two values, short enough to read: of mappings and sequences what only one of them has."""
    if isinstance(one, dict) and isinstance(other, dict):
        one, other = tuple(one.items()), tuple(other.items())
    if isinstance(one, tuple) and isinstance(other, tuple):
        one, other = ([x for x in a if x not in b][:3] for a, b in ((one, other), (other, one)))
    return f"{one} and {other}"


def completeness(scores: pd.DataFrame) -> Completeness:
    """Count what the frame should hold and does not.

    Expected, within each run: every (prompt, noise seed) seen × every state × every per-clip metric, and every state ×
    every set-level metric; a row counts as present whatever its status.
    """
    clips = expected = missing = 0
    for _, run in scores.groupby("run_id"):
        states = run.state.nunique()
        for is_set, part in run.groupby(run.prompt_id == SET_PROMPT):
            units = len(part[["prompt_id", "seed"]].drop_duplicates()) * states
            clips += 0 if is_set else units
            expected += units * part.metric.nunique()
            missing += units * part.metric.nunique() - len(part)
    status = scores.status.value_counts()
    return Completeness(clips, expected, missing, int(status.get("unavailable", 0)), int(status.get("failed", 0)))


def _load_one(directory: RunDir) -> tuple[Run, pd.DataFrame]:
    if not directory.manifest_path.is_file() or not directory.scores.is_file():
        absent = [p.name for p in (directory.manifest_path, directory.scores) if not p.is_file()]
        raise UserError(
            f"{directory.path} is not a scored run: no {' and no '.join(absent)}. "
            "Give a folder made by `python -m perturb.run`; run that command again if it was stopped early, and delete "
            "the folder if the command was refused."
        )
    manifest = directory.manifest()
    measures = tuple(Measure.of(info, directory.manifest_path) for info in manifest.metrics)
    scores = _frame(_read(directory.scores), directory.scores)
    _check_agreement(scores, manifest, measures, directory.scores)
    known = directory.states()
    if strangers := sorted(set(scores.state) - {state.id for state in known}):
        raise UserError(f"{directory.scores} has states {strangers} that {directory.states_path} does not list.")
    states = tuple(state for state in known if state.id in set(scores.state))
    run = Run(directory, manifest, measures, states)
    coordinates = pd.DataFrame([{STATE: state.id, **state.coordinates} for state in states])
    joined = coordinates.merge(scores, on=STATE).loc[:, [*SCORE_COLUMNS, *run.coordinates]]
    return run, joined


def _read(path: Path) -> list[ScoreRow]:
    try:
        return read_scores(path)
    except UserError:
        raise
    except (ValueError, TypeError, csv.Error) as error:  # TypeError: a line that ends too early
        raise UserError(f"{path} has a cell that is not of its column's type ({error}). Run the study again.") from None


def _frame(rows: list[ScoreRow], path: Path) -> pd.DataFrame:
    if not rows:
        raise UserError(f"{path} has no rows: nothing was scored. Run `python -m perturb.run` again; it resumes.")
    for row in rows:
        if row.status not in get_args(Status):
            raise UserError(
                f"{path}: {row.metric} of {row.prompt_id} in state {row.state} has status {row.status!r}; "
                f"allowed: {get_args(Status)}."
            )
        if (row.status == "ok") != (row.value is not None and math.isfinite(row.value)):
            raise UserError(
                f"{path}: {row.metric} of {row.prompt_id} in state {row.state} has status {row.status!r} and value "
                f"{row.value}; a value that is ok is a finite number, any other is empty."
            )
    frame = pd.DataFrame([dataclasses.asdict(row) for row in rows], columns=list(SCORE_COLUMNS))
    if (repeated := frame.duplicated(KEY)).any():
        first = frame.loc[repeated, KEY].iloc[0].to_dict()
        raise UserError(f"{path} has {repeated.sum()} duplicate rows, the first {first}. Each value belongs in once.")
    return frame.astype({"value": "float64"})


def _check_agreement(scores: pd.DataFrame, manifest: Manifest, measures: Sequence[Measure], path: Path) -> None:
    if strangers := sorted(set(scores.run_id) - {manifest.run_id}):
        raise UserError(f"{path} has rows of run {strangers}; its manifest says {manifest.run_id!r}. Do not mix runs.")
    if unknown := sorted(set(scores.metric) - {measure.name for measure in measures}):
        raise UserError(f"{path} has metrics {unknown} that the manifest does not describe. Score the run again.")
    if unknown := sorted(set(scores.prompt_id) - {SET_PROMPT} - set(manifest.prompts)):
        raise UserError(f"{path} has prompts {unknown} that the manifest does not list. Score the run again.")
