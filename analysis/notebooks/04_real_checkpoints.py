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
# # Real checkpoints: what to change
#
# You will see the plan of a study: how many parameters would be perturbed, which clips sampled, how much memory and
# time that takes, measured on one real step. Nothing else is run.
#
# The other notebooks ran on the shipped `nano` models. A VideoCrafter checkpoint goes through the same code; what
# changes is three paths.

# %%
OVERRIDES = ["experiment=spatial_full"]  # change this, for example to the list in the next cell

# %% [markdown]
#     OVERRIDES = [
#         "experiment=spatial_full",
#         "system=videocrafter2",
#         "system.checkpoint=/path/model.ckpt",
#         "images.folder=/path/to/images",       # captions beside them: name.txt
#         "prompts.file=/path/prompts.txt",      # one per line; 32 or more for an effect of 0.1
#     ]

# %%
import subprocess
import sys

done = subprocess.run(
    [sys.executable, "-m", "perturb.run", *OVERRIDES, "plan=true"], capture_output=True, text=True, check=False
)
print(done.stdout or done.stderr)

# %% [markdown]
# ## What a coupling study needs
#
# - **Twins.** M_F and M_P trained on the same clips, in the same order, from the same image model; `python -m
#   perturb.verify A B` checks that. The published VideoCrafter2 is one fully trained model; no partially trained twin
#   of it was released. `python -m perturb.train experiment=train/partial` trains one.
# - **Three LoRA seeds or more**, `fit.seed=0,1,2`: they are the top cluster. With one, the claim is about that LoRA.
# - **32 prompts or more**, the same in all runs. They are by default; keep `prompts.file` the same.
# - **The same clip settings** in both models. Runs that differ in size, fps, sampler or noise seeds are refused.
# - **A random control** of the same norm: `perturbation=random perturbation.reference=runs/spatial_full/<run id>`.
#
#       python -m perturb.run --multirun experiment=spatial_full,spatial_partial fit.seed=0,1,2 …
#       python -m perturb.analysis.coupling runs -o tables
#       python -m perturb.report runs -o report.html --clip-side 192 --clips-mb 12
#
# ## What differs from nano
#
# - A clip is 16 frames of 320×512 and not 8 of 64×64: the report reduces it to `--clip-side` pixels and takes as many
#   prompts as fit into `--clips-mb`.
# - Probe steps: watch ‖Δ‖/‖θ‖ in `train.csv`. Equal steps are not equal perturbation; the report shows both axes.
# - `metrics=all` adds learned metrics. One whose weights are not there is `unavailable`, and the reason names the file.

# %%
assert done.returncode == 0, done.stderr
