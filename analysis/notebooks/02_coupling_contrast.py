# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The coupling contrast, step by step
#
# Space and time are strongly coupled where motion survives a spatial perturbation. So two models can be
# compared by what they lose per step of the perturbation: a difference in differences,
#
#     DiD = slope_full − slope_partial        slope: least squares over the steps, per 100 steps
#
# Below 0 the fully trained model loses more. With one pair of models that is about this pair, and which of two ways of
# training couples more strongly stays open. A slope is also steeper where motion starts higher. Here it is worked out
# by hand, and then by the library.

# %%
from pathlib import Path

RUNS = [Path("sample")]  # change this to your own: folders that hold the runs of one study

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from perturb.analysis import style
from perturb.analysis.coupling.comparisons import PRIMARY_CONDITION, PRIMARY_METRIC, Results
from perturb.analysis.coupling.design import LORA, Cell, Design
from perturb.analysis.coupling.stepwise import Stepwise, cell_rows, gap_rows
from perturb.analysis.coupling.stepwise_figure import gap_over_steps
from perturb.analysis.load import find_runs, load

plt.rcParams.update(style.RC)
design = Design.of(load(find_runs(RUNS)))  # refuses runs that do not make one complete study, and says which

# %% [markdown]
# ## By hand
#
# Motion quality of both models: LoRA seed × (prompt, noise) × step. Only trajectories that both have whole are
# compared.

# %%
full, partial = (
    design.trajectories(Cell(training, PRIMARY_CONDITION, LORA), PRIMARY_METRIC) for training in ("full", "partial")
)
keep = full.complete & partial.complete
y_full, y_partial = full.by_prompt(keep), partial.by_prompt(keep)  # noises averaged: LoRA seed × prompt × step
print(f"LoRA seeds, prompts, steps: {y_full.shape}; trajectories left out: {int((~keep).sum())}")

# %% [markdown]
# One slope per LoRA seed and prompt, and one difference per prompt.

# %%
x = np.array(design.steps) / 100


def slopes(y):
    return np.array([[np.polyfit(x, trajectory, 1)[0] for trajectory in seed] for seed in y])


d = slopes(y_full) - slopes(y_partial)  # LoRA seed × prompt
by_prompt = d.mean(axis=0)
print(f"slopes {slopes(y_full).mean():.4f} and {slopes(y_partial).mean():.4f}, DiD {by_prompt.mean():.4f}")

# %% [markdown]
# How sure? Over prompts: Student's t on one number per prompt, and the sign-flip test: if the models did not differ,
# every prompt's difference could as well have the other sign. How often is such a sum as far from 0 as ours? This is
# about these LoRAs.

# %%
low, high = stats.t.interval(0.95, len(by_prompt) - 1, by_prompt.mean(), stats.sem(by_prompt))
sums = np.random.default_rng(0).choice([-1, 1], size=(9999, len(by_prompt))) @ by_prompt
p = (1 + (abs(sums) >= abs(by_prompt.sum())).sum()) / (1 + len(sums))
print(f"95 % over prompts {low:.4f} to {high:.4f}, sign-flip p {p:.4f}")

# %% [markdown]
# Over LoRA seeds: one contrast per seed, and n − 1 degrees of freedom. With one seed there is no such interval, and
# nothing can be said about other LoRAs.

# %%
by_seed = d.mean(axis=1)
print(f"LoRA seeds {len(by_seed)}:", np.round(by_seed, 4))

# %% [markdown]
# ## By the library
#
# The same numbers, in every reading: slope over steps and over ‖Δ‖/‖θ‖, mean change; raw and as a share of the start.
# A conclusion that depends on the reading is not a conclusion about coupling.
# The interval is over prompts and LoRA seeds together, where there are several.

# %%
results = Results.of(design)
primary = next(row for row in results.rows if row.is_primary)
assert np.isclose(primary.contrast.difference.over_prompts.mean, by_prompt.mean())
assert np.isclose(primary.contrast.difference.over_prompts.low, low, equal_nan=True)
pd.DataFrame(
    {
        "reading": row.reading.unit,
        "full − partial": row.contrast.difference.over_both.mean,
        "low": row.contrast.difference.over_both.low,
        "high": row.contrast.difference.over_both.high,
        "bootstrap low": row.contrast.bootstrap.low,
        "bootstrap high": row.contrast.bootstrap.high,
        "p": row.contrast.test.p,
    }
    for row in results.rows
    if row.comparison == primary.comparison
).round(4)

# %% [markdown]
# ## Where along the steps
#
# A slope is one number. The gap at each step, with a band that holds at all steps together, shows where it comes
# from.

# %%
stepwise = Stepwise.of(results)
gap = next(gap for gap in stepwise.gaps if gap.condition == PRIMARY_CONDITION and gap.kind == LORA)
figure, ax = plt.subplots(figsize=(5, 3.2))
gap_over_steps(ax, gap, design.steps).set(xlabel="perturbation step", ylabel="gap in motion quality")
plt.show()
pd.DataFrame(gap_rows(results, stepwise)).round(3)

# %% [markdown]
# What each model keeps: retention along the steps, the step at which half is lost, the interquartile mean at the end.

# %%
pd.DataFrame(cell_rows(results, stepwise)).round(3)
