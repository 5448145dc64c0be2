"""Made-up runs of a coupling study, with values simple enough to work everything out by hand."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturb.store.records import SET_PROMPT, SET_SEED, ScoreRow, scores_csv
from perturb.store.rundir import RunDir, write_atomic
from perturb.store.states import State, step_id

STEPS = (0, 50, 100)
TEXTS = {"p000": "a red circle", "p001": "a blue star", "p002": "a cyan square"}
CONDITIONS = (("spatial", "single_frame"), ("temporal", "single_frame"), ("temporal", "repeat"))
METRICS = (  # name, axis, lowest value
    ("motion_quality", "motion", 0.0),
    ("path_jerk", "motion", 0.0),
    ("dynamics", "motion", 0.0),
    ("colourfulness", "visual", 0.0),
    ("watermark_trace", "visual", -1.0),
    ("watermark", "visual", 0.0),
    ("lpips_drift", "drift", 0.0),
)
RATE = {"full": 0.3, "partial": 0.1}
DOSE = {"full": 0.08, "partial": 0.04}
OWN_LOSS = 0.02


@dataclass(frozen=True)
class Key:
    """What tells a run from the others. Without ``losses`` it is a run that does not record its fit, as old ones."""

    training: str
    group: str
    policy: str
    kind: str
    seed: int
    pair: str = ""
    images: str = ""
    losses: tuple[float, ...] = ()

    @property
    def run_id(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()[:10]


Motion = Callable[[Key, int, int], float]


def motion(key: Key, prompt: int, step: int) -> float:
    """A straight line: it starts at .5, .6, .7 and falls per 100 steps by .3 (full) or .1 (partial).

    A full model falls by .02 more in the second seed and by .01 and .02 more in the second and third prompt; half as
    much when perturbed in time, and a tenth of it under a control.
    """
    rate = RATE[key.training] + (key.training == "full") * (0.02 * key.seed + 0.01 * prompt)
    rate *= {"spatial": 1.0, "temporal": 0.5}[key.group] * {"lora": 1.0, "random": 0.1}[key.kind]
    return 0.5 + 0.1 * prompt - rate * step / 100


def values(key: Key, step: int, law: Motion) -> list[tuple[str, int, str, float | None]]:
    """(prompt, noise seed, metric, value) of one step; LPIPS is unavailable. Jerk grows where motion is lost."""
    rows: list[tuple[str, int, str, float | None]] = [(SET_PROMPT, SET_SEED, "watermark", 0.04 - 0.0001 * step)]
    for i, prompt in enumerate(TEXTS):
        moved = law(key, i, step)
        rows += [
            (prompt, 0, "motion_quality", moved),
            (prompt, 0, "path_jerk", 0.5 + law(key, i, 0) - moved),
            (prompt, 0, "dynamics", 0.9 - 0.01 * i - RATE[key.training] * step / 1000),
            (prompt, 0, "colourfulness", 20.0 + i + 0.1 * step * (1 + i * RATE[key.training])),
            (prompt, 0, "watermark_trace", 0.5 - 0.001 * step * (1 + i)),
            (prompt, 0, "lpips_drift", None),
        ]
    return rows


def make_run(root: Path, key: Key, steps: Sequence[int] = STEPS, law: Motion = motion) -> RunDir:
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
        for prompt, noise, metric, value in values(key, step, law)
    ]
    losses = dict(zip(steps, key.losses, strict=True)) if key.losses else {}
    run.write_states([State(step_id(s), {"step": s}, DOSE[key.training] * s / 100, losses.get(s)) for s in steps])
    write_atomic(run.scores, scores_csv(rows, [step_id(step) for step in steps]))
    perturbation: dict[str, Any] = {"kind": key.kind, "group": key.group, "seed": key.seed}
    if key.kind == "random":
        lora = Key(key.training, key.group, key.policy, "lora", key.seed, key.pair, key.images, key.losses)
        perturbation["reference"] = {"run": lora.run_id, "kind": "lora", "seed": key.seed}
    if key.losses:
        ratio = key.losses[0] / OWN_LOSS
        run.update_manifest(distance={"loss": key.losses[0], "own_loss": OWN_LOSS, "ratio": ratio, "reason": ""})
    pair = {"pair": key.pair} if key.pair else {}
    run.update_manifest(
        run_id=key.run_id,
        experiment=experiment,
        system={"spec": "nano", "training": key.training, "sha256": f"weights of {key.training} {key.pair}", **pair},
        perturbation=perturbation,
        images={"as_video": key.policy if key.kind == "lora" else "single_frame", "source": key.images},
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


def make_pairs(
    root: Path,
    images: Sequence[str],
    law: Motion,
    *,
    pairs: int = 3,
    losses: tuple[float, ...] = (0.08, 0.04, 0.025),
    conditions: Sequence[tuple[str, str]] = CONDITIONS[:1],
) -> dict[Key, RunDir]:
    """Several pairs × both models × image sets × two LoRA seeds, fits recorded; motion follows ``law``."""
    keys = [
        Key(training, group, policy, "lora", seed, f"pair{k}", name, losses)
        for k in range(pairs)
        for name in images
        for group, policy in conditions
        for training in ("full", "partial")
        for seed in (0, 1)
    ]
    return {key: make_run(root, key, law=law) for key in keys}
