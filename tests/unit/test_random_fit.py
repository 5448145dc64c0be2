"""The norm-matched control in a run: what it accepts as reference, what it writes, what it is named by."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fit_stills import Stills, setup
from random_case import STEPS, finished, fitted_on

from perturb.cli.identity import identity
from perturb.errors import UserError
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation import LoraPerturbation, Perturbation, RandomPerturbation
from perturb.perturbation.files import read_magnitude
from perturb.perturbation.random import Rank
from perturb.store.rundir import RunDir
from perturb.store.states import step_id
from perturb.store.tensors import hash_modules
from perturb.study.states import make_states

RANKS: tuple[Rank, ...] = ("full", "reference")


@pytest.fixture(autouse=True)
def _frozen(tiny_system: VideoSystem) -> None:
    """As a control leaves it: torch's matmul looks at requires_grad when it picks a kernel, and kernels round."""
    tiny_system.unet.requires_grad_(False)


def make(
    system: VideoSystem,
    perturbation: Perturbation,
    run: RunDir,
    images: Stills | None = None,
    *,
    probe_steps: list[int] | None = None,
) -> None:
    make_states(setup(system, images), perturbation, group="spatial", probe_steps=probe_steps, run=run)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_reference_of_another_model_is_refused_before_anything_is_made(
    tiny_system: VideoSystem, tmp_path: Path, part: str
):
    reference, run = fitted_on(tiny_system, finished(tiny_system.unet, tmp_path / "ref")), RunDir(tmp_path / "run")
    weight = next(tiny_system.modules()[part].parameters())
    with torch.no_grad():
        weight.flatten()[0] += 1
    control = RandomPerturbation(str(reference.path))
    with pytest.raises(UserError, match=rf"ref is a run of another model \(tiny, here\): {part} differ\."):
        make(tiny_system, control, run)
    assert not run.path.exists()
    fitted_on(tiny_system, reference)
    make(tiny_system, control, run)
    assert [state.magnitude > 0 for state in run.states() if state.magnitude is not None] == [False, True, True]


@pytest.mark.parametrize("rank", RANKS)
def test_it_is_written_in_every_state_of_the_reference_and_sees_no_image(
    tiny_system: VideoSystem, tmp_path: Path, rank: Rank
):
    reference = fitted_on(tiny_system, finished(tiny_system.unet, tmp_path / "reference"))
    reference.write_states([replace(state, loss=0.1) for state in reference.states()])  # no loss of the control
    before, images, run = hash_modules(tiny_system.modules()), Stills(), RunDir(tmp_path / "control")

    def control() -> RandomPerturbation:
        made = RandomPerturbation(str(reference.path), rank)
        make(tiny_system, made, run, images)
        return made

    first = control()
    assert images.loaded == []
    for step in STEPS:
        written, wanted = (read_magnitude(each.adapter(step_id(step))) for each in (run, reference))
        assert written == pytest.approx(wanted, rel=1e-4)
    assert [(state.id, state.loss) for state in run.states()] == [(step_id(step), None) for step in STEPS]
    assert not run.train_log.exists()
    first.load(run.adapter(step_id(5)))
    assert run.states()[-1].magnitude == first.magnitude().total
    assert first.magnitude().per_layer == pytest.approx(read_magnitude(reference.adapter(step_id(5))), rel=1e-4)
    manifest = run.manifest()
    assert manifest.perturbation["kind"] == "random"
    assert manifest.frozen["unchanged"] is True
    assert not (run.path / "checkpoints").exists()
    first.detach()
    assert hash_modules(tiny_system.modules()) == before
    content = {path: path.read_bytes() for path in run.path.glob("adapters/*/*")}
    helper = RandomPerturbation(str(reference.path), rank)
    make(tiny_system, helper, replace(run, writes=False), images)  # finds what the process that writes has made
    helper.detach()
    assert {path: path.read_bytes() for path in run.path.glob("adapters/*/*")} == content
    again = control()  # a finished one only attaches
    assert again.magnitude().total == 0.0
    again.detach()
    (run.path / ".done" / "fit" / "all").unlink()  # a killed one writes the same bytes again
    control().detach()
    assert {path: path.read_bytes() for path in run.path.glob("adapters/*/*")} == content


def test_probe_steps_are_for_fits_alone(tiny_system: VideoSystem, tmp_path: Path):
    reference, run = finished(tiny_system.unet, tmp_path / "reference"), RunDir(tmp_path / "run")
    control = RandomPerturbation(str(reference.path))
    with pytest.raises(UserError, match=r"probe_steps is \[0, 2\], but this .* is not fitted: .* 3 in number"):
        make(tiny_system, control, run, probe_steps=[0, 2])
    with pytest.raises(UserError, match="probe_steps is null; allowed for a fit"):
        make(tiny_system, LoraPerturbation(), run)
    assert not run.path.exists()


def test_the_run_is_named_by_what_the_reference_holds(tiny_system: VideoSystem, tmp_path: Path):
    def named(run: RunDir) -> str:
        seam = {"_target_": "x", "reference": str(run.path)}
        config = {"system": {}, "prompts": {"file": None}, "sample": {}, "images": {}, "perturbation": seam}
        return identity(config)["perturbation"]["reference"]

    run = finished(tiny_system.unet, tmp_path / "run")
    before = named(run)
    (run.path / "report.html").write_text("drawn again")
    assert named(run) == before
    assert named(RunDir(run.path.rename(tmp_path / "moved"))) == before
    table = tmp_path / "moved" / "adapters" / "step_000002" / "magnitude.csv"
    table.write_text(table.read_text().replace("conv_in,", "conv_in,1"))
    assert named(RunDir(tmp_path / "moved")) != before
