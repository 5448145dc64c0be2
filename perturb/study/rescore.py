"""Score a finished run again from its clips, with the current metrics; nothing is sampled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perturb.errors import UserError
from perturb.metrics import Format, Metric, SetMetric, described
from perturb.store.records import SCHEMA_VERSION, ScoreRow, read_scores, scores_csv
from perturb.store.rundir import RunDir, write_atomic
from perturb.study.score import Labels, Sampled, scored

if TYPE_CHECKING:
    from perturb.data.images import ImageSet


@dataclass(frozen=True)
class Change:
    """What rescoring did to one metric: how many values are ``new``, ``gone``, ``changed`` (and by how much at most).

    A value that turned into a reason, or the reverse, counts as changed.
    """

    metric: str
    new: int = 0
    gone: int = 0
    changed: int = 0
    same: int = 0
    most: float = 0.0

    def __str__(self) -> str:
        counts = {name: getattr(self, name) for name in ("new", "gone", "changed", "same")}
        most = f", by at most {self.most:.3g}" if self.most else ""
        return f"{self.metric}: {', '.join(f'{count} {name}' for name, count in counts.items() if count)}{most}"


def rescore(
    metrics: Sequence[Metric | SetMetric],
    run: RunDir,
    config: Mapping[str, Any],
    *,
    images: ImageSet | None,
    cache: Path | None,
) -> list[Change]:
    """Rewrite scores.csv and the manifest's metrics, all at the end; returns what changed, by metric.

    ``config`` is the run's own. A run of an older schema has the current one afterwards; its folders stay. Raises
    UserError for a run that has not sampled all its clips.
    """
    states = run.states()
    sampled = read_sampled(run, config)
    clips = [run.clip(state, *sample) for state in sampled.states for sample in sampled.samples]
    if absent := [clip for clip in clips if not clip.is_file()]:
        found = f"{run.path} lacks {len(absent)} of {len(clips)} clips, e.g. {absent[0].name}"
        raise UserError(f"{found}: finish the run first, with the command that began it")
    found = scored(metrics, sampled, sampled.states, images=images, cache=cache)
    rows = [row for _, each in found for row in each]
    before = read_scores(run.scores) if run.scores.is_file() else []
    run.write_states(states)
    write_atomic(run.scores, scores_csv(rows, sampled.states))
    infos = [dataclasses.asdict(info) for info in described(metrics)]
    run.update_manifest(schema_version=SCHEMA_VERSION, metrics=infos)
    return changes(before, rows)


def read_sampled(run: RunDir, config: Mapping[str, Any]) -> Sampled:
    """What a run on disk has sampled, in the order in which it was."""
    manifest = run.manifest()
    samples = [(prompt_id, seed) for seed in config["sample"]["seeds"] for prompt_id in manifest.prompts]
    form = Format(**{name: manifest.clips[name] for name in ("fps", "frames", "height", "width")})
    from perturb.study.fit_data import FitConfig  # torch, which a list of runs need not wait for

    seed = (config.get("fit") or {}).get("seed", FitConfig().seed)  # where adapters are compared nothing was fitted
    labels = Labels(manifest.run_id, config["training"], config["group"], seed)
    return Sampled(run, labels, samples, manifest.prompts, [state.id for state in run.states()], form)


def changes(before: Sequence[ScoreRow], after: Sequence[ScoreRow]) -> list[Change]:
    """By metric, in the order of their names."""
    old, new = ({(row.metric, row.key): row for row in rows} for rows in (before, after))
    found: dict[str, Change] = {}
    for key in sorted(old.keys() | new.keys()):
        change = found.get(key[0], Change(key[0]))
        found[key[0]] = _counted(change, old.get(key), new.get(key))
    return list(found.values())


def _counted(change: Change, old: ScoreRow | None, new: ScoreRow | None) -> Change:
    """The change with one more pair of rows in it."""
    if old is None:
        return dataclasses.replace(change, new=change.new + 1)
    if new is None:
        return dataclasses.replace(change, gone=change.gone + 1)
    if old.value == new.value and old.status == new.status:
        return dataclasses.replace(change, same=change.same + 1)
    moved = abs(new.value - old.value) if new.value is not None and old.value is not None else 0.0
    return dataclasses.replace(change, changed=change.changed + 1, most=max(change.most, moved))
