"""One clip, read once and measured by every metric that has no result for it yet; runs in any process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from perturb.errors import UserError
from perturb.metrics.base import Clip, Context, Metric, SetMetric, Value
from perturb.metrics.scoring.cache import ScoreCache, clip_digest, metric_key, paired_key


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


@dataclass(frozen=True, eq=False)
class ClipSource:
    """A clip that is read when it is wanted.

    ``read``: frames uint8 `t h w 3` and fps, or an error with the reason; it must pickle where several processes score.
    ``original``: the clip that paired metrics compare with.
    """

    name: str
    read: Callable[[], tuple[np.ndarray, float]]
    prompt_id: str
    seed: int = 0
    state: str | int = ""
    prompt: str = ""
    original: "ClipSource | None" = None

    @property
    def sample(self) -> tuple[str, int]:
        """(prompt_id, seed), see `Clip.sample`."""
        return self.prompt_id, self.seed

    def load(self) -> Clip:
        """The clip. UserError when it cannot be scored at all, see `clip_problem`; whatever ``read`` raises passes."""
        frames, fps = self.read()
        clip = Clip(frames, fps, self.prompt_id, self.seed, self.state, self.prompt)
        if problem := clip_problem(clip):
            raise UserError(problem)
        return clip


@dataclass(frozen=True)
class Format:
    """What a clip is, beside its content."""

    fps: float
    frames: int
    height: int
    width: int

    @staticmethod
    def of(clip: Clip) -> "Format":
        """Of a decoded clip."""
        return Format(clip.fps, *clip.frames.shape[:3])

    @property
    def size(self) -> str:
        """Width × height."""
        return f"{self.width}×{self.height}"


@dataclass(frozen=True)
class Task:
    """A metric and the key of its results; the metric is None where it is not to run (in another process)."""

    metric: Metric | SetMetric | None
    key: str
    names: tuple[str, ...]
    paired: bool
    batched: bool
    whole: bool

    @staticmethod
    def of(metric: Metric | SetMetric) -> "Task":
        """Raises what ``identity`` raises: Unavailable, when weights are absent."""
        single = isinstance(metric, Metric)
        names = tuple(info.name for info in metric.infos)
        return Task(metric, metric_key(metric), names, single and metric.paired, metric.batched, not single)

    def elsewhere(self) -> "Task":
        """The task for another process: without the metric if that one works on batches, in this process."""
        return replace(self, metric=None) if self.batched else self

    def run(self, clips: Sequence[Clip], originals: Sequence[Clip | None]) -> list["Result"]:
        """One result per clip: values by name, or the feature. A clip that raises alone fails alone."""
        try:
            pairs = zip(clips, originals, strict=True)
            return self._results(clips, {clip.sample: original for clip, original in pairs if original is not None})
        except Exception as error:
            if len(clips) > 1:
                pairs = zip(clips, originals, strict=True)
                return [self.run([clip], [original])[0] for clip, original in pairs]
            return [self.all(Value.because(error))]

    def all(self, value: Value) -> "Result":
        """The same value as every result."""
        return value if self.whole else dict.fromkeys(self.names, value)

    def _results(self, clips: Sequence[Clip], originals: Mapping[tuple[str, int], Clip]) -> list["Result"]:
        if isinstance(self.metric, Metric):
            found = self.metric(clips, Context(originals))
            return [{name: found[name][i] for name in self.names} for i in range(len(clips))]
        assert self.metric is not None, "this task belongs to the process that holds its metric"
        return list(self.metric.features(clips))


Feature = Path | np.ndarray
"""What a measure of sets keeps of a clip: a file, or the array where no file could be written."""
Result = dict[str, Value] | np.ndarray | Value
"""Of one metric for one clip: values by name; of a measure of sets a feature, or a Value saying why there is none."""


@dataclass
class Measured:
    """What is known of one clip. ``format`` is None, and ``problem`` says why, where it could not be read.

    ``values``: of metrics of single clips, by name. ``features``: of measures of sets, by key: a file, or why not.
    ``waiting``: keys of tasks that want a batch, with ``clip`` and ``original`` for them.
    """

    format: Format | None = None
    problem: str = ""
    digest: str = ""
    original_digest: str | None = None
    values: dict[str, Value] = field(default_factory=dict)
    features: dict[str, Feature | Value] = field(default_factory=dict)
    waiting: tuple[str, ...] = ()
    clip: Clip | None = None
    original: Clip | None = None

    @staticmethod
    def broken(problem: str) -> "Measured":
        """A clip that could not be read."""
        return Measured(problem=problem)

    def key(self, task: Task) -> str:
        """Of a task's result for this clip."""
        return paired_key(task.key, self.original_digest) if task.paired else task.key

    @property
    def decoded(self) -> Clip:
        """The clip, while something waits for it."""
        assert self.clip is not None, "nothing waited for this clip: its frames are gone"
        return self.clip

    def release(self) -> None:
        """Let go of the frames: nothing waits for them any more."""
        self.waiting, self.clip, self.original = (), None, None

    def keep(self, results: Sequence[tuple[Task, Result]], cache: ScoreCache) -> None:
        """Take results in, and keep them for the next time."""
        numbers: dict[str, dict[str, Value]] = {}
        for task, result in results:
            if isinstance(result, dict):
                self.values |= result
                numbers[self.key(task)] = result
            elif isinstance(result, Value):
                self.features[task.key] = result
            else:
                self.features[task.key] = cache.keep_feature(self.digest, task.key, result)
        cache.keep_numbers(self.digest, numbers)


def measure(source: ClipSource, tasks: Sequence[Task], cache: ScoreCache) -> Measured:
    """Read a clip, take what is kept of it, run what is missing; tasks that want a batch are left waiting.

    Never raises because of the clip.
    """
    try:
        clip = source.load()
    except Exception as error:
        return Measured.broken(Value.because(error).reason)
    measured = Measured(Format.of(clip), digest=clip_digest(clip), clip=clip)
    done: list[tuple[Task, Result]] = []
    if source.original is not None and any(task.paired for task in tasks):
        try:
            measured.original = source.original.load()
            measured.original_digest = clip_digest(measured.original)
        except Exception as error:
            reason = Value.failed(f"the clip to compare with cannot be read: {Value.because(error).reason}")
            done = [(task, task.all(reason)) for task in tasks if task.paired]
            tasks = [task for task in tasks if not task.paired]
    missing = _recall(measured, tasks, cache)
    measured.waiting = tuple(task.key for task in missing if task.batched)
    done += [(task, task.run([clip], [measured.original])[0]) for task in missing if not task.batched]
    measured.keep(done, cache)
    if measured.waiting:
        measured.clip = replace(clip)  # a copy without its luma: it waits in memory, and may come from another process
    else:
        measured.release()
    return measured


def _recall(measured: Measured, tasks: Sequence[Task], cache: ScoreCache) -> list[Task]:
    """Take in what is kept of a clip; returns the tasks of which nothing is."""
    kept, missing = cache.numbers(measured.digest), []
    for task in tasks:
        if task.whole and (path := cache.feature(measured.digest, task.key)):
            measured.features[task.key] = path
        elif not task.whole and (values := kept.get(measured.key(task))):
            measured.values |= values
        else:
            missing.append(task)
    return missing
