"""The one way to score: each clip is read once, a few at a time; then the measures of whole sets are combined."""

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from perturb.metrics.base import Clip, Context, Metric, MetricInfo, SetMetric, Value
from perturb.metrics.scoring.aggregates import aggregates, described
from perturb.metrics.scoring.cache import ScoreCache
from perturb.metrics.scoring.measure import ClipSource, Format, Measured, Task, measure
from perturb.metrics.scoring.pool import Workers
from perturb.metrics.scoring.sets import Survey, combine, refusals

BATCH = 8  # clips per call of a batched metric


@dataclass(frozen=True)
class Scored:
    """A clip and its values by metric name. ``format`` is None, and ``problem`` says why, where it was not readable."""

    source: ClipSource
    format: Format | None
    problem: str
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Scores:
    """Values of the clips, in their order, and ``whole``: those of the set and the aggregates, by metric name."""

    clips: Sequence[Scored]
    whole: Mapping[str, Value]


class Engine:
    """Scores clips by metrics; a context manager that ends its processes.

    ``cache``: the folder from which is taken what a metric has said of the same content before; None for a temporary
    one. ``workers``: processes for metrics that work clip by clip; the others get batches in this one. ``mixed``:
    compare clips that differ in what a metric depends on (`MetricInfo.depends`) all the same.
    """

    def __init__(
        self, metrics: Sequence[Metric | SetMetric], cache: Path | None, *, workers: int = 1, mixed: bool = False
    ) -> None:
        self.metrics, self.mixed = metrics, mixed
        self._temporary = tempfile.TemporaryDirectory() if cache is None else None
        self._cache = ScoreCache(Path(self._temporary.name) if self._temporary else cache or Path())
        self._workers = Workers(workers)
        self._tasks = [_task(metric) for metric in metrics]

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.close()
        if self._temporary:
            self._temporary.cleanup()

    def measure(self, clips: Iterable[ClipSource], advance: Callable[[float], None] = lambda _: None) -> Survey:
        """All that can be said of each clip by itself; ``advance`` is called for every finished clip."""
        return self._survey(clips, [task for task in self._tasks if isinstance(task, Task)], self._workers, advance)

    def gather(self, clips: Iterable[ClipSource], workers: Workers | None = None) -> Survey:
        """Only what measures of sets keep of each clip: enough for a set that others are compared with.

        ``workers``: others than the engine's own, for clips that are not to travel to another process.
        """
        tasks = [task for task in self._tasks if isinstance(task, Task) and task.whole]
        return self._survey(clips, tasks, workers or self._workers, lambda _: None)

    def scores(self, own: Survey, reference: Survey | None = None, images: Survey | None = None) -> Scores:
        """The values of measured clips and of their set, compared with the other sets as far as these are known."""
        refused = {} if self.mixed else refusals(self.metrics, [measured.format for _, measured in own])
        columns: dict[str, Sequence[Value]] = {}
        whole: dict[str, Value] = {}
        for metric, task in zip(self.metrics, self._tasks, strict=True):
            found = _outcome(metric, task, own, reference, images)
            for info in metric.infos:
                outcome = refused.get(info.name, found[info.name])
                if info.scope == "set":
                    assert isinstance(outcome, Value), f"{info.name} is of scope set: one value"
                    whole[info.name] = outcome
                else:
                    columns[info.name] = [outcome] * len(own) if isinstance(outcome, Value) else outcome
        whole |= {info.name: value for info, value in aggregates(_means(columns, whole), [*columns, *whole])}
        clips = []
        for i, (source, measured) in enumerate(own):
            broken = Value.failed(measured.problem) if measured.problem else None
            values = {name: broken or column[i] for name, column in columns.items()}
            clips.append(Scored(source, measured.format, measured.problem, values))
        return Scores(clips, whole)

    def _survey(
        self, clips: Iterable[ClipSource], tasks: Sequence[Task], workers: Workers, advance: Callable[[float], None]
    ) -> Survey:
        """Clips are taken as they are needed; what a batch waits for is let go of when it is through."""
        known: list[tuple[ClipSource, Measured]] = []
        waiting: list[Measured] = []
        sources, ahead = itertools.tee(clips)
        one = partial(measure, tasks=[task.elsewhere() for task in tasks], cache=self._cache)
        for source, measured in zip(sources, workers.each(one, ahead, Measured.broken), strict=True):
            known.append((source, measured))
            waiting += [measured] if measured.waiting else []
            if len(waiting) == BATCH:
                self._run_batch(waiting)
                waiting = []
            advance(1)
        self._run_batch(waiting)
        return known

    def _run_batch(self, waiting: Sequence[Measured]) -> None:
        """Run the tasks that want a batch on the clips that wait for them."""
        for task in (task for task in self._tasks if isinstance(task, Task) and task.batched):
            having = [one for one in waiting if task.key in one.waiting]
            if having:
                results = task.run([one.decoded for one in having], [one.original for one in having])
                for one, result in zip(having, results, strict=True):
                    one.keep([(task, result)], self._cache)
        for one in waiting:
            one.release()


