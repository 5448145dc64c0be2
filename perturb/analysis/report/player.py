"""The clips of the player: small sprites inside the page, and the scores beside them.

Axis letters: t frames, h w pixels. One sprite per run and clip, a row of frames per state: dragging never waits.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from perturb.analysis import style
from perturb.analysis.coupling.design import KINDS, LORA, TRAININGS, Cell, Design
from perturb.analysis.load import Point, clips_of
from perturb.analysis.notation import model_in_words, symbol
from perturb.analysis.replicates import ADAPTER
from perturb.analysis.report.content import Report, name
from perturb.analysis.result import Result
from perturb.analysis.statistics.endpoints import PRIMARY
from perturb.analysis.statistics.estimates import trajectories
from perturb.analysis.strips import read_clip
from perturb.errors import UserError

QUALITY = 85
"""Of WebP: an eighth of the size of a lossless sprite, and no difference to the eye."""
LARGEST = 16383
"""Pixels of the longer side of a WebP."""
SHOWN = (
    "motion_quality",
    "dynamics",
    "consistency",
    "smoothness",
    "colourfulness",
    "sharpness",
    "watermark_trace",
    "ssim_drift",
)
"""Measures beside a clip, as far as it has them."""
Key = tuple[str, int]


@dataclass(frozen=True)
class Settings:
    """How much of the clips a page carries: ``budget`` megabytes in all, ``side`` pixels of the longer side of one."""

    budget: float = 6.0
    side: int = 192

    def __post_init__(self) -> None:
        if self.budget < 0 or self.side < 1:
            raise UserError(
                f"--clips-mb is {self.budget:g} and --clip-side {self.side}; allowed: megabytes from 0, pixels from 1"
            )


GALLERY = Settings(side=128)
"""Of a gallery, which shows a clip 80 to 120 pixels wide."""


@dataclass(frozen=True)
class Side:
    """One of the two clips: what it is called, its run, and the only point it shows, where that does not follow."""

    label: str
    words: str
    colour: str
    run: Result
    only: Point | None = None


@dataclass
class Pair:
    """Two clips side by side, the sprites of each by clip, base64; ``reason`` says what is left out and why."""

    title: str
    sides: tuple[Side, Side]
    sprites: tuple[dict[Key, str], dict[Key, str]] = field(default_factory=lambda: ({}, {}))
    reason: str = ""


def player(report: Report, settings: Settings) -> dict[str, Any]:
    """Everything the player's script needs, as plain JSON; without clips only the reason why there are none."""
    pairs, left = list(_pairs(report)), settings.budget * 1e6
    for number, pair in enumerate(pairs):
        left -= _fill(pair, left / (len(pairs) - number), settings)  # to each its share of what is left
    shown = [pair for pair in pairs if pair.sprites[0]]
    reasons = list(dict.fromkeys(pair.reason for pair in pairs if pair.reason))
    if not shown:
        return {"pairs": [], "reasons": reasons or ["These runs make no pair of models to show side by side."]}
    first = shown[0].sides[0].run
    measures = [m for m in first.measures if m.name in SHOWN and first.levels[m.name].measured]
    return {
        "pairs": [_plain(pair, [m.name for m in measures]) for pair in shown],
        "reasons": reasons,
        "unit": "perturbation step" if first.is_curve else ", ".join(first.run.coordinates),
        "fps": first.run.playback_fps,
        "prompts": first.run.manifest.prompts,
        "measures": [{"name": m.name, "label": m.label} for m in measures],
        "primary": PRIMARY,
    }


def _pairs(report: Report) -> Iterator[Pair]:
    """Full beside partial, in every condition, of the first pair and LoRA seed; of one run, its start beside it."""
    if report.coupling:
        results = {result.run.manifest.run_id: result for result in report.runs}
        for title, runs in _twins(report.coupling.design):
            yield Pair(title, (_side(results[runs[0]]), _side(results[runs[1]])))
    elif len(report.runs) == 1:
        (result,) = report.runs
        start = Side(result.named(result.points[0]), "not perturbed", style.QUIET, result, only=result.points[0])
        other = _side(result)
        if result.run.coordinates == (ADAPTER,):
            start = replace(start, label="without", words="an adapter")
            other = Side("with", "the adapter below", style.MOTION, result)
        yield Pair(name(result.run), (start, other))


