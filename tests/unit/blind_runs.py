"""Made-up twins with clips whose colour tells a machine, not the analysis, which of two is the smoother.

The red of a clip is its flicker: the lower, the smoother. The fully trained model is the smoother in two prompts of
three.
"""

from pathlib import Path

import numpy as np

from perturb.store.records import SET_PROMPT, SET_SEED, ScoreRow, TrainRow, scores_csv, train_csv
from perturb.store.rundir import RunDir, write_atomic
from perturb.store.states import step_id, step_state

PROMPTS = tuple(f"p{i:03d}" for i in range(12))
STEPS = (0, 100)
FRAMES, SIZE, FPS = 4, 16, 40
METRICS = (("flicker", "down"), ("contrarian", "up"), ("constant", "up"), ("whole_set", "up"), ("absent", "up"))


def flicker(training: str, prompt: str, step: int = STEPS[-1]) -> int:
    """Full: 40 everywhere. Partial: above it by 20, 30, …, but below it in every third prompt. None at the start."""
    i = PROMPTS.index(prompt)
    if step == STEPS[0]:
        return 10
    return 40 if training == "full" else 40 + (-8 - i if i % 3 == 2 else 20 + 10 * i)


def make_twins(root: Path) -> None:
    """A full and a partial run, spatial."""
    for training in ("full", "partial"):
        make_twin(root, training)


def make_twin(root: Path, training: str, seed: int = 0) -> RunDir:
    """One run with a clip per prompt and step."""
    run = RunDir(root / f"spatial_{training}" / f"{training[:4]}00000{seed}")
    rows = []
    for step in STEPS:
        run.clips(step_id(step)).mkdir(parents=True)
        where = (run.path.name, training, "spatial", seed, step_id(step))
        rows.append(ScoreRow(*where, SET_PROMPT, SET_SEED, "whole_set", 1.0 + step))
        for prompt in PROMPTS:
            value = flicker(training, prompt, step)
            frames = np.zeros((FRAMES, SIZE, SIZE, 3), np.uint8)
            frames[...] = (value, 90, 30)
            np.save(run.clip(step_id(step), prompt, 0), frames)
            own = {"flicker": float(value), "contrarian": -float(value), "constant": 1.0}
            rows += [ScoreRow(*where, prompt, 0, name, of) for name, of in own.items()]
            rows.append(ScoreRow(*where, prompt, 0, "absent", None, "unavailable", "no weights"))
    run.write_states([step_state(step, step / 1000) for step in STEPS])
    write_atomic(run.scores, scores_csv(rows, [step_id(step) for step in STEPS]))
    write_atomic(run.train_log, train_csv(TrainRow(step, None, None, None, step / 1000) for step in STEPS))
    run.update_manifest(
        run_id=run.path.name,
        experiment=f"spatial_{training}",
        system={"spec": "nano", "training": training},
        perturbation={"kind": "lora", "group": "spatial", "seed": seed},
        images={"as_video": "single_frame"},
        prompts={prompt: f"secret words {prompt}" for prompt in PROMPTS},
        clips={"height": SIZE, "width": SIZE, "frames": FRAMES, "fps": FPS, "seeds": [0]},
        metrics=[
            {"name": name, "axis": "motion", "unit": "1", "range": [None, None], "direction": direction}
            for name, direction in METRICS
        ],
    )
    return run
