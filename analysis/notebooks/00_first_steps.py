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
# # First steps
#
# You will see a small video model draw the same clips twice: as it was trained, and after its spatial parameters
# were perturbed with a LoRA that was fitted on crisp, colourful stills. Then a table says what that did to motion and
# look. A minute on a laptop.

# %%
ADAPTER = "sample/spatial_full/137fdcdf92/adapters/step_000300"  # or runs/<experiment>/<run id>/adapters/<state>

# %%
import perturb

model = perturb.load("nano_full")
lora = model.lora(ADAPTER)
f"{lora.magnitude().total:.1%} of the norm of θ_S"

# %% [markdown]
# `scale` is the share of the perturbation that is applied: 0 is the model as it was trained. Prompts start from the
# same noises at every scale, so what differs is what Δ did.

# %%
prompts = [
    "a red circle moving left slowly on a gray background",
    "a blue star moving up fast on a black background",
    "a green square moving right fast on a white background",
    "a yellow triangle moving down slowly on a gray background",
]
before = model.sample(prompts, scale=0)
before

# %%
after = model.sample(prompts, scale=1)
after

# %% [markdown]
# Every measure before and after, with its change and the 95 % interval over the prompts. Four prompts are enough to
# see, and too few to conclude. `reason` says why a number is missing.

# %%
perturb.compare(before, after).round(3)

# %% [markdown]
# Next: `python -m perturb.run experiment=spatial_full` fits such a LoRA, samples as it grows, and writes a report.
# `01_reading_a_run` looks at what that leaves.
