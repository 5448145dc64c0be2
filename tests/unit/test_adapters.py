"""Given adapters as states: each is what it is by itself, the first is none, and the network comes back."""

from pathlib import Path

import pytest
import torch
from fit_stills import setup
from random_case import finished, fitted_on
from torch import Tensor, nn

from perturb.cli.identity import identity
from perturb.diffusion import sample_generator
from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation import AdaptersPerturbation, DirectPerturbation, LoraPerturbation, Unfitted, restore
from perturb.store.paths import distinct_names
from perturb.store.rundir import RunDir
from perturb.store.states import step_id
from perturb.store.tensors import hash_modules, summarise
from perturb.study.states import make_states


@pytest.fixture(autouse=True)
def _frozen(tiny_system: VideoSystem) -> None:
    """As it is while sampling: torch's matmul looks at requires_grad when it picks a kernel, and kernels round."""
    tiny_system.unet.requires_grad_(False)


def call(unet: nn.Module) -> Tensor:
    x, context = (torch.randn(shape, generator=sample_generator(0)) for shape in ((1, 4, 2, 4, 4), (1, 5, 32)))
    with torch.no_grad():
        return unet(x, torch.tensor([500]), context, torch.tensor([8]))


def given(unet: nn.Module, root: Path) -> list[str]:
    """A LoRA of rank 2, one of rank 3 on attention alone, and moved weights."""
    run = finished(unet, root / "run")
    for name, made in (("narrow", LoraPerturbation(rank=3, targets="attention")), ("moved", DirectPerturbation())):
        made.attach(unet, Partition.of(unet), "spatial", 1)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.05)
        made.save(root / name)
        made.detach()
    return [str(run.adapter(step_id(5))), str(root / "narrow"), str(root / "moved")]


def test_every_state_is_its_adapter_alone(tiny_system: VideoSystem, tmp_path: Path):
    unet = tiny_system.unet
    folders, plain, before = given(unet, tmp_path), call(unet), hash_modules({"unet": unet})
    wanted = []
    for folder in folders:
        alone = restore(unet, Path(folder))
        for parameter in unet.parameters():
            parameter.requires_grad_(False)
        wanted.append(call(unet))
        alone.detach()
    several, run = AdaptersPerturbation(folders), RunDir(tmp_path / "study")
    assert isinstance(several, Unfitted)
    states = make_states(setup(tiny_system), several, group="spatial", probe_steps=None, run=run)
    assert [state.id for state in states] == ["adapter_none", "adapter_step_000005", "adapter_narrow", "adapter_moved"]
    assert states[0].magnitude == 0.0
    assert len({state.magnitude for state in states}) == 4
    for state, expected in zip(states, [plain, *wanted], strict=True):
        several.load(run.adapter(state.id))
        assert torch.equal(call(unet), expected)
    several.detach()
    assert hash_modules({"unet": unet}) == before
    assert run.manifest().perturbation["adapters"] == dict(
        zip(("step_000005", "narrow", "moved"), folders, strict=True)
    )


def test_what_cannot_be_a_state_is_refused(tiny_system: VideoSystem, tmp_path: Path):
    unet, partition = tiny_system.unet, Partition.of(tiny_system.unet)
    folders = given(unet, tmp_path)
    with pytest.raises(UserError, match=r"perturbation\.adapters is empty"):
        AdaptersPerturbation([])
    with pytest.raises(UserError, match="given twice"):
        AdaptersPerturbation([folders[0], folders[0]])
    with pytest.raises(UserError, match="not in the group 'temporal' of this model: set group to what it perturbs"):
        AdaptersPerturbation(folders).attach(unet, partition, "temporal", 0)
    assert not hasattr(unet, "peft_config")
    with pytest.raises(UserError, match="no adapter in"):
        AdaptersPerturbation([str(tmp_path)]).attach(unet, partition, "spatial", 0)
    with pytest.raises(UserError, match="not attached"):
        AdaptersPerturbation(folders).load(Path(folders[0]))
    fitted_on(tiny_system, RunDir(tmp_path / "run"))
    here = summarise(hash_modules(tiny_system.modules()))
    AdaptersPerturbation(folders).check(here)
    with pytest.raises(UserError, match=r"perturbation\.adapters=.*run is a run of another model"):
        AdaptersPerturbation(folders).check(here | {"unet": {"tensors": 1, "sha256": "0"}})


def test_the_run_is_named_by_what_the_adapters_hold_and_are_called(tmp_path: Path):
    def named(*folders: str) -> list[tuple[str, str]]:
        target = {"_target_": "x", "adapters": [str(tmp_path / folder) for folder in folders]}
        return identity({"system": {}, "prompts": {"file": None}, "sample": {}, "images": {}, "perturbation": target})[
            "perturbation"
        ]["adapters"]

    for folder in ("a", "b", "elsewhere/a"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "adapter_model.safetensors").write_bytes(b"weights of " + folder[-1:].encode())
    assert named("a", "b") == named("elsewhere/a", "b")
    assert named("a", "b") != named("b", "a")


def test_a_file_beneath_no_run_is_not_asked_for_one(tmp_path: Path):
    (tmp_path / "manifest.json").write_text('{"name": "an app of somebody"}')
    (tmp_path / "loras" / "a").mkdir(parents=True)
    AdaptersPerturbation([str(tmp_path / "loras" / "a"), "/b.safetensors"]).check({})
    assert distinct_names(["adapters"]) == ["adapters"]