def _means(columns: Mapping[str, Sequence[Value]], whole: Mapping[str, Value]) -> dict[str, float]:
    """The mean of every metric over the clips that have a value, and the values of the set."""
    found = {name: [one.value for one in column if one.value is not None] for name, column in columns.items()}
    found |= {name: [] if value.value is None else [value.value] for name, value in whole.items()}
    return {name: fmean(numbers) for name, numbers in found.items() if numbers}


def _task(metric: Metric | SetMetric) -> Task | Value:
    """How to run a metric, or why it cannot run (its weights are absent)."""
    try:
        return Task.of(metric)
    except Exception as error:
        return Value.because(error)


def _outcome(
    metric: Metric | SetMetric, task: Task | Value, own: Survey, reference: Survey | None, images: Survey | None
) -> Mapping[str, Value | Sequence[Value]]:
    """By name: one value per clip, or one for all."""
    names = [info.name for info in metric.infos]
    if isinstance(task, Value):
        return dict.fromkeys(names, task)
    if isinstance(metric, Metric):
        absent = Value.failed("not measured")
        return {name: [measured.values.get(name, absent) for _, measured in own] for name in names}
    try:
        return combine(metric, task.key, own=own, reference=reference, images=images)
    except Exception as error:
        return dict.fromkeys(names, Value.because(error))


def score_clips(
    metrics: Sequence[Metric | SetMetric], clips: Sequence[Clip], context: Context
) -> list[tuple[Clip | None, MetricInfo, Value]]:
    """Score clips in memory: (clip, info, value) per clip, (None, info, value) for measures of the whole set.

    Ill-formed clips (see `clip_problem`) get status failed in every per-clip metric and are kept out of the sets.
    Order: metrics, their infos, then clips as given. Never raises because of a clip.
    """
    reference = {sample: _held(clip, None) for sample, clip in (context.reference or {}).items()}
    with Engine(metrics, cache=None) as engine:
        own = engine.measure(_held(clip, reference.get(clip.sample)) for clip in clips)
        others = None if context.reference is None else engine.gather(reference.values())
        scores = engine.scores(own, others)
    return list(_rows(metrics, clips, scores))


def _held(clip: Clip, original: ClipSource | None) -> ClipSource:
    """A clip in memory as a source."""
    return ClipSource(
        clip.prompt_id, lambda: (clip.frames, clip.fps), clip.prompt_id, clip.seed, clip.state, clip.prompt, original
    )


def _rows(
    metrics: Sequence[Metric | SetMetric], clips: Sequence[Clip], scores: Scores
) -> Iterator[tuple[Clip | None, MetricInfo, Value]]:
    for info in described(metrics):
        if info.scope == "set":
            yield None, info, scores.whole[info.name]
        else:
            yield from ((clip, info, one.values[info.name]) for clip, one in zip(clips, scores.clips, strict=True))
