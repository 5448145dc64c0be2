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
# # Your own metric
#
# You will see a metric from its formula to its curve: a class of one page that measures how much of the picture changes
# from frame to frame, two checks on clips where the answer is known, and its values on the clips of a finished run.
# Seconds on a laptop.
#
# A metric sees clips, never a model. It says what its numbers mean (`infos`) and gives one value per clip.

# %%
from pathlib import Path

RUN = Path("sample/spatial_full/137fdcdf92")  # change this to a run of your own that has its clips

# %%
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from perturb.analysis import style
from perturb.analysis.load import load
from perturb.analysis.plots import curve, step_axis
from perturb.analysis.statistics.estimates import level_curve
from perturb.metrics.base import Clip, Context, MetricInfo, Value
from perturb.store.records import SCORE_COLUMNS

plt.rcParams.update(style.RC)

# %% [markdown]
# ## The class
#
# `infos` declares name, axis, unit, range and direction. A clip that cannot be measured gets `Value.failed(reason)`;
# something that is not installed raises `Unavailable`. Neither becomes a number.


# %%
class FrameChange:
    """F = mean |frame(t + 1) − frame(t)| over pixels and channels, in 8-bit levels."""

    infos = (
        MetricInfo(
            name="frame_change",
            axis="motion",
            unit="8-bit levels",
            range=(0.0, 255.0),
            direction="band",
            needs=(),
            formula="mean |frame(t + 1) − frame(t)|",
            source="this notebook",
        ),
    )
    paired = False
    batched = False

    def identity(self) -> Mapping[str, Any]:
        return {"version": 1}

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]:
        return {"frame_change": [self._one(clip) for clip in clips]}

    def _one(self, clip: Clip) -> Value:
        if len(clip.frames) < 2:
            return Value.failed("a clip of one frame does not move")
        return Value.of(np.abs(np.diff(clip.frames.astype(float), axis=0)).mean())


# %% [markdown]
# A metric is worth nothing until it is 0 where it must be, and grows with what it measures.

# %%
still = np.full((8, 16, 16, 3), 90, np.uint8)
brighter = still + np.arange(8, dtype=np.uint8)[:, None, None, None]
values = FrameChange()([Clip(frames, 8, "p", 0, 0) for frames in (still, brighter)], Context())["frame_change"]
assert [value.value for value in values] == [0.0, 1.0]

# %% [markdown]
# ## On the clips of a run

# %%
study = load([RUN])
run = study.runs[0]
present = [(state.id, path) for state in run.states for path in sorted(run.directory.clips(state.id).glob("p*_s*.npy"))]
clips = []
for state, path in present:
    prompt, seed = path.stem.rsplit("_s", 1)
    clips.append(Clip(np.load(path), float(run.manifest.clips["fps"]), prompt, int(seed), state))
assert clips, "this run was copied without its clips"
values = FrameChange()(clips, Context())["frame_change"]

# %% [markdown]
# As rows of the frame, so that everything that reads scores can read them. (A band needs two prompts; the sample has
# the clips of one.)

# %%
who = study.scores.loc[0, ["run_id", "training", "group", "lora_seed"]]
rows = [
    (*who, clip.state, clip.prompt_id, clip.seed, "frame_change", value.value, value.status, value.reason)
    for clip, value in zip(clips, values, strict=True)
]
scores = pd.DataFrame(rows, columns=list(SCORE_COLUMNS))
figure, ax = plt.subplots(figsize=(5, 3.2))
scores["step"] = scores.state.map({state.id: state.coordinates["step"] for state in run.states})
curve(ax, level_curve(scores, "frame_change"), colour=style.MOTION)
step_axis(ax, list(run.points))
ax.set(xlabel="perturbation step", ylabel="frame change, 8-bit levels")
plt.show()
scores.groupby("step").value.mean().round(2)

# %% [markdown]
# ## In a study
#
# Put the class into a module that can be imported, and a list with it into a yaml beside the others:
#
#     # conf/metrics/mine.yaml
#     _target_: my_package.metrics.my_metrics        # a function that returns [*embedded_metrics(), FrameChange()]
#
# Then `python -m perturb.run experiment=spatial_full metrics=mine`. The report, the tables and the figures show it by
# its info.
