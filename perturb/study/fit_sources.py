"""Fit what a landscape is made of, where no finished run was given for it."""

from __future__ import annotations

from dataclasses import replace

from perturb.data.images import ImageSet
from perturb.models.base import VideoModel
from perturb.models.partition import Partition
from perturb.perturbation import LandscapePerturbation
from perturb.store.rundir import RunDir
from perturb.study.fit import FitConfig, fit


def fit_sources(
    model: VideoModel,
    landscape: LandscapePerturbation,
    images: ImageSet,
    *,
    config: FitConfig,
    run: RunDir,
    partition: Partition | None = None,
) -> None:
    """Fit a LoRA in space and one in time, each by itself and to the landscape's step, into <run>/fits/<group>.

    A fit that was stopped goes on; a finished one is taken as it is.
    """
    for group in landscape.unfitted:
        source = replace(run, path=run.path / "fits" / group)
        probes = (0, landscape.step)
        fit(
            model,
            landscape.lora,
            images,
            probe_steps=probes,
            config=config,
            run=source,
            group=group,
            partition=partition,
        )
        landscape.lora.detach()
        landscape.take(group, source)
