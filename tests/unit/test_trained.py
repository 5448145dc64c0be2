"""A finished training as a perturbation: at its last step the network is what the training left, bit for bit."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from fit_stills import setup

from perturb.cli.identity import identity
from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.models.videocrafter.checkpoint import load_system, save_system
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation import Unfitted
from perturb.perturbation.base import parts
from perturb.store.rundir import RunDir
from perturb.store.states import step_id
from perturb.store.tensors import hash_modules, summarise
from perturb.study.states import make_states
from perturb.training.recipes import LoraConfig, Trained
from perturb.training.trained import TrainedPerturbation
from perturb.training.twins import write_trace
from tests.unit.training_case import loop, train_tiny

STEPS = 3
TIME = Trained(group="temporal", time_embedding=False, fps_embedding=False)


def trained(system: VideoSystem, folder: Path, recipe: Trained) -> Path:
    """What the command would leave of a training of ``system``, which itself stays as it is."""
    start = copy.deepcopy(system.unet)
    trace = train_tiny(system, folder / "work", recipe, loop=loop(), steps=STEPS)
    save_system(system, folder / "output")
    write_trace(folder / "output", trace)
    lora = None if recipe.lora is None else {"rank": recipe.lora.rank}
    card = {"recipe": "a recipe", "init": "the start", "data": {}, "parameters": trace.parameters}
    card |= {"sample_stream_sha256": trace.outcome.stream, "last": trace.outcome.last}
    card |= {"config": {"seed": 3, "trained": {"lora": lora}}}
    (folder / "output" / "training.json").write_text(json.dumps(card))
    system.unet = start
    return folder / "output"


@pytest.mark.parametrize(
    "recipe",
    [
        TIME,
        Trained(group="both", time_embedding=False, fps_embedding=False, lora=LoraConfig(rank=2)),
    ],
)
def test_a_study_passes_from_the_start_to_the_trained_model(tiny_system: VideoSystem, tmp_path: Path, recipe: Trained):
    folder = trained(tiny_system, tmp_path, recipe)
    before = {name: tensor.clone() for name, tensor in tiny_system.unet.state_dict().items()}
    after = load_system(folder).unet.state_dict()
    perturbation, run = TrainedPerturbation(str(folder)), RunDir(tmp_path / "run")
    assert isinstance(perturbation, Unfitted)
    make_states(setup(tiny_system), perturbation, group=recipe.group, probe_steps=None, run=run)
    perturbation.load(run.adapter(step_id(STEPS)))
    now = tiny_system.unet.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in after.items())
    assert not all(torch.equal(before[name], tensor) for name, tensor in after.items())
    perturbation.load(run.adapter(step_id(0)))
    now = tiny_system.unet.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())

    names = [n for part in parts(recipe.group) for n in Partition.of(tiny_system.unet).names(part)]
    names = names if recipe.lora is None else [n for n in names if not torch.equal(before[n], after[n])]
    delta = sum(float((after[n].double() - before[n].double()).square().sum()) for n in names)
    theta = sum(float(before[n].double().square().sum()) for n in names)
    assert [state.magnitude for state in run.states()] == [0.0, pytest.approx(math.sqrt(delta / theta), rel=1e-6)]
    section = run.manifest().perturbation
    assert (section["kind"], section["seed"], section["group"]) == ("trained", 3, recipe.group)
    assert (section["lora"] is None) == (recipe.lora is None)


def test_another_start_and_another_group_are_refused(tiny_system: VideoSystem, tmp_path: Path):
    folder = trained(tiny_system, tmp_path, TIME)
    perturbation, partition = TrainedPerturbation(str(folder)), Partition.of(tiny_system.unet)
    perturbation.check(summarise(hash_modules(tiny_system.modules())))
    for group in ("spatial", "both"):
        with pytest.raises(UserError, match=f"trained temporal, and group is '{group}'"):
            perturbation.attach(tiny_system.unet, partition, group, 0)
    perturbation.attach(tiny_system.unet, partition, "temporal", 0)
    assert [state.id for state in perturbation.states()] == [step_id(0), step_id(3)]
    perturbation.detach()
    with torch.no_grad():
        tiny_system.unet.get_parameter(partition.names("spatial")[0]).add_(1)
    with pytest.raises(UserError, match=r"another model than this one: unet differ\. Set system to .* the start"):
        perturbation.check(summarise(hash_modules(tiny_system.modules())))


def test_a_folder_that_no_training_left_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"lacks training\.json, hashes\.json"):
        TrainedPerturbation(str(tmp_path)).check({})


def test_the_study_of_a_training_is_named_by_what_the_training_left(tmp_path: Path):
    def named(folder: Path) -> str:
        seam = {"_target_": "x", "checkpoint": str(folder)}
        config = {"system": {}, "prompts": {"file": None}, "sample": {}, "images": {}, "perturbation": seam}
        return identity(config)["perturbation"]["checkpoint"]

    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "unet.safetensors").write_bytes(b"weights")
    before = named(folder)
    assert named(folder.rename(tmp_path / "moved")) == before
    (tmp_path / "moved" / "unet.safetensors").write_bytes(b"trained again")
    assert named(tmp_path / "moved") != before