def _twins(design: Design) -> Iterator[tuple[str, list[str]]]:
    """By kind and condition, the first run of both models in one pair and LoRA seed, and what they are called."""
    for kind in KINDS:
        for condition in design.conditions:
            first, second = (design.runs.get(Cell(t, condition, kind), {}) for t in TRAININGS)
            shared = [(p, s) for p in first for s in first[p] if s in second.get(p, {})]
            if shared:
                pair, seed = shared[0]
                title = f"{'' if kind == LORA else 'random Δ, '}{condition}, {f'{pair}, ' * bool(pair)}LoRA seed {seed}"
                yield title, [side[pair][seed].manifest.run_id for side in (first, second)]


def _side(result: Result) -> Side:
    colour = style.TRAINING_COLOUR.get(result.training, style.MOTION)
    return Side(symbol(result.training, result.group), model_in_words(result.training), colour, result)


def _fill(pair: Pair, left: float, settings: Settings) -> int:
    """Put clips into a pair while there is room for ``left`` characters; returns how many it took."""
    runs = [side.run for side in pair.sides]
    keys = clips_of(runs[0].scores)
    whole = [key for key in keys if all(result.run.clip(s, *key).is_file() for result in runs for s in result.points)]
    if not whole:
        pair.reason = f"{pair.title}: its clips are not here; a run copied without its folder clips/ has scores only."
        return 0
    taken = 0
    for number, key in enumerate(_spread(whole)):
        sprites = {id(result): _sprite(result, key, settings.side) for result in runs}
        size = sum(map(len, sprites.values()))
        if taken + size > left:
            pair.reason = (
                f"{pair.title}: {number} of {len(keys)} clips fit into the page (--clips-mb {settings.budget:g})."
            )
            return taken
        taken += size
        for own, result in zip(pair.sprites, runs, strict=True):
            own[key] = sprites[id(result)]
    if len(whole) < len(keys):
        pair.reason = f"{pair.title}: {len(whole)} of {len(keys)} clips are on disk at every step."
    return taken


def _spread(keys: Sequence[Key]) -> list[Key]:
    """The keys in an order of which every beginning is spread over all of them: every eighth, every fourth, …"""
    places = range(len(keys))
    return [keys[i] for i in sorted(places, key=lambda i: (-(i & -i) if i else -len(keys), i))]


def _sprite(result: Result, key: Key, side: int) -> str:
    """The clip of every state in one picture, states below each other."""
    clips = [read_clip(result.run.clip(point, *key)) for point in result.points]
    if len({clip.shape for clip in clips}) > 1:
        raise UserError(f"The clips of {key[0]} in {result.run.directory.path} differ in size. Sample the run again.")
    return sprite(clips, side, quality=QUALITY)


def sprite(clips: Sequence[np.ndarray], side: int, quality: int | None) -> str:
    """Clips of one size as one WebP, base64: clips below each other, frames from left to right; without a quality
    lossless.
    """
    t, h, w, _ = clips[0].shape
    scale = min(1.0, side / max(h, w), LARGEST / (t * w), LARGEST / (len(clips) * h))
    size = (max(1, int(w * scale)), max(1, int(h * scale)))
    rows = [np.concatenate([_fit(frame, size) for frame in clip], axis=1) for clip in clips]
    buffer = io.BytesIO()
    options = {"lossless": True} if quality is None else {"quality": quality}
    Image.fromarray(np.concatenate(rows)).save(buffer, format="WEBP", method=4, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def _fit(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if frame.shape[:2] == size[::-1]:
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def _plain(pair: Pair, measures: Sequence[str]) -> dict[str, Any]:
    keys, (first, second) = sorted(pair.sprites[0]), (side.run for side in pair.sides)
    return {
        "title": pair.title,
        "clips": [list(key) for key in keys],
        "steps": list(first.points) if first.is_curve else list(range(len(first.points))),
        "names": list(first.labels.values()),
        "magnitudes": [second.run.magnitude.get(point) for point in second.points],
        "sides": [
            {
                "label": side.label,
                "words": side.words,
                "colour": side.colour,
                "only": None if side.only is None else side.run.points.index(side.only),
                "frames": int(read_clip(side.run.run.clip(side.run.points[0], *keys[0])).shape[0]),
                "sprites": [sprites[key] for key in keys],
                "scores": {measure: _scores(side.run, measure, keys) for measure in measures},
            }
            for side, sprites in zip(pair.sides, pair.sprites, strict=True)
        ],
    }


def _scores(result: Result, measure: str, keys: Sequence[Key]) -> list[list[float | None]]:
    """Clip × state; None where there is no value."""
    table = trajectories(result.scores, measure, result.run.along).reindex(keys)
    return [
        [None if np.isnan(value) else float(f"{value:.4g}") for value in row] for row in table.to_numpy(dtype=float)
    ]
