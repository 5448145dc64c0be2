"""Made-up runs of a coupling study, with values simple enough to work everything out by hand."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturb.store.records import SET_PROMPT, SET_SEED, ScoreRow, scores_csv
from perturb.store.rundir import RunDir, write_atomic
from perturb.store.states import step_id, step_state

STEPS = (0, 50, 100)
TEXTS = {"p000": "a red circle", "p001": "a blue star", "p002": "a cyan square"}
CONDITIONS = (("spatial", "single_frame"), ("temporal", "single_frame"), ("temporal", "repeat"))
METRICS = (  # name, axis, lowest value
    ("motion_quality", "motion", 0.0),
    ("dynamics", "motion", 0.0),
    ("colourfulness", "visual", 0.0),
    ("watermark_trace", "visual", -1.0),
    ("watermark", "visual", 0.0),
    ("lpips_drift", "drift", 0.0),
)
RATE = {"full": 0.3, "partial": 0.1}
DOSE = {"full": 0.08, "partial": 0.04}


@dataclass(frozen=True)
class Key:
    """What tells a run from the others."""

    training: str
    group: str
    policy: str
    kind: str
    seed: int

    @property
    def run_id(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()[:10]


def motion(key: Key, prompt: int, step: int) -> float:
    """A straight line: it starts at .5, .6, .7 and falls per 100 steps by .3 (full) or .1 (partial).

    A full model falls by .02 more in the second seed and by .01 and .02 more in the second and third prompt; half as
    much when perturbed in time, and a tenth of it under a control.
    """
    rate = RATE[key.training] + (key.training == "full") * (0.02 * key.seed + 0.01 * prompt)
    rate *= {"spatial": 1.0, "temporal": 0.5}[key.group] * {"lora": 1.0, "random": 0.1}[key.kind]
    return 0.5 + 0.1 * prompt - rate * step / 100


def values(key: Key, step: int) -> list[tuple[str, int, str, float | None]]:
    """(prompt, noise seed, metric, value) of one step; LPIPS is unavailable."""
    rows: list[tuple[str, int, str, float | None]] = [(SET_PROMPT, SET_SEED, "watermark", 0.04 - 0.0001 * step)]
    for i, prompt in enumerate(TEXTS):
        rows += [
            (prompt, 0, "motion_quality", motion(key, i, step)),
            (prompt, 0, "dynamics", 0.9 - 0.01 * i - RATE[key.training] * step / 1000),
            (prompt, 0, "colourfulness", 20.0 + i + 0.1 * step * (1 + i * RATE[key.training])),
            (prompt, 0, "watermark_trace", 0.5 - 0.001 * step * (1 + i)),
            (prompt, 0, "lpips_drift", None),
        ]
    return rows


def make_run(root: Path, key: Key, steps: Sequence[int] = STEPS) -> RunDir:
    """One run directory, <experiment>/<run id>, as `perturb.run` leaves it but without clips."""
    experiment = f"{key.group}_{key.training}" + ("" if key.kind == "lora" else f"_{key.kind}")
    run = RunDir(root / experiment / key.run_id)
    rows = [
        ScoreRow(
            *(key.run_id, key.training, key.group, key.seed, step_id(step), prompt, noise, metric, value),
            status="unavailable" if value is None else "ok",
            reason="no weights" if value is None else "",
        )
        for step in steps
        for prompt, noise, metric, value in values(key, step)
    ]
    run.write_states([step_state(step, DOSE[key.training] * step / 100) for step in steps])
    write_atomic(run.scores, scores_csv(rows, [step_id(step) for step in steps]))
    perturbation: dict[str, Any] = {"kind": key.kind, "group": key.group, "seed": key.seed}
    if key.kind == "random":
        lora = Key(key.training, key.group, key.policy, "lora", key.seed)
        perturbation["reference"] = {"run": lora.run_id, "kind": "lora", "seed": key.seed}
    run.update_manifest(
        run_id=key.run_id,
        experiment=experiment,
        system={"spec": "nano", "training": key.training, "sha256": f"weights of {key.training}"},
        perturbation=perturbation,
        images={"as_video": key.policy if key.kind == "lora" else "single_frame"},
        prompts=TEXTS,
        clips={"height": 64, "width": 64, "seeds": [0]},
        metrics=[
            {"name": name, "axis": axis, "unit": "1", "range": [low, None], "direction": "up"}
            for name, axis, low in METRICS
        ],
    )
    return run


def make_study(root: Path, keep: Callable[[Key], bool] = lambda key: True) -> dict[Key, RunDir]:
    """Two LoRA seeds of every condition and training, each with its control; those that ``keep`` lets through."""
    keys = [
        Key(training, group, policy, kind, seed)
        for kind in ("lora", "random")
        for group, policy in CONDITIONS
        for training in ("full", "partial")
        for seed in (0, 1)
    ]
    return {key: make_run(root, key) for key in keys if keep(key)}
