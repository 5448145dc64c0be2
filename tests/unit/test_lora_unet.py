"""LoRA on the video network itself: groups, attention targets, peft's loader, tables it cannot reach."""

from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

from perturb.models.partition import Partition
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem
from perturb.nn import Windows
from perturb.nn.resblock import TimeConv3d
from perturb.perturbation import LoraPerturbation
from tests.unit.nn_case import awake


def call(unet: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 4, 3, 4, 4, generator=generator)
    context = torch.randn(1, 5, 32, generator=generator)
    with torch.no_grad():
        return unet(x, torch.tensor([500]), context, torch.tensor([8]))


def attached(unet: nn.Module, group: str, **settings) -> LoraPerturbation:
    lora = LoraPerturbation(**settings)
    lora.attach(unet, Partition.of(unet), group, 0)
    return lora


def randomise(lora: LoraPerturbation) -> None:
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.normal_(std=0.05)


def test_each_group_can_be_saved_merged_and_loaded_by_peft(tiny_system: VideoSystem, tmp_path: Path) -> None:
    unet = tiny_system.unet.requires_grad_(False)
    plain = call(unet)
    for group in ("spatial", "temporal", "conditioning"):
        lora = attached(unet, group, rank=2)
        assert torch.equal(call(unet), plain)
        randomise(lora)
        expected = call(unet)
        assert (expected - plain).abs().max() > 1e-3
        torch.testing.assert_close(call(lora.merged_copy(unet)), expected, atol=1e-5, rtol=0)
        lora.save(tmp_path / group)
        lora.detach()
        assert torch.equal(call(unet), plain)
        # trainable as here: torch's matmul looks at requires_grad when it picks a kernel, and kernels round differently
        wrapped = peft.PeftModel.from_pretrained(unet, str(tmp_path / group), is_trainable=True)
        assert torch.equal(call(wrapped), expected)
        unet = wrapped.unload()


def test_every_linear_and_convolution_of_a_group_and_no_other(tiny_system: VideoSystem) -> None:
    partition = Partition.of(tiny_system.unet)
    kinds = {}
    for group in ("spatial", "temporal"):
        lora = attached(tiny_system.unet, group, rank=1)
        layers = lora.describe()["layers"]
        assert set(layers) == set(partition.layers(group))
        kinds[group] = {type(tiny_system.unet.get_submodule(f"{name}.base_layer")) for name in layers}
        factors = {type(tiny_system.unet.get_submodule(f"{name}.lora_{w}.default")) for name in layers for w in "AB"}
        assert factors == kinds[group]  # so that the factors of a convolution over time are as fast as it is
        lora.detach()
    # the first temporal transformer projects with Conv1d, the temporal convolutions are 3-D
    assert kinds == {"spatial": {nn.Linear, nn.Conv2d}, "temporal": {nn.Linear, nn.Conv1d, TimeConv3d}}


@pytest.mark.parametrize("group", ["spatial", "temporal"])
def test_one_frame_gives_the_values_and_gradients_of_the_general_path(
    tiny_system: VideoSystem, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = tiny_system.unet
    awake(unet)
    lora = attached(unet, group, rank=2)
    randomise(lora)
    arguments = torch.randn(2, 4, 1, 4, 4), torch.tensor([500, 20]), torch.randn(2, 5, 32), torch.tensor([8, 8])

    def call(windows: Windows | None) -> list[Tensor]:
        output = unet(*arguments, windows=windows)
        return [output.detach(), *torch.autograd.grad(output.square().sum(), lora.parameters())]

    fast = call(None)
    monkeypatch.setattr(TimeConv3d, "forward", nn.Conv3d.forward)
    general = call(Windows(length=1, stride=1))  # in a window, one token is not told apart
    torch.testing.assert_close(fast, general, atol=1e-4, rtol=1e-4)
    assert any(gradient.abs().max() > 0.1 for gradient in general[1:])


def test_attention_means_the_four_projections(tiny_system: VideoSystem) -> None:
    partition = Partition.of(tiny_system.unet)
    for group in ("spatial", "temporal"):
        lora = attached(tiny_system.unet, group, targets="attention")
        layers = set(lora.describe()["layers"])
        assert {name.rpartition(".")[2] for name in layers} == {"query", "key", "value", "out"}
        rest = set(partition.layers(group)) - layers
        assert not any(name.endswith((".query", ".key", ".value")) for name in rest)
        lora.detach()


def test_tables_of_relative_positions_are_reported(tiny_spec: ModelSpec) -> None:
    unet = replace(tiny_spec, unet=replace(tiny_spec.unet, relative_position=True, temporal_conv=False)).build_unet()
    tables = {name for name, _ in unet.named_parameters() if name.endswith(".table")}
    assert tables
    lora = attached(unet, "temporal")
    assert set(lora.describe()["unreachable"]) == tables
    lora.detach()
    assert attached(unet, "spatial").describe()["unreachable"] == []
