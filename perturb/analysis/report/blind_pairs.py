"""What a blind test asks, and which clips it puts side by side: the same prompt and noise under two models."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturb.analysis.coupling.design import LORA, RANDOM, TRAININGS, Condition, pair_of
from perturb.analysis.load import Run, Study, check_alike, clips_of
from perturb.analysis.notation import leaf, symbol
from perturb.analysis.report.content import name
from perturb.analysis.report.player import Key
from perturb.errors import UserError
from perturb.store.states import steps as steps_of

QUESTION = "Which clip has fewer flashes and less flicker?"
"""What the paper judges by; its raters had to choose one of two."""


@dataclass(frozen=True)
class BlindSettings:
    """What is asked, and of how many pairs (None: all there are).

    ``steps``: where the models are compared, the last one if empty · ``ties``: whether "no difference" is an answer ·
    ``budget``: megabytes of clips · ``side``: pixels of a clip's longer side, larger ones are reduced.
    """

    question: str = QUESTION
    steps: tuple[int, ...] = ()
    pairs: int | None = None
    ties: bool = False
    seed: int = 0
    budget: float = 40.0
    side: int = 512

    def __post_init__(self) -> None:
        if not self.question.strip() or (self.pairs is not None and self.pairs < 1) or self.side < 1:
            raise UserError(
                f"--question is {self.question!r}, --pairs {self.pairs}, --clip-side {self.side}; allowed: a question, "
                "pairs from 1, pixels from 1"
            )


@dataclass(frozen=True)
class Side:
    """One of the two: a run at a step."""

    label: str
    run: Run
    step: int

    def clip(self, key: Key) -> Path:
        """The file with its frames."""
        return self.run.clip(self.step, *key)


@dataclass(frozen=True)
class Comparison:
    """What a win rate is about; ``clips`` are the (prompt, noise seed) that both sides have on disk."""

    title: str
    sides: tuple[Side, Side]
    lora_seed: int
    clips: tuple[Key, ...]


def comparisons(study: Study, steps: Sequence[int]) -> list[Comparison]:
    """Full beside partial in every condition and LoRA seed; of two runs one beside the other; of one, before and after.

    At the given steps, or at the last that both sides have. Raises UserError for runs without a twin or without clips.
    """
    found = []
    for title, runs in _twins(study):
        known = [set(steps_of(run.states)) for run in runs]
        if not (shared := sorted(set.intersection(*known))):
            raise UserError(f"{title}: the runs have no step of a fit in common. Give runs whose states are steps.")
        if unknown := sorted(set(steps) - set(shared)):
            raise UserError(f"--at {unknown}: {title} has no such step; allowed: {shared}.")
        found += [_comparison(study, title, runs, step, shared[0]) for step in steps or shared[-1:]]
    return found


def _comparison(study: Study, title: str, runs: Sequence[Run], step: int, start: int) -> Comparison:
    sides = _sides(study, runs, step, start)
    keys = set.intersection(*(set(clips_of(study.of(run))) for run in runs))
    here = tuple(key for key in sorted(keys) if all(side.clip(key).is_file() for side in sides))
    if not here:
        folders = " and ".join(str(side.run.directory.clips(side.run.points[side.step].id)) for side in sides)
        raise UserError(f"{title}: {folders} have no clip in common. Copy runs with their folder clips/.")
    what = f"{sides[0].label} against {sides[1].label}: {title}"
    return Comparison(
        title=what if len(runs) == 1 else f"{what}, step {step}",
        sides=sides,
        lora_seed=int(study.of(runs[0]).lora_seed.iloc[0]),
        clips=here,
    )


def _sides(study: Study, runs: Sequence[Run], step: int, start: int) -> tuple[Side, Side]:
    labels = [_label(study, run) for run in runs]
    if len(runs) == 1:
        if step == start:
            raise UserError(
                f"{name(runs[0])} at step {step} is compared with itself. Give a later step, or a second run."
            )
        return Side(f"step {step}", runs[0], step), Side(f"step {start}", runs[0], start)
    if labels[0] == labels[1]:
        labels = [name(run) for run in runs]
    return Side(labels[0], runs[0], step), Side(labels[1], runs[1], step)


def _twins(study: Study) -> Iterator[tuple[str, tuple[Run, ...]]]:
    """The runs of every comparison, and what they share, in words."""
    conditions = {run.manifest.run_id: _condition(study, run) for run in study.runs}
    if len(study.runs) == 1:
        (run,) = study.runs
        yield f"{_label(study, run)}, {conditions[run.manifest.run_id]}", study.runs
        return
    if len(study.runs) == 2:
        pair = sorted(study.runs, key=lambda run: str(study.of(run).training.iloc[0]))  # full before partial
        groups = {(", ".join(dict.fromkeys(conditions.values())), 0): pair}
    else:
        groups = _by_condition(study, conditions)
    for (condition, _), runs in groups.items():
        check_alike((run, _shared(run)) for run in runs)
        yield condition, tuple(runs)


def _by_condition(study: Study, conditions: Mapping[str, str]) -> dict[tuple[str, int], list[Run]]:
    """(condition, LoRA seed) → full and partial. Raises UserError for a run that is alone, or one too many."""
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in sorted(study.runs, key=lambda run: str(study.of(run).training.iloc[0])):
        groups.setdefault((conditions[run.manifest.run_id], int(study.of(run).lora_seed.iloc[0])), []).append(run)
    for (condition, seed), runs in groups.items():
        if (found := tuple(str(study.of(run).training.iloc[0]) for run in runs)) != TRAININGS:
            raise UserError(
                f"{condition}, LoRA seed {seed}: {[name(run) for run in runs]} are {found}; a comparison is of one "
                f"{' and one '.join(TRAININGS)}. Give the twin, or leave the run out; exactly two runs are compared "
                "whatever they are."
            )
    return groups


def _shared(run: Run) -> dict[str, Any]:
    clips = run.manifest.clips
    return {"prompts": run.manifest.prompts} | {what: clips.get(what) for what in ("height", "width", "frames", "fps")}


def _condition(study: Study, run: Run) -> str:
    """What was perturbed and how: ``spatial``, ``random Δ, temporal, repeat``; a control has its reference's images."""
    perturbation = run.manifest.perturbation
    by_id = {other.manifest.run_id: other for other in study.runs}
    source = by_id.get(str((perturbation.get("reference") or {}).get("run")), run)
    images = source.manifest.images
    policy, stills = str(images.get("as_video", "")), leaf(images.get("source", ""))
    where = Condition(str(study.of(run).group.iloc[0]), policy, stills)
    kind, pair = str(perturbation.get("kind")), pair_of(run)
    return f"{ {LORA: '', RANDOM: 'random Δ, '}.get(kind, f'{kind}, ') }{where}{f', {pair}' * bool(pair)}"


def _label(study: Study, run: Run) -> str:
    row = study.of(run).iloc[0]
    return symbol(str(row.training), str(row.group))
