"""`python experiments/samplers/steps.py`: what fewer steps cost on the twins, each sampler against 50 DDIM steps.

Every clip is paired with that of 50 DDIM steps from the same prompt and noise. Clips go to runs/samplers and are not
made again; clips.csv, table.csv and steps.png are written beside this file.
"""

import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

import perturb
from perturb.analysis.coupling.design import TRAININGS
from perturb.analysis.statistics.estimates import mean_interval
from perturb.analysis.style import QUIET, RC, RULE, TRAINING_COLOUR
from perturb.data.prompts import load_prompts
from perturb.diffusion import DDIMSampler
from perturb.diffusion.solvers import DPMSolverSampler, UniPCSampler
from perturb.metrics import SSIM_DRIFT, VISUAL, Clip, Watermark
from perturb.metrics.embedded.motion import MOTION
from perturb.metrics.embedded.shapes import LABELS, SHAPES
from perturb.store.paths import resolve

MODELS = ("nano_full", "nano_partial")
SAMPLERS = {"ddim": DDIMSampler, "dpm_solver": DPMSolverSampler, "unipc": UniPCSampler}
LABELLED = {"ddim": "DDIM", "dpm_solver": "DPM-Solver++", "unipc": "UniPC"}
STEPS = (5, 10, 15, 20, 30, 50)
REFERENCE = ("ddim", 50)
# Set before anything was sampled: a tenth of what the spatial LoRA of the first study changes in M_F over 300 steps
# (motion quality −.30, colourfulness +28, watermark trace −.73), and one label in twenty. A sampler is "not
# distinguishable" when the 95 % interval of its paired difference lies within the margin, for all four, in both twins.
MARGINS = {"motion_quality": 0.03, "colourfulness": 2.8, "watermark_trace": 0.07, "shown": 0.05}
MEASURES = [*MARGINS, "ssim_drift"]
HERE, CLIPS = Path(__file__).parent, Path("runs/samplers")
KEY = ["model", "sampler", "steps"]


def sampled(model: str, name: str, steps: int) -> tuple[list[Clip], dict[str, float]]:
    """The clips of all study prompts, one noise each; and what they cost: forwards and processor seconds per clip."""
    path = CLIPS / f"{model}_{name}_{steps}.npz"
    prompts = load_prompts(resolve("package:world/prompts.txt"))
    if not path.is_file():
        loaded = perturb.load(model)
        sampler = SAMPLERS[name](steps=steps).resolved(loaded.system.sampling)
        begin = time.process_time()
        clips = loaded.sample([prompt.text for prompt in prompts], sampler=sampler)
        seconds = (time.process_time() - begin) / len(prompts)
        path.parent.mkdir(parents=True, exist_ok=True)
        forwards = len(sampler.table(loaded.system.schedule)) * sampler.how_guided().sides
        np.savez_compressed(path, frames=[clip.frames for clip in clips], seconds=seconds, forwards=forwards)
    kept = np.load(path)
    clips = [Clip(f, 8, p.id, 0, f"{name}_{steps}", p.text) for f, p in zip(kept["frames"], prompts, strict=True)]
    return clips, {"forwards": float(kept["forwards"]), "seconds": float(kept["seconds"])}


def measured(conditions: Sequence[tuple[str, int]]) -> pd.DataFrame:
    """One row per model, sampler, steps and prompt: the measures, and what the clip cost."""
    parts = []
    for model in MODELS:
        reference, _ = sampled(model, *REFERENCE)
        for name, steps in conditions:
            clips, cost = sampled(model, name, steps)
            rows = perturb.score(clips, [MOTION, VISUAL, Watermark(), SHAPES, SSIM_DRIFT], original=reference)
            wide = rows[rows.prompt_id != "*"].pivot(index="prompt_id", columns="metric", values="value").astype(float)
            wide["shown"] = wide[[f"{label}_shown" for label in LABELS]].mean(axis=1)
            place = dict(zip(KEY, (model, name, steps), strict=True))
            parts.append(wide[MEASURES].reset_index().assign(**place, **cost))
    return pd.concat(parts)[[*KEY, "prompt_id", *MEASURES, "forwards", "seconds"]]


