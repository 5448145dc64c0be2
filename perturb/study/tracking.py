"""The scores of a study for a tracker: per state the mean of every metric, the loss on D_I, and the frames of clips."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from statistics import fmean

import numpy as np
from accelerate import PartialState
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from einops import rearrange

from perturb.store.records import read_scores
from perturb.store.rundir import RunDir
from perturb.store.states import STEP, State

SHOWN = 4
"""Clips of a state whose frames are shown, one row each."""


def track_scores(tracker: GeneralTracker, run: RunDir) -> None:
    """Log each state of a scored run at its step along the fit, or at its number where it has none; ends the tracker.

    Trackers without pictures get none. W&B gets the step as a value.
    """
    PartialState()  # accelerate's trackers ask it which process they are in
    tracker.start()
    form = {"dataformats": "NHWC"} if isinstance(tracker, TensorBoardTracker) else {}
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in read_scores(run.scores):
        if row.value is not None:
            values[row.state][row.metric].append(row.value)
    for number, state in enumerate(run.states()):
        step: int | None = int(state.coordinates.get(STEP, number))
        logged = _logged(state, values[state.id])
        if isinstance(tracker, WandBTracker):  # which drops what comes at a step before that of the fit's last row
            logged, step = logged | {"state/step": float(step)}, None
        tracker.log(logged, step=step)
        show: Callable[..., None] | None = getattr(tracker, "log_images", None)
        if show is not None and (sheet := _frames(run, state)) is not None:
            show({"clips": sheet[None]}, step=step, **form)
    tracker.finish()


def _logged(state: State, values: Mapping[str, list[float]]) -> dict[str, float]:
    means = {f"score/{metric}": fmean(numbers) for metric, numbers in values.items()}
    measured = {"state/magnitude": state.magnitude, "state/loss": state.loss}
    return means | {name: value for name, value in measured.items() if value is not None}


def _frames(run: RunDir, state: State) -> np.ndarray | None:
    paths = sorted(run.clips(state.id).glob("*.npy"))[:SHOWN]
    clips = [np.load(path) for path in paths]
    return rearrange(np.stack(clips), "b t h w c -> (b h) (t w) c") if clips else None
