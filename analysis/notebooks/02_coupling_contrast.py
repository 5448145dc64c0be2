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
# # The primary endpoint, step by step
#
# You will see how the verdict on a pair of twins comes about: the share of motion that either model keeps, worked out
# by hand from the scores of every clip and then by the library, the gate that may withhold a verdict, and both curves.
# Seconds on a laptop.
#
# Space and time are strongly coupled where motion survives a spatial perturbation. So two models are compared by the
# share of motion that they keep along the path of the perturbation,
#
#     A = mean along the steps of (Ȳ_k / Ȳ_0)        Ȳ_k: motion quality at step k, mean over prompts
#
# and what is asked is A_full − A_partial. It depends neither on where a model starts nor on how fast it is perturbed.
# The sample holds one pair of twins.

# %%
from pathlib import Path

RUNS = [Path("sample")]  # change this to your own: folders that hold the runs of one study

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from perturb.analysis import style
from perturb.analysis.coupling.curves import Results, run_rows
from perturb.analysis.coupling.design import LORA, Cell, Design
from perturb.analysis.coupling.endpoints import HEADER, endpoint_rows, headline
from perturb.analysis.coupling.figure import curves_panel
from perturb.analysis.load import find_runs, load
from perturb.analysis.statistics.endpoints import PRIMARY

plt.rcParams.update(style.RC)
results = Results.of(Design.of(load(find_runs(RUNS))))  # refuses runs that do not make one study, and says which
design, finding = results.design, results.primary
print(f"{finding.condition}: {finding.rests_on}")

# %% [markdown]
# ## By hand
#
# Motion quality of both models of the first pair: LoRA seed × (prompt, noise) × step. Only trajectories that both have
# whole are compared.

# %%
pair, seeds = next(iter(design.twins(finding.condition).items()))
full, partial = (
    design.trajectories(Cell(training, finding.condition, LORA), pair, seeds, PRIMARY)
    for training in ("full", "partial")
)
keep = full.complete & partial.complete
y_full, y_partial = full.by_prompt(keep), partial.by_prompt(keep)  # noises averaged: LoRA seed × prompt × step
print(f"LoRA seeds, prompts, steps: {y_full.shape}; trajectories left out: {int((~keep).sum())}")

# %% [markdown]
# The path ends where the later of both fits has converged, which runs record as the loss on D_I at every state; older
# runs do not, and there it ends at the last state.

# %%
steps = np.array(design.samples[finding.condition].steps)
end = max(fit.horizon.place for fit in finding.fits[pair])
print([fit.words for fit in finding.fits[pair]])


def kept(y):
    """Of every LoRA seed."""
    share = y.mean(axis=1) / y.mean(axis=1)[:, :1]
    return np.trapezoid(share[:, : end + 1], steps[: end + 1], axis=1) / steps[end]


difference = (kept(y_full) - kept(y_partial)).mean()
print(f"kept {kept(y_full).mean():.4f} and {kept(y_partial).mean():.4f}, difference {difference:.4f}")

# %% [markdown]
# ## By the library
#
# The gate comes first: both models on the floor, one pair of twins alone, or fits that have not converged give no
# verdict, whatever the number.

# %%
if len(finding.pairs) == 1:
    assert np.isclose(finding.decision.difference.mean, difference)
print(headline(results.findings))
pd.DataFrame([each.cells for each in results.findings], columns=HEADER)

# %% [markdown]
# Every endpoint with its interval and what that is over; slope and change are descriptive.

# %%
pd.DataFrame(endpoint_rows(results.findings))[["endpoint", "mean", "low", "high", "interval_over", "reason"]].round(4)

# %%
figure, ax = plt.subplots(figsize=(5, 3.2))
curves_panel(ax, results, finding.condition).set(xlabel="perturbation step", ylabel="motion quality", ylim=(0, None))
plt.show()

# %% [markdown]
# What each run records of its fit: how far D_I is, the loss at both ends, where it has converged.

# %%
pd.DataFrame(run_rows(results)).dropna(axis="columns", how="all")
