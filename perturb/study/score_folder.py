"""Score a folder of clips, anybody's: videos, gifs, npy files, folders of frames."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from perturb.data.collection import Collection, Prompted, find_clips, match_prompts
from perturb.data.footage import read_clip
from perturb.errors import UserError
from perturb.metrics import (
    ClipSource,
    Engine,
    Format,
    Metric,
    Scored,
    Scores,
    SetMetric,
    Value,
    Workers,
    described,
    suitable_workers,
)
from perturb.metrics.scoring.cache import library_versions
from perturb.progress import progress
from perturb.store.records import SET_PROMPT, ClipScoreRow, clip_scores_csv
from perturb.store.rundir import write_atomic
from perturb.study.score import image_clips

if TYPE_CHECKING:
    from perturb.data.images import ImageSet

NO_FORMAT: Mapping[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(Format))


def score_folder(
    metrics: Sequence[Metric | SetMetric],
    videos: str,
    *,
    prompts: str | None,
    columns: Mapping[str, str | None] | None = None,
    reference: str | None,
    images: ImageSet | None,
    fps: float | None,
    mixed: bool,
    workers: int | None,
    cache: Path | None,
) -> Scores:
    """Scores of all clips below ``videos``; see conf/score.yaml for the rest. UserError when no clip can be read."""
    own = find_clips(videos, "videos")
    if own.left_out:
        print(f"{len(own.left_out)} videos are left out for the .npy of the same name beside them", file=sys.stderr)
    others = Collection({}) if reference is None else find_clips(reference, "reference")
    made_from = dict(zip(own.clips, match_prompts(prompts, list(own.clips), columns), strict=True))
    originals = {name: _source(name, path, made_from.get(name), fps) for name, path in others.clips.items()}
    if reference is not None and not originals.keys() & own.clips.keys():
        raise UserError(f"no clip of {reference} has the name of one of {videos}, e.g. {next(iter(own.clips))}")
    sources = [_source(name, path, made_from[name], fps, originals.get(name)) for name, path in own.clips.items()]
    count = suitable_workers(len(sources)) if workers is None else workers
    with Engine(metrics, cache, workers=count, mixed=mixed) as engine:
        with progress("score", len(sources)) as advance:
            survey = engine.measure(sources, advance)
        formats = [measured.format for _, measured in survey if measured.format is not None]
        if not formats:
            raise UserError("\n  ".join(["no clip could be read:", *(f"{s.name}: {m.problem}" for s, m in survey)]))
        compared = engine.gather(originals.values()) if originals else None
        usual = max(formats, key=formats.count)  # of several the first: images are compared at its size
        stills = None if images is None else engine.gather(image_clips(images, usual), Workers(1))
        return engine.scores(survey, compared, stills)


def write_scores(output: Path, metrics: Sequence[Metric | SetMetric], scores: Scores) -> None:
    """scores.csv, one row per clip and metric and per metric of the set, and metrics.json: what each metric is."""
    write_atomic(output / "scores.csv", clip_scores_csv(list(_rows(scores))))
    identities = {info.name: more for metric in metrics for info in metric.infos for more in [_identity(metric)]}
    infos = [dataclasses.asdict(info) | identities.get(info.name, {}) for info in described(metrics)]
    content = {"libraries": library_versions(), "metrics": infos}
    write_atomic(output / "metrics.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def print_scores(scores: Scores, console: Console) -> None:
    """Per metric the mean and how many values there are, then the clips that could not be read, and why."""
    table = Table("metric", box=None)
    for title in ("mean", "ok", "failed", "unavailable"):
        table.add_column(title, justify="right")
    values = {name: [value] for name, value in scores.whole.items()}
    for clip in scores.clips:
        for name, value in clip.values.items():
            values.setdefault(name, []).append(value)
    for name, found in values.items():
        table.add_row(name, *_summary(found))
    console.print(table)
    if any(value.status != "ok" for found in values.values() for value in found):
        console.print("why a value is not there: the column reason of scores.csv", highlight=False)
    broken = [clip for clip in scores.clips if clip.problem]
    console.print(f"{len(scores.clips) - len(broken)} of {len(scores.clips)} clips scored", highlight=False)
    for clip in broken:
        console.print(f"  {escape(clip.source.name)}: {escape(clip.problem)}", highlight=False, soft_wrap=True)


def _source(
    name: str, path: Path, prompted: Prompted | None, fps: float | None, original: ClipSource | None = None
) -> ClipSource:
    made_from = prompted or Prompted(name, 0, "")
    read = partial(read_clip, path, fps)
    return ClipSource(name, read, made_from.id, made_from.take, "", made_from.text, original)


def _rows(scores: Scores) -> Iterator[ClipScoreRow]:
    for clip in scores.clips:
        for name, value in clip.values.items():
            yield _row(clip, name, value)
    for name, value in scores.whole.items():
        yield ClipScoreRow(clip=SET_PROMPT, prompt_id=SET_PROMPT, prompt="", **NO_FORMAT, metric=name, **vars(value))


def _row(clip: Scored, name: str, value: Value) -> ClipScoreRow:
    form = NO_FORMAT if clip.format is None else vars(clip.format)
    source = clip.source
    return ClipScoreRow(
        clip=source.name, prompt_id=source.prompt_id, prompt=source.prompt, **form, metric=name, **vars(value)
    )


def _summary(values: Sequence[Value]) -> list[str]:
    """Mean of the numbers, and how many values have each status."""
    numbers = [value.value for value in values if value.value is not None]
    statuses = [value.status for value in values]
    mean = f"{sum(numbers) / len(numbers):.4g}" if numbers else "–"
    return [mean, *(str(statuses.count(status)) for status in ("ok", "failed", "unavailable"))]


def _identity(metric: Metric | SetMetric) -> dict[str, Any]:
    """What decides its numbers, or why it is unavailable."""
    try:
        return {"identity": dict(metric.identity())}
    except UserError as error:
        return {"unavailable": str(error)}
