"""Make every state of a study: fit the perturbation, or walk through what is known of it beforehand.

Either way the run directory has, at the end, adapters/<state>/, states.csv and the manifest sections perturbation,
images and frozen, and the perturbation is attached.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from perturb.errors import UserError
from perturb.loop.rank import wait_for
from perturb.perturbation import Perturbation, Unfitted
from perturb.store.rundir import RunDir
from perturb.store.states import State
from perturb.store.tensors import hash_modules, summarise
from perturb.study.fit import FINISHED, Setup, fit, save_state
from perturb.study.fit_data import FitData


def make_states(
    setup: Setup, perturbation: Perturbation, *, group: str, probe_steps: Sequence[int] | None, run: RunDir
) -> list[State]:
    """All states of the study, the unperturbed model first; the same call again continues where it was stopped.

    Several processes fit together; what is not fitted is made by the one whose ``run`` writes, and the others wait for
    it. Raises UserError for a fit without probe steps or images, and for anything else with probe steps.
    """
    check_probe_steps(perturbation, probe_steps)
    if probe_steps is not None:
        fit(setup, perturbation, group=group, probe_steps=probe_steps, run=run)
        wait_for(partial(run.is_done, "fit", FINISHED))
        return run.states()
    assert isinstance(perturbation, Unfitted)

    def inner(perturbation: Perturbation, group: str, probe_steps: Sequence[int]) -> RunDir:
        source = replace(run, path=run.path / "fits" / group)
        fit(setup, perturbation, group=group, probe_steps=probe_steps, run=source)
        return source

    if run.writes and not run.is_done("fit", FINISHED):
        perturbation.check(summarise(hash_modules(setup.model.modules())))  # what is given, before anything is fitted
    perturbation.prepare(inner)
    if run.writes and not run.is_done("fit", FINISHED):
        images = {} if setup.images is None else FitData(setup.model, setup.images, setup.config).describe()
        with setup.attached(perturbation, group, run, images):
            states = []
            for state in perturbation.states():  # what a killed process left is written again, the same
                perturbation.at(state)
                states.append(save_state(perturbation, state, run))
            run.write_states(states)
    wait_for(partial(run.is_done, "fit", FINISHED))
    perturbation.attach(setup.model.network, setup.partition, group, setup.config.seed)
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
