"""The norm-matched control: as large as its reference in every layer, in a direction of its own, without any fit."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from random_case import finished
from torch import Tensor, nn

from perturb.diffusion import sample_generator
from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation import DirectPerturbation, LoraPerturbation, RandomPerturbation, restore
from perturb.perturbation.files import read_magnitude, write_magnitude
from perturb.perturbation.random import Rank
from perturb.store.rundir import RunDir
from perturb.store.states import step_id, step_state
from perturb.store.tensors import hash_modules

RANKS: tuple[Rank, ...] = ("full", "reference")


@pytest.fixture(autouse=True)
def _frozen(tiny_system: VideoSystem) -> None:
    """As a control leaves it: torch's matmul looks at requires_grad when it picks a kernel, and kernels round."""
    tiny_system.unet.requires_grad_(False)


def attached(
    unet: nn.Module, run: RunDir, rank: Rank = "full", *, group: str = "spatial", seed: int = 0
) -> RandomPerturbation:
    control = RandomPerturbation(str(run.path), rank)
    control.attach(unet, Partition.of(unet), group, seed)
    return control


def weight(unet: nn.Module, layer: str) -> Tensor:
    """θ + Δ of a layer, whoever carries Δ."""
    module: Any = unet.get_submodule(layer)
    if not hasattr(module, "base_layer"):
        return module.weight.detach().clone()
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    delta = module.scaling["default"] * (b.flatten(1) @ a.flatten(1))
    return (module.base_layer.weight + delta.view_as(module.base_layer.weight)).detach()


def call(unet: nn.Module) -> Tensor:
    x, context = (torch.randn(shape, generator=sample_generator(0)) for shape in ((1, 4, 2, 4, 4), (1, 5, 32)))
    with torch.no_grad():
        return unet(x, torch.tensor([500]), context, torch.tensor([8]))


@pytest.mark.parametrize("rank", RANKS)
def test_every_layer_is_moved_as_far_as_in_the_reference(tiny_system: VideoSystem, tmp_path: Path, rank: Rank):
    unet, run = tiny_system.unet, finished(tiny_system.unet, tmp_path)
    layers = Partition.of(unet).layers("spatial")
    start = {layer: weight(unet, layer) for layer in layers}
    control = attached(unet, run, rank)
    measured = control.magnitude()
    for step in (5, 0, 2):
        control.at(step_state(step))
        wanted = read_magnitude(run.adapter(step_id(step)))
        assert set(wanted) == set(layers)
        for layer in layers:
            delta = (weight(unet, layer).double() - start[layer].double()).norm()
            assert float(delta / start[layer].double().norm()) == pytest.approx(wanted[layer], rel=1e-4, abs=1e-12)
        measured = control.magnitude()
        assert measured.per_layer == pytest.approx(wanted, rel=1e-4)
    control.detach()
    reference = LoraPerturbation.restore(unet, run.adapter(step_id(2)))
    assert measured.total == pytest.approx(reference.magnitude().total, rel=1e-4)


