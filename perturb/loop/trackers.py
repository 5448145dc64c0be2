"""Where curves go beside the csv files: a tracker that the user has installed, through accelerate.

All of them work offline: TensorBoard writes into the run's folder, trackio into TRACKIO_DIR, MLflow beside where the
command was given (mlflow.db, mlruns) without its telemetry, and W&B is told to until the user sets WANDB_MODE.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from accelerate.tracking import (
    GeneralTracker,
    MLflowTracker,
    TensorBoardTracker,
    TrackioTracker,
    WandBTracker,
    on_main_process,
)

from perturb.errors import UserError

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")


class Trackio(TrackioTracker):
    """With pictures, which accelerate does not hand on."""

    @on_main_process
    def log_images(self, values: Mapping[str, np.ndarray], step: int) -> None:
        """The pictures n h w c uint8 of each name, at a step."""
        image = importlib.import_module("trackio").Image
        self.log({name: image(picture) for name, pictures in values.items() for picture in pictures}, step=step)


class MLflow(MLflowTracker):
    """With pictures, and one run for all that is logged under a name: a fit, its scores, what was resumed."""

    @on_main_process
    def start(self) -> None:
        """Begin the run, or go on with it."""
        mlflow = importlib.import_module("mlflow")
        if self.run_id is None and (experiment := mlflow.get_experiment_by_name(self.experiment_name)):
            named = f"attributes.run_name = '{self.run_name}'"
            runs = mlflow.search_runs([experiment.experiment_id], named, output_format="list")
            self.run_id = runs[0].info.run_id if runs else None
        super().start()

    @on_main_process
    def log_images(self, values: Mapping[str, np.ndarray], step: int) -> None:
        """The pictures n h w c uint8 of each name, at a step."""
        mlflow = importlib.import_module("mlflow")
        for name, pictures in values.items():
            for picture in pictures:
                mlflow.log_image(picture, key=name, step=step, synchronous=True)


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
            return Trackio(project, name=run, resume="allow")
        case _:
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            return MLflow(project, run_name=run)