def compared(clips: pd.DataFrame) -> pd.DataFrame:
    """One row per condition and measure: mean, paired difference from the reference with its interval, and verdict."""
    start = clips.set_index(["sampler", "steps"]).loc[[REFERENCE]].set_index(["model", "prompt_id"])
    rows = []
    for (model, name, steps), one in clips.groupby(KEY, sort=False):
        own = one.set_index("prompt_id")
        for measure in MEASURES:
            change = mean_interval(own[measure] - start.loc[model][measure])
            within = bool(max(-change.low, change.high) <= MARGINS.get(measure, np.nan))
            values = (own[measure].mean(), change.mean, change.low, change.high, within)
            rows.append((model, name, steps, own.forwards.iloc[0], own.seconds.iloc[0], measure, *values))
    named = ["forwards", "seconds", "measure", "mean", "difference", "low", "high", "within"]
    return pd.DataFrame(rows, columns=[*KEY, *named])


def cheapest(table: pd.DataFrame) -> pd.DataFrame:
    """The conditions that are within all margins in both twins, fewest forwards first; the default is the first row."""
    decisive = table[table.measure.isin([*MARGINS])]
    groups = decisive.groupby(["sampler", "steps"], sort=False)
    return groups.agg(forwards=("forwards", "first"), within=("within", "all")).query("within").sort_values("forwards")


def draw(table: pd.DataFrame, path: Path) -> None:
    """Paired differences with their intervals, a row for every condition and a mark for each twin; margins in grey."""
    plt.rcParams.update(RC)
    conditions = list(table.groupby(KEY[1:], sort=False).groups)
    rows = sorted((one for one in conditions if one != REFERENCE), key=lambda one: one[1])  # alike: in their order
    figure, axes = plt.subplots(1, len(MARGINS), figsize=(10, 1.2 + 0.3 * len(rows)), sharey=True, layout="constrained")
    for axis, (measure, margin) in zip(axes, MARGINS.items(), strict=True):
        axis.axvspan(-margin, margin, color=RULE, alpha=0.5, lw=0)
        axis.axvline(0, color=QUIET, lw=0.7)
        for model, training, away in zip(MODELS, TRAININGS, (-0.16, 0.16), strict=True):
            one = table[(table.measure == measure) & (table.model == model)].set_index(KEY[1:]).loc[rows]
            look = {"color": TRAINING_COLOUR[training], "fmt": "os"[MODELS.index(model)], "lw": 1.2, "ms": 3.5}
            places, half = np.arange(len(rows)) + away, (one.high - one.low) / 2
            axis.errorbar(one.difference, places, xerr=half, label=f"{training} model", **look)
        axis.set_title(f"{measure.replace('_', ' ')}, ±{margin:g}")
        axis.xaxis.set_major_locator(MaxNLocator(4))
    axes[0].set_yticks(range(len(rows)), [f"{LABELLED[name]}, {steps} steps" for name, steps in rows])
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel("difference from 50 DDIM steps, 95 % intervals over prompts; grey: within the margin", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    figure.savefig(path)


def main() -> None:
    """The command: the reference first, then from few steps to many; arguments choose numbers of steps.

    ``draw`` draws table.csv again.
    """
    if sys.argv[1:] == ["draw"]:
        draw(pd.read_csv(HERE / "table.csv"), HERE / "steps.png")
        return
    chosen = [int(steps) for steps in sys.argv[1:]] or STEPS
    conditions = [
        REFERENCE,
        *((name, steps) for steps, name in product(chosen, SAMPLERS) if (name, steps) != REFERENCE),
    ]
    for (name, steps), model in product(conditions, MODELS):
        print(model, name, steps, sampled(model, name, steps)[1], flush=True)
    clips = measured(conditions)
    clips.round(5).to_csv(HERE / "clips.csv", index=False)
    table = compared(clips)
    table.round(5).to_csv(HERE / "table.csv", index=False)
    draw(table, HERE / "steps.png")
    print(table.to_string(), cheapest(table), sep="\n")


if __name__ == "__main__":
    main()
