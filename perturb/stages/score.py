"""Score the clips of every probe step and append them to scores.csv, one finished step at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perturb.metrics import Clip, Context, Metric, SetMetric, score_clips
from perturb.progress import progress
from perturb.records import SET_PROMPT, SET_SEED, ScoreRow, read_scores, scores_csv
from perturb.rundir import RunDir, write_atomic


@dataclass(frozen=True)
class Labels:
    """What every score row of a run says about the run."""

    run_id: str
    training: str
    group: str
    lora_seed: int


def score(
    metrics: Sequence[Metric | SetMetric],
    samples: Sequence[tuple[str, int]],
    probe_steps: Sequence[int],
    run: RunDir,
    *,
    labels: Labels,
    fps: float,
) -> None:
    """Score the clips of (prompt id, noise seed) pairs at each probe step, with those of step 0 as reference.

    scores.csv is rewritten whole and sorted after each step; the rows of finished steps are kept as they are.
    """
    todo = [step for step in probe_steps if not run.is_done("score", step)]
    if not todo:
        return
    context = Context(
        reference={clip.sample: clip for clip in _load(run, 0, samples, fps)} if 0 in probe_steps else None
    )
    with progress("score", len(todo) * len(samples)) as advance:
        for step in todo:
            clips = _load(run, step, samples, fps)
            rows = [
                ScoreRow(
                    run_id=labels.run_id,
                    training=labels.training,
                    group=labels.group,
                    lora_seed=labels.lora_seed,
                    step=step,
                    prompt_id=SET_PROMPT if clip is None else clip.prompt_id,
                    seed=SET_SEED if clip is None else clip.seed,
                    metric=info.name,
                    value=value.value,
                    status=value.status,
                    reason=value.reason,
                )
                for clip, info, value in score_clips(metrics, clips, context)
            ]
            _replace(run, step, rows)
            run.mark_done("score", step)
            advance(len(clips))


def _load(run: RunDir, step: int, samples: Sequence[tuple[str, int]], fps: float) -> list[Clip]:
    return [
        Clip(frames=np.load(run.clip(step, prompt_id, seed)), fps=fps, prompt_id=prompt_id, seed=seed, step=step)
        for prompt_id, seed in samples
    ]


def _replace(run: RunDir, step: int, rows: Sequence[ScoreRow]) -> None:
    """Put the rows of one step into scores.csv, in place of any that a killed process left there."""
    others = [row for row in read_scores(run.scores) if row.step != step] if run.scores.is_file() else []
    write_atomic(run.scores, scores_csv([*others, *rows]))
