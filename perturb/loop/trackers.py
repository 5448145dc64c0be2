"""Where curves go beside the csv files: a tracker that the user has installed, through accelerate.

All of them work offline: TensorBoard, trackio and MLflow write to this machine, and W&B is told to until the user sets
WANDB_MODE.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from perturb.errors import UserError

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")


def make_tracker(name: str | None, *, project: str, folder: Path) -> GeneralTracker | None:
    """The tracker of that name for what is done in ``folder``, which names its run; not started yet.

    Raises UserError for an unknown name, and for a package that is not installed.
    """
    if name is None:
        return None
    if name not in TRACKERS:
        raise UserError(f"tracker is {name!r}; allowed: {', '.join(TRACKERS)}, null")
    if importlib.util.find_spec(name) is None:
        raise UserError(f"tracker is {name}, which is not installed: pip install {name}, or tracker=null")
    run = folder.name
    match name:
        case "tensorboard":
            return TensorBoardTracker("tensorboard", folder)
        case "wandb":
            os.environ.setdefault("WANDB_MODE", "offline")
            return WandBTracker(project, name=run, id=run, resume="allow", dir=str(folder))
        case "trackio":
            return TrackioTracker(project, name=run, resume="allow")
        case _:
            return MLflowTracker(project, run_name=run)