def test_the_full_direction_is_the_layer_s_own_gaussian(tiny_system: VideoSystem, tmp_path: Path):
    unet, run = tiny_system.unet, finished(tiny_system.unet, tmp_path)
    start = weight(unet, "conv_in")
    attached(unet, run, seed=7).at(step_state(5))
    gaussian = torch.randn(start.shape, generator=sample_generator("random", 7, "conv_in"))
    ratio = read_magnitude(run.adapter(step_id(5)))["conv_in"]
    expected = start + ratio * start.norm() / gaussian.norm() * gaussian
    torch.testing.assert_close(weight(unet, "conv_in"), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("rank", RANKS)
def test_the_direction_stays_and_only_the_size_grows(tiny_system: VideoSystem, tmp_path: Path, rank: Rank):
    unet, run = tiny_system.unet, finished(tiny_system.unet, tmp_path)
    layer = "middle.stage.spatial.project_in"
    start, control = weight(unet, layer), attached(unet, run, rank)
    control.at(step_state(2))
    small = weight(unet, layer) - start
    control.at(step_state(5))
    large = weight(unet, layer) - start
    assert large.norm() > 2 * small.norm()
    torch.testing.assert_close(large / large.norm(), small / small.norm(), atol=1e-4, rtol=0)
    singular = torch.linalg.svdvals(large)
    if rank == "reference":
        assert singular[1] > 1e3 * singular[2]  # rank 2, as the reference
    else:
        assert singular[2] > 0.5 * singular[0]
    control.detach()
    reference = LoraPerturbation.restore(unet, run.adapter(step_id(5)))
    theirs = weight(unet, layer) - start
    cosine = float((large * theirs).sum() / large.norm() / theirs.norm())
    assert abs(cosine) < 0.15  # about 1/√(number of weights)
    reference.detach()


@pytest.mark.parametrize("rank", RANKS)
def test_equal_seeds_are_equal_bits_and_detach_gives_the_network_back(
    tiny_system: VideoSystem, tmp_path: Path, rank: Rank
):
    unet, run = tiny_system.unet, finished(tiny_system.unet, tmp_path)
    unet.get_parameter("conv_out.bias").requires_grad_(True)
    before, plain, outputs = hash_modules({"unet": unet}), call(unet), []
    flags = {name: parameter.requires_grad for name, parameter in unet.named_parameters()}
    for seed in (0, 0, 1):
        torch.manual_seed(len(outputs))  # the global state has no say
        control = attached(unet, run, rank, seed=seed)
        torch.testing.assert_close(call(unet), plain, atol=1e-6, rtol=1e-5)  # nothing yet
        control.at(step_state(5))
        outputs.append(call(unet))
        assert control.parameters() == []
        assert not any(parameter.requires_grad for parameter in unet.parameters())
        control.at(step_state(0))
        torch.testing.assert_close(call(unet), plain, atol=1e-6, rtol=1e-5)
        control.detach()
        control.detach()
        assert hash_modules({"unet": unet}) == before
        assert {name: parameter.requires_grad for name, parameter in unet.named_parameters()} == flags
    assert torch.equal(outputs[0], outputs[1])
    assert (outputs[0] - outputs[2]).abs().max() > 1e-3
    assert (outputs[0] - plain).abs().max() > 1e-3


@pytest.mark.parametrize("rank", RANKS)
def test_saved_scaled_and_loaded(tiny_system: VideoSystem, tmp_path: Path, rank: Rank):
    unet, run = tiny_system.unet, finished(tiny_system.unet, tmp_path / "run")
    plain, control = call(unet), attached(unet, run, rank)
    control.at(step_state(5))
    expected = call(unet)
    control.save(tmp_path / "kept")
    whole = control.magnitude()
    control.scale(0.5)
    assert control.magnitude().total == pytest.approx(0.5 * whole.total, rel=1e-4)
    assert control.magnitude().per_layer["conv_in"] == pytest.approx(0.5 * whole.per_layer["conv_in"], rel=1e-4)
    control.at(step_state(2))  # back to α = 1
    assert control.magnitude().per_layer == pytest.approx(read_magnitude(run.adapter(step_id(2))), rel=1e-4)
    control.load(tmp_path / "kept")
    assert torch.equal(call(unet), expected)
    control.scale(0.0)
    assert torch.equal(call(unet), plain)
    control.detach()
    again = restore(unet, tmp_path / "kept")
    assert isinstance(again, DirectPerturbation if rank == "full" else LoraPerturbation)
    torch.testing.assert_close(call(unet), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("group", ["temporal", "both"])
def test_every_group(tiny_system: VideoSystem, tmp_path: Path, group: str, rank: Rank):
    partition = Partition.of(tiny_system.unet)
    parts = ("spatial", "temporal") if group == "both" else (group,)
    run = finished(tiny_system.unet, tmp_path, group)
    control = attached(tiny_system.unet, run, rank, group=group)
    control.at(step_state(2))
    described = control.describe()
    layers = {layer for part in parts for layer in partition.layers(part)}
    assert set(described["layers"]) == layers
    if rank == "full":
        assert described["parameters"] == sum(math.prod(partition.shapes[f"{layer}.weight"]) for layer in layers)
    assert described["rank"] == ("full" if rank == "full" else 2)
    assert described["reference"] == {"run": tmp_path.name, "kind": "lora", "seed": 4}
    assert control.magnitude().per_layer == pytest.approx(read_magnitude(run.adapter(step_id(2))), rel=1e-4)


def test_a_directly_fine_tuned_reference_is_matched_in_every_parameter(tiny_system: VideoSystem, tmp_path: Path):
    unet, run = tiny_system.unet, RunDir(tmp_path)
    for name, parameter in unet.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)  # a ratio to 0 says nothing
    direct = DirectPerturbation()
    direct.attach(unet, Partition.of(unet), "spatial", 0)
    with torch.no_grad():
        for parameter in direct.parameters():
            parameter.mul_(1.1)
    direct.save(run.adapter(step_id(3)))
    write_magnitude(run.adapter(step_id(3)), direct.magnitude())
    run.write_states([step_state(3)])
    run.update_manifest(perturbation={"group": "spatial", **direct.describe()})
    run.mark_done("fit", "all")
    direct.detach()
    control = attached(unet, run)
    control.at(step_state(3))
    ratios = control.magnitude().per_layer
    assert len(ratios) == len(Partition.of(unet).names("spatial"))
    assert list(ratios.values()) == pytest.approx([0.1] * len(ratios), rel=1e-4)
    control.detach()
    with pytest.raises(UserError, match=r"adapter_config\.json is missing"):
        attached(unet, run, "reference")


def test_what_cannot_be_matched_is_refused_with_a_reason(tiny_system: VideoSystem, tmp_path: Path):
    unet, run = tiny_system.unet, finished(tiny_system.unet, tmp_path / "run")
    with pytest.raises(UserError, match=r"perturbation\.rank is 8; allowed: full, reference"):
        RandomPerturbation("x", 8)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"nowhere is no run whose fit is finished"):
        attached(unet, RunDir(tmp_path / "nowhere"))
    for group in ("temporal", "both"):
        with pytest.raises(UserError, match=rf"perturbed the group 'spatial', this run is to perturb '{group}'"):
            attached(unet, run, group=group)
    with pytest.raises(UserError, match="not attached"):
        RandomPerturbation(str(run.path)).at(step_state(0))
    control = attached(unet, run)
    with pytest.raises(UserError, match="attached already"):
        attached(unet, run)
    with pytest.raises(UserError, match="attached already"):
        control.attach(nn.Linear(2, 2), Partition.of(unet), "spatial", 0)
    control.detach()
    table = run.adapter(step_id(0)) / "magnitude.csv"
    whole = table.read_text()
    table.write_text("layer,delta_ratio,base_norm\nsomewhere,0.1,1\n")
    with pytest.raises(UserError, match="perturbed somewhere, which is not in the group 'spatial' of this model"):
        attached(unet, run)
    table.write_text(whole)
    control = attached(unet, run)
    table = run.adapter(step_id(2)) / "magnitude.csv"
    table.write_text("layer,delta_ratio,base_norm\nconv_in,inf,1\nconv_out,0.1,1\n")
    with pytest.raises(UserError, match=r"moved 1 layers whose weights are 0, e\.g\. conv_in"):
        control.at(step_state(2))
    table.write_text("layer,size\nconv_in,1\n")
    with pytest.raises(UserError, match=r"magnitude\.csv is no table of layer,delta_ratio"):
        control.at(step_state(2))
    table.unlink()
    with pytest.raises(UserError, match=r"magnitude\.csv is missing"):
        control.at(step_state(2))
    assert [state.id for state in control.states()] == [step_id(step) for step in (0, 2, 5)]
    (run.path / ".done" / "fit" / "all").unlink()
    with pytest.raises(UserError, match="no run whose fit is finished"):
        control.states()
