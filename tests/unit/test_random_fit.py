"""The norm-matched control in a run: what it accepts as reference, what it writes, what it is named by."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fit_stills import SMALL, Stills
from random_case import STEPS, finished, fitted_on

from perturb.cli.identity import identity
from perturb.errors import UserError
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation import RandomPerturbation
from perturb.perturbation.files import read_magnitude
from perturb.perturbation.random import Rank
from perturb.store.records import read_train
from perturb.store.rundir import RunDir
from perturb.store.tensors import hash_modules
from perturb.study.fit import fit

RANKS: tuple[Rank, ...] = ("full", "reference")


@pytest.fixture(autouse=True)
def _frozen(tiny_system: VideoSystem) -> None:
    """As a control leaves it: torch's matmul looks at requires_grad when it picks a kernel, and kernels round."""
    tiny_system.unet.requires_grad_(False)


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
        fit(tiny_system, control, Stills(), probe_steps=(0, 2), config=SMALL, run=run, group="spatial")
    assert not run.path.exists()
    fitted_on(tiny_system, reference)
    fit(tiny_system, control, Stills(), probe_steps=(0, 2), config=SMALL, run=run, group="spatial")
    assert control.magnitude().total > 0


@pytest.mark.parametrize("rank", RANKS)
def test_the_fit_stage_writes_it_at_every_probe_step_and_sees_no_image(
    tiny_system: VideoSystem, tmp_path: Path, rank: Rank
):
    reference = fitted_on(tiny_system, finished(tiny_system.unet, tmp_path / "reference"))
    before, images, run = hash_modules(tiny_system.modules()), Stills(), RunDir(tmp_path / "control")

    def control() -> RandomPerturbation:
        made = RandomPerturbation(str(reference.path), rank)
        fit(tiny_system, made, images, probe_steps=tuple(STEPS), config=SMALL, run=run, group="spatial")
        return made

    helper = replace(run, writes=False)
    fit(
        tiny_system,
        RandomPerturbation(str(reference.path), rank),
        images,
        probe_steps=tuple(STEPS),
        config=SMALL,
        run=helper,
        group="spatial",
    )
    assert not run.path.exists()  # what is not fitted is left to the process that writes
    first = control()
    assert images.loaded == []
    for step in STEPS:
        written, wanted = (read_magnitude(each.adapter(step)) for each in (run, reference))
        assert written == pytest.approx(wanted, rel=1e-4)
    rows = read_train(run.train_log)
    assert [row.step for row in rows] == list(STEPS)
    assert all(row.loss is None for row in rows)
    assert rows[-1].magnitude == first.magnitude().total
    assert first.magnitude().per_layer == pytest.approx(read_magnitude(reference.adapter(5)), rel=1e-4)
    manifest = run.manifest()
    assert manifest.perturbation["kind"] == "random"
    assert manifest.frozen["unchanged"] is True
    assert not (run.path / "checkpoints").exists()
    first.detach()
    assert hash_modules(tiny_system.modules()) == before
    content = {path: path.read_bytes() for path in run.path.glob("adapters/*/*")}
    again = control()  # a finished one only attaches
    assert again.magnitude().total == rows[-1].magnitude
    again.detach()
    (run.path / ".done" / "fit" / "all").unlink()  # a killed one writes the same bytes again
    control().detach()
    assert {path: path.read_bytes() for path in run.path.glob("adapters/*/*")} == content


def test_a_fit_to_a_step_that_the_reference_lacks_names_it(tiny_system: VideoSystem, tmp_path: Path):
    reference = fitted_on(tiny_system, finished(tiny_system.unet, tmp_path / "reference"))
    control = RandomPerturbation(str(reference.path))
    with pytest.raises(UserError, match=r"no adapter of step 4; allowed in probe_steps: 0, 2, 5"):
        fit(tiny_system, control, Stills(), probe_steps=(0, 4), config=SMALL, run=RunDir(tmp_path), group="spatial")
    assert not RunDir(tmp_path).is_done("fit", "all")


def test_the_run_is_named_by_what_the_reference_holds(tiny_system: VideoSystem, tmp_path: Path):
    def named(run: RunDir) -> str:
        seam = {"_target_": "x", "reference": str(run.path)}
        config = {"system": {}, "prompts": {}, "sample": {}, "images": {}, "perturbation": seam}
        return identity(config)["perturbation"]["reference"]

    run = finished(tiny_system.unet, tmp_path / "run")
    before = named(run)
    (run.path / "report.html").write_text("drawn again")
    assert named(run) == before
    assert named(RunDir(run.path.rename(tmp_path / "moved"))) == before
    table = tmp_path / "moved" / "adapters" / "step_000002" / "magnitude.csv"
    table.write_text(table.read_text().replace("conv_in,", "conv_in,1"))
    assert named(RunDir(tmp_path / "moved")) != before
