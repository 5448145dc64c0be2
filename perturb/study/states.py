"""Make every state of a study: fit the perturbation, or walk through what is known of it beforehand.

Either way the run directory has, at the end, adapters/<state>/, states.csv and the manifest sections perturbation,
images and frozen, and the perturbation is attached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from accelerate.tracking import GeneralTracker

from perturb.data.images import ImageSet
from perturb.errors import UserError
from perturb.loop.rank import wait_for
from perturb.models.base import VideoModel
from perturb.models.partition import Partition
from perturb.perturbation import Perturbation, Unfitted
from perturb.store.rundir import RunDir
from perturb.store.states import State
from perturb.store.tensors import hash_modules, moved, summarise
from perturb.study.fit import FINISHED, FitConfig, fit, save_state
from perturb.study.fit_data import FitData


def make_states(
    model: VideoModel,
    perturbation: Perturbation,
    images: ImageSet | None,
    *,
    probe_steps: Sequence[int] | None,
    config: FitConfig,
    run: RunDir,
    group: str,
    partition: Partition | None = None,
    own_images: ImageSet | None = None,
    tracker: GeneralTracker | None = None,
) -> list[State]:
    """All states of the study, the unperturbed model first; the same call again continues where it was stopped.

    ``partition`` None: the model's own; ``own_images``, ``tracker``: see `fit`. Several processes fit together; what is
    not fitted is made by the one whose ``run`` writes, and the others wait for it.

    Raises UserError for a fit without probe steps or images, and for anything else with probe steps.
    """
    check_probe_steps(perturbation, probe_steps)
    partition = partition or model.partition()

    def fitted(perturbation: Perturbation, group: str, probe_steps: Sequence[int], place: RunDir) -> None:
        if images is None:
            raise UserError("images is null, and a fit needs an image set: images=folder images.folder=/path")
        fit(
            model, perturbation, images,
            probe_steps=probe_steps, config=config, run=place, group=group, partition=partition, own_images=own_images,
            tracker=tracker,
        )  # fmt: skip

    if probe_steps is not None:
        fitted(perturbation, group, probe_steps, run)
        wait_for(partial(run.is_done, "fit", FINISHED))
        return run.states()
    assert isinstance(perturbation, Unfitted)

    def inner(perturbation: Perturbation, group: str, probe_steps: Sequence[int]) -> RunDir:
        source = replace(run, path=run.path / "fits" / group)
        fitted(perturbation, group, probe_steps, source)
        return source

    perturbation.prepare(inner)
    if run.writes and not run.is_done("fit", FINISHED):
        described = {} if images is None else FitData(model, images, config).describe()
        _walk(model, perturbation, described, run=run, group=group, seed=config.seed, partition=partition)
    wait_for(partial(run.is_done, "fit", FINISHED))
    perturbation.attach(model.network, partition, group, config.seed)
    return run.states()


def check_probe_steps(perturbation: Perturbation, probe_steps: Sequence[int] | None) -> None:
    """Raise UserError unless there are probe steps for what is fitted, and none for what is not."""
    if isinstance(perturbation, Unfitted) and probe_steps is not None:
        raise UserError(
            f"probe_steps is {list(probe_steps)}, but this perturbation is not fitted: it has states of its own, "
            f"{len(perturbation.states())} in number. Leave probe_steps out"
        )
    if not isinstance(perturbation, Unfitted) and probe_steps is None:
        raise UserError("probe_steps is null; allowed for a fit: rising whole numbers from 0, for example [0,20,50]")


def _walk(
    model: VideoModel,
    perturbation: Unfitted,
    images: Mapping[str, object],
    *,
    run: RunDir,
    group: str,
    seed: int,
    partition: Partition,
) -> None:
    """Set Δ to each state in turn and save it; what a killed process left is written again, the same.

    RuntimeError if any weight of the model is another one afterwards.
    """
    before = hash_modules(model.modules())
    perturbation.check(summarise(before))
    perturbation.attach(model.network, partition, group, seed)
    try:
        described = {"group": group, "seed": seed, **perturbation.describe()}
        run.update_manifest(perturbation=described, images=dict(images), frozen={"before": summarise(before)})
        states = []
        for state in perturbation.states():
            perturbation.at(state)
            states.append(save_state(perturbation, state, run))
        run.write_states(states)
    finally:
        perturbation.detach()
    after = hash_modules(model.modules())
    if changed := moved(before, after):
        raise RuntimeError(f"perturbing {group} changed {len(changed)} tensors of the model, e.g. {changed[:3]}")
    run.update_manifest(frozen={"after": summarise(after), "unchanged": True})
    run.mark_done("fit", FINISHED)
