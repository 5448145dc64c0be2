"""A made-up run directory for the tests of analysis. Its clips show a disc that slows down as the step grows."""

import io
import math
from pathlib import Path

import numpy as np
from rich.console import Console

from perturb.analysis.load import load
from perturb.analysis.result import Result
from perturb.analysis.table import result_table
from perturb.store.records import SET_PROMPT, SET_SEED, ScoreRow, scores_csv
from perturb.store.rundir import RunDir, write_atomic
from perturb.store.states import step_id, step_state

STEPS = (0, 20, 50, 100, 200, 300)
COLOURS = {"red": (200, 50, 45), "blue": (50, 80, 190), "green": (60, 150, 70), "yellow": (215, 190, 60)}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
METRICS = (  # name, axis, direction, level at step 0, change per full dose, spread over prompts
    ("dynamics", "motion", "up", 0.83, -0.40, 0.05),
    ("luminance_stability", "motion", "up", 0.97, -0.04, 0.01),
    ("consistency", "motion", "up", 0.78, -0.20, 0.04),
    ("motion_quality", "motion", "up", 0.55, -0.35, 0.08),
    ("collapse", "motion", "down", 0.0, 0.0, 0.0),
    ("sharpness", "visual", "up", 0.031, 0.022, 0.004),
    ("noise", "visual", "down", 0.021, -0.009, 0.003),
    ("contrast", "visual", "band", 0.16, 0.07, 0.02),
    ("colourfulness", "visual", "band", 31.0, 24.0, 4.0),
    ("clipped", "visual", "down", 0.01, 0.03, 0.006),
    ("blockiness", "visual", "down", 1.04, 0.03, 0.02),
    ("watermark", "visual", "down", 0.062, -0.048, 0.0),
    ("watermark_trace", "visual", "down", 0.71, -0.55, 0.05),
    ("blur", "visual", "down", 0.5, -0.12, 0.03),
    ("ssim_drift", "drift", "down", 0.0, 0.42, 0.06),
    ("lpips_drift", "drift", "down", 0.0, 0.3, 0.05),
)


def disc_clip(colour: str, direction: str, dose: float, rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """A disc of 8 frames (uint8 t h w c): slower, more saturated and crisper as the dose goes from 0 to 1."""
    t = np.arange(8)[:, None, None]
    dx, dy = (step * (4.5 - 4 * dose) for step in DIRECTIONS[direction])
    y, x = np.mgrid[:size, :size][:, None]
    distance = np.hypot(x - size / 2 - dx * (t - 3.5), y - size / 2 - dy * (t - 3.5))
    mask = 1 / (1 + np.exp((distance - 12) / (1.6 - 1.2 * dose)))[..., None]
    ground = np.full(3, 120.0)
    fill = ground + (np.array(COLOURS[colour]) - ground) * (0.55 + 0.6 * dose)
    texture = 1 + 0.25 * dose * np.sin((x + y) / 3.0)[..., None]
    frames = mask * fill * texture + (1 - mask) * ground
    frames[:, 46:52, 8:56] += (1 - dose) * 30 * (x[0, 46:52, 8:56, None] // 4 % 2)
    return np.clip(frames + rng.normal(0, 6 * (1 - dose) + 1, frames.shape), 0, 255).astype(np.uint8)


def made_up_values(prompts: list[str], rng: np.random.Generator):
    """(step, prompt, seed, metric, value, reason it is absent): a trend with the step, prompts differ."""
    n = len(prompts)
    for name, _, _, level, change, spread in METRICS:
        offsets, slopes = spread * rng.normal(size=(2, n))
        for step in STEPS:
            dose = step / STEPS[-1]
            if name == "watermark":
                yield step, SET_PROMPT, SET_SEED, name, level + change * dose, ""
                continue
            values = level + offsets * (0 < level < 1) + (change + slopes) * dose**0.7
            values += 0.15 * spread * rng.normal(size=n) * (step > 0)
            for i, prompt in enumerate(prompts):
                value, reason = float(values[i]), ""
                if name == "collapse":
                    value = float(i % 8 < 3 * dose - 1)
                elif name == "lpips_drift":
                    value, reason = None, "no file /hub/alexnet-owt-7be5be79.pth"
                yield step, prompt, 0, name, value, reason


def make_run(path: Path, *, training: str = "full", group: str = "spatial", prompts: int = 16, clips: bool = True):
    """Write a run directory such as `perturb.run` leaves, with random scores of a known trend."""
    run, rng = RunDir(path), np.random.default_rng(0)
    words = [(c, d) for c in COLOURS for d in DIRECTIONS][:prompts]
    texts = {f"p{i:03d}": f"a {c} circle moving {d} slowly on a gray background" for i, (c, d) in enumerate(words)}
    rows = [
        ScoreRow(
            "r1", training, group, 0, step_id(step), prompt, seed, metric, value, "unavailable" if why else "ok", why
        )
        for step, prompt, seed, metric, value, why in made_up_values(list(texts), rng)
    ]
    run.write_states([step_state(s, 0.08 * math.sqrt(s / STEPS[-1])) for s in STEPS])
    write_atomic(run.scores, scores_csv(rows, [step_id(step) for step in STEPS]))
    run.update_manifest(
        run_id="r1",
        experiment=f"{group}_{training}",
        system={"spec": "nano", "training": training},
        perturbation={"kind": "lora", "group": group, "seed": 0},
        images={"as_video": "single_frame", "frames": 1},
        prompts=texts,
        metrics=[{"name": n, "axis": a, "unit": "1", "range": [0, 1], "direction": d} for n, a, d, *_ in METRICS],
    )
    if clips:
        for step in STEPS:
            run.clips(step_id(step)).mkdir(parents=True)
            for prompt, (colour, direction) in zip(texts, words, strict=True):
                np.save(run.clip(step_id(step), prompt, 0), disc_clip(colour, direction, step / STEPS[-1], rng))
    return run


def edit(path: Path, old: str, new: str, count: int = 1) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, count), encoding="utf-8")


def printed(run: RunDir, width: int = 120) -> str:
    study = load([run.path])
    console = Console(file=io.StringIO(), width=width)
    console.print(result_table(Result.of(study, study.runs[0]), width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
