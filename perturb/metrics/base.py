"""What a metric is, and the loop that scores clips without ever turning a failure into a number.

Axes: t frames, h w pixels, c channels.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from perturb.errors import UserError

Axis = Literal["motion", "visual", "text", "drift"]
Direction = Literal["up", "down", "band"]
Status = Literal["ok", "unavailable", "failed"]


@dataclass(frozen=True, eq=False)
class Clip:
    """One decoded clip: frames uint8 `t h w c` (c = 3, RGB), and which sample of the study it is."""

    frames: np.ndarray
    fps: float
    prompt_id: str
    seed: int
    step: int

    @property
    def sample(self) -> tuple[str, int]:
        """(prompt_id, seed): the same prompt and the same initial noise at every step."""
        return self.prompt_id, self.seed


@dataclass(frozen=True)
class MetricInfo:
    """What a number means.

    direction: `band` is two-sided, so report its change from step 0. needs: names of weight files. range: its ends, the
    upper one None when open. scope: one value per clip, or one for the whole set of clips.
    """

    name: str
    axis: Axis
    unit: str
    range: tuple[float, float | None]
    direction: Direction
    needs: tuple[str, ...]
    formula: str
    source: str
    scope: Literal["clip", "set"] = "clip"


class Unavailable(UserError):
    """Raised inside a metric when something it needs is absent; becomes a value with status unavailable."""


@dataclass(frozen=True)
class Value:
    """A finite number with status ok, or no number and the reason why."""

    value: float | None
    status: Status
    reason: str = ""

    def __post_init__(self) -> None:
        assert (self.status == "ok") == (self.value is not None), f"status {self.status} with value {self.value}"
        assert self.value is None or math.isfinite(self.value), f"an ok value is finite, not {self.value}"

    @staticmethod
    def of(number: float) -> "Value":
        """The number as an ok value; NaN and infinities become failed.

        >>> Value.of(0.5)
        Value(value=0.5, status='ok', reason='')
        >>> Value.of(float("nan")).status
        'failed'
        """
        number = float(number)
        return Value(number, "ok") if math.isfinite(number) else Value.failed(f"the result is not finite ({number})")

    @staticmethod
    def unavailable(reason: str) -> "Value":
        """Something the metric needs is not here (weights, a reference, enough prompts)."""
        return Value(None, "unavailable", reason)

    @staticmethod
    def failed(reason: str) -> "Value":
        """The clip cannot be measured."""
        return Value(None, "failed", reason)

    @staticmethod
    def because(error: Exception) -> "Value":
        """What an exception means for the result; our own errors speak for themselves, others with their type."""
        if isinstance(error, Unavailable):
            return Value.unavailable(str(error))
        return Value.failed(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class Context:
    """What the clips are compared with: the step-0 clips of the same study by (prompt_id, seed), or none."""

    reference: Mapping[tuple[str, int], Clip] | None = None

    def original(self, clip: Clip) -> Clip:
        """The step-0 clip of the same prompt and noise. Raises Unavailable when there is none."""
        if self.reference is None or clip.sample not in self.reference:
            raise Unavailable(f"no step-0 clip for prompt {clip.prompt_id} seed {clip.seed}; score step 0 first")
        return self.reference[clip.sample]


class Metric(Protocol):
    """Scores every clip: for each info one value per clip, in the order of the clips."""

    @property
    def infos(self) -> tuple[MetricInfo, ...]: ...

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]: ...


class SetMetric(Protocol):
    """Scores a set of clips as a whole: for each info one value (its row has prompt_id "*" and seed -1)."""

    @property
    def infos(self) -> tuple[MetricInfo, ...]: ...

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Value]: ...


@dataclass(frozen=True)
class ClipMetric:
    """A metric given by one function of one clip that returns a number for every info."""

    infos: tuple[MetricInfo, ...]
    measure: Callable[[Clip, Context], Mapping[str, float]]

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]:
        return score_each(self.infos, clips, lambda clip: self.measure(clip, context))


def score_each(
    infos: Sequence[MetricInfo], clips: Iterable[Clip], measure: Callable[[Clip], Mapping[str, float]]
) -> dict[str, list[Value]]:
    """Measure clip by clip; a clip that raises gets failed (or unavailable) values with the reason, the rest go on."""
    results: dict[str, list[Value]] = {info.name: [] for info in infos}
    for clip in clips:
        try:
            numbers = measure(clip)
            values = {name: Value.of(numbers[name]) for name in results}
        except Exception as error:
            values = dict.fromkeys(results, Value.because(error))
        for name, value in values.items():
            results[name].append(value)
    return results


def clip_problem(clip: Clip) -> str | None:
    """Why a clip cannot be scored at all, or None: frames must be uint8 `t h w 3`, not empty."""
    frames = clip.frames
    if not isinstance(frames, np.ndarray):
        return f"frames must be a numpy array, not {type(frames).__name__}"
    if frames.dtype != np.uint8:
        return f"frames must be uint8 (0 to 255), not {frames.dtype}"
    if frames.ndim != 4 or frames.shape[-1] != 3:
        return f"frames must have shape (frames, height, width, 3), not {frames.shape}"
    if 0 in frames.shape:
        return f"the clip is empty: shape {frames.shape}"
    return None


def score_clips(
    metrics: Sequence[Metric | SetMetric], clips: Sequence[Clip], context: Context
) -> list[tuple[Clip | None, MetricInfo, Value]]:
    """Score clips by every metric: (clip, info, value) per clip, (None, info, value) for measures of the whole set.

    Ill-formed clips (see `clip_problem`) get status failed in every per-clip metric and are kept out of the sets.
    Order: metrics, their infos, then clips as given. Never raises because of a clip.
    """
    problems = [clip_problem(clip) for clip in clips]
    sound = [clip for clip, problem in zip(clips, problems, strict=True) if problem is None]
    rows: list[tuple[Clip | None, MetricInfo, Value]] = []
    for metric in metrics:
        try:
            results = metric(sound, context)
        except Exception as error:
            results = {info.name: _everywhere(info, sound, Value.because(error)) for info in metric.infos}
        for info in metric.infos:
            outcome = results[info.name]
            if isinstance(outcome, Value):
                rows.append((None, info, outcome))
                continue
            values = iter(outcome)
            for clip, problem in zip(clips, problems, strict=True):
                rows.append((clip, info, next(values) if problem is None else Value.failed(problem)))
    return rows


def _everywhere(info: MetricInfo, clips: Sequence[Clip], value: Value) -> Value | list[Value]:
    return value if info.scope == "set" else [value] * len(clips)
