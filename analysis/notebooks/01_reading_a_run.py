# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reading a run
#
# You will see what a run leaves behind: its values as one table, what is missing and why, the curve of motion quality
# with its interval, and the frames of one prompt as the perturbation grows.
#
# A run directory holds a manifest (what was run), `scores.csv` (one row per probe step, clip and metric), `train.csv`
# (the fit, with ‖Δ‖/‖θ‖ at each probe step) and clips. Nothing here needs torch, and the directory may come from
# another machine. Seconds on a laptop.

# %%
from pathlib import Path

RUN = Path("sample/spatial_full/137fdcdf92")  # change this to a run of your own: runs/<experiment>/<run id>

# %%
import matplotlib.pyplot as plt

from perturb.analysis import style
from perturb.analysis.load import completeness, load
from perturb.analysis.plots import curve, frame_strip, magnitude_axis, step_axis
from perturb.analysis.result import Result
from perturb.analysis.statistics.estimates import changes
from perturb.analysis.strips import load_strips

plt.rcParams.update(style.RC)

# %% [markdown]
# `load` checks what it reads: schema version, duplicate rows, values that are not numbers, metrics and prompts that
# the manifest does not list. What it gives is one tidy frame.

# %%
study = load([RUN])
result = Result.of(study, study.runs[0])
study.scores.head()

# %% [markdown]
# What was run, and how complete it is. A value that could not be computed is `unavailable` with a reason, never a
# number.

# %%
manifest = result.run.manifest
print(manifest.experiment, manifest.system["spec"], manifest.system["training"], manifest.system["sha256"][:12])
print(completeness(study.scores))
study.scores.loc[study.scores.status != "ok", ["metric", "status", "reason"]].drop_duplicates()

# %% [markdown]
# The mean over prompts at each probe step, with its 95 % interval. Noises of a prompt are averaged first: clips of
# one prompt are not independent.

# %%
figure, ax = plt.subplots(figsize=(5, 3.2))
curve(ax, result.levels["motion_quality"], colour=style.MOTION)
step_axis(ax, result.points)
magnitude_axis(ax, result.run.magnitude, result.points)
ax.set(xlabel="perturbation step", ylabel="motion quality", ylim=(0, None))
plt.show()

# %% [markdown]
# Every clip starts from the same noise at every step, so a change can be paired: `Y(step) − Y(0)` of the same prompt
# and noise. Its interval is narrower than the difference of two means.

# %%
changes(result.scores, "motion_quality").describe().round(3)

# %% [markdown]
# What that looks like: the prompt with the typical change, among those whose clips are here.

# %%
for strip in load_strips(result)[:1]:
    figure, ax = plt.subplots(figsize=(6, 3.4))
    frame_strip(ax, strip.clips, title=strip.prompt, detail=strip.detail)
