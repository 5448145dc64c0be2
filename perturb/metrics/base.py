"""What a metric is, and what it says of a clip: a number, or why there is none.

Axes: t frames, h w pixels, c channels.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from perturb.errors import UserError
from perturb.metrics.embedded.frames import colourfulness, luma
from perturb.store.records import Status

Axis = Literal["motion", "visual", "text", "drift"]
Direction = Literal["up", "down", "band"]


@dataclass(frozen=True, eq=False)
class Clip:
    """One decoded clip: frames uint8 `t h w c` (c = 3, RGB), and which sample of the study it is.

    ``state`` tells the clips of one sample apart: the id of a state, or a number. ``prompt`` is the text it was made
    from, "" where none is known.
    """

    frames: np.ndarray
    fps: float
    prompt_id: str
    seed: int
    state: str | int
    prompt: str = ""

    @property
    def sample(self) -> tuple[str, int]:
        """(prompt_id, seed): the same prompt and the same initial noise in every state."""
        return self.prompt_id, self.seed

    @cached_property
    def light(self) -> np.ndarray:
        """`frames.luma` of the frames, made once for all metrics: read-only float32 `t h w` in [0, 1]."""
        light = luma(self.frames)
        light.flags.writeable = False
        return light

    @cached_property
    def contrast(self) -> np.ndarray:
        """Standard deviation of luma in each frame: `t`."""
        return self.light.std((1, 2))

    @cached_property
    def colourfulness(self) -> np.ndarray:
        """`frames.colourfulness` of each frame: `t`."""
        return colourfulness(self.frames)


@dataclass(frozen=True)
class MetricInfo:
    """What a number means.

    direction: `band` is two-sided, so report its change from step 0. needs: names of weight files. range: its ends, the
    upper one None when open. scope: one value per clip, or one for the whole set of clips. depends: clips that differ
    in these cannot be compared. pitfalls: what a reader of the number must know.
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
    depends: tuple[Literal["fps", "size"], ...] = ()
    pitfalls: str = ""

    @staticmethod
    def of(
        name: str,
        axis: Axis,
        formula: str,
        source: str,
        pitfalls: str = "",
        *,
        unit: str = "1",
        range: tuple[float, float | None] = (0.0, 1.0),
        direction: Direction = "up",
        needs: tuple[str, ...] = (),
        scope: Literal["clip", "set"] = "clip",
        depends: tuple[Literal["fps", "size"], ...] = (),
    ) -> "MetricInfo":
        """The usual: a share from 0 to 1 of one clip, the more the better, without weights."""
        return MetricInfo(name, axis, unit, range, direction, needs, formula, source, scope, depends, pitfalls)


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
    def told(measure: Callable[[], float]) -> "Value":
        """What ``measure`` gives, or the reason that its UserError names."""
        try:
            return Value.of(measure())
        except UserError as error:
            return Value.because(error)

    @staticmethod
    def because(error: Exception) -> "Value":
        """What an exception means for the result; our own errors speak for themselves, others with their type."""
        if isinstance(error, Unavailable):
            return Value.unavailable(str(error))
        return Value.failed(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")


STEP_0 = "step-0 clips (for clips of your own: reference=FOLDER)"
"""What drift is measured from, as reasons say it."""


@dataclass(frozen=True)
class Context:
    """What the clips are compared with: the unperturbed clips of the same study by (prompt_id, seed), or none."""

    reference: Mapping[tuple[str, int], Clip] | None = None

    def original(self, clip: Clip) -> Clip:
        """The step-0 clip of the same prompt and noise. Raises Unavailable when there is none."""
        if self.reference is None or clip.sample not in self.reference:
            raise Unavailable(f"prompt {clip.prompt_id} seed {clip.seed} is not among the {STEP_0}")
        return self.reference[clip.sample]


@runtime_checkable
class Metric(Protocol):
    """Numbers of single clips.

    ``paired``: they depend on the step-0 clip of the same sample too. ``batched``: it wants many clips at a time, in
    one process, for its network; otherwise clips are handed to several processes, so the object must pickle.
    """

    @property
    def infos(self) -> tuple[MetricInfo, ...]: ...

    @property
    def paired(self) -> bool: ...

    @property
    def batched(self) -> bool: ...

    def identity(self) -> Mapping[str, Any]:
        """What decides the numbers beside the clips, as plain JSON: version, settings, hashes of weights.

        Raises Unavailable, with the file and where to put it, when weights are absent.
        """
        ...

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]:
        """For each info one value per clip, in the order of the clips. A clip that fails does not stop the rest."""
        ...


@dataclass(frozen=True)
class Gathered:
    """What a `SetMetric` has kept of a set of clips: ``samples`` (prompt_id, seed) and one feature array for each."""

    samples: Sequence[tuple[str, int]]
    features: Sequence[np.ndarray]


@dataclass(frozen=True)
class Sets:
    """The sets a `SetMetric` compares: the clips to score, and where known the step-0 clips and the images D_I."""

    own: Gathered
    reference: Gathered | None = None
    images: Gathered | None = None


class SetMetric(Protocol):
    """Numbers that need a whole set of clips: first a small array is kept of every clip, then all are combined.

    ``batched`` and ``identity`` as of a `Metric`.
    """

    @property
    def infos(self) -> tuple[MetricInfo, ...]: ...

    @property
    def batched(self) -> bool: ...

    def identity(self) -> Mapping[str, Any]: ...

    def features(self, clips: Sequence[Clip]) -> Sequence[np.ndarray | Value]:
        """What is kept of each clip (of an image: a clip of one frame); a failed Value for one that gives nothing."""
        ...

    def combine(self, sets: Sets) -> Mapping[str, Value | Sequence[Value]]:
        """One value per info of scope set, and for those of scope clip one per clip of ``sets.own``."""
        ...


class EmbeddedSet(ABC):
    """A `SetMetric` without a network; ``version`` as of a `ClipMetric`."""

    batched = False
    version = 1
    infos: tuple[MetricInfo, ...]

    @abstractmethod
    def keep(self, clip: Clip) -> np.ndarray:
        """What is kept of a clip. UserError for one that gives nothing."""

    @abstractmethod
    def combine(self, sets: Sets) -> Mapping[str, Value | Sequence[Value]]:
        """See `SetMetric.combine`."""

    def identity(self) -> Mapping[str, Any]:
        """The version."""
        return {"version": self.version}

    def features(self, clips: Sequence[Clip]) -> Sequence[np.ndarray | Value]:
        """`keep` of every clip, or why there is nothing."""
        kept: list[np.ndarray | Value] = []
        for clip in clips:
            try:
                kept.append(self.keep(clip))
            except UserError as error:
                kept.append(Value.because(error))
        return kept


@dataclass(frozen=True)
class ClipMetric:
    """A metric given by one function of one clip that returns a number for every info.

    ``version`` goes up whenever the same clip would get other numbers.
    """

    infos: tuple[MetricInfo, ...]
    measure: Callable[[Clip, Context], Mapping[str, float]]
    version: int
    paired: bool = False
    batched: bool = field(default=False, init=False)

    def identity(self) -> Mapping[str, Any]:
        """The version."""
        return {"version": self.version}

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
