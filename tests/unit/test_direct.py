"""Plain fine-tuning: exactly the group moves, exact scaling, exact return, and the moved weights on disk."""

from pathlib import Path

import pytest
import torch
from fit_stills import cut_after, setup
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation import DirectPerturbation, LoraPerturbation, restore
from perturb.perturbation.files import read_magnitude
from perturb.perturbation.moved import FILE
from perturb.store.records import read_train
from perturb.store.rundir import RunDir
from perturb.store.states import step_id
from perturb.store.tensors import hash_modules, moved
from perturb.study.fit import fit

GROUPS = {"spatial": ("spatial",), "temporal": ("temporal",), "both": ("spatial", "temporal")}


def call(unet: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    x, context = torch.randn(1, 4, 3, 4, 4, generator=generator), torch.randn(1, 5, 32, generator=generator)
    with torch.no_grad():
        return unet(x, torch.tensor([500]), context, torch.tensor([8]))


def attached(unet: nn.Module, group: str = "spatial") -> DirectPerturbation:
    direct = DirectPerturbation()
    direct.attach(unet, Partition.of(unet), group, 0)
    return direct


@torch.no_grad()
def shift(direct: DirectPerturbation) -> None:
    generator = torch.Generator().manual_seed(2)
    for parameter in direct.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def weights(unet: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in unet.named_parameters()}


def close(left: Tensor, right: Tensor) -> bool:
    """Up to rounding: torch's matmul looks at requires_grad when it picks a kernel, and kernels round differently."""
    return torch.allclose(left, right, atol=1e-5, rtol=1e-4)


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


@pytest.mark.parametrize("group", GROUPS)
def test_one_step_moves_the_group_by_its_gradient_and_nothing_else(tiny_system: VideoSystem, group: str):
    unet, before, plain = tiny_system.unet, weights(tiny_system.unet), call(tiny_system.unet)
    flags = {name: parameter.requires_grad for name, parameter in unet.named_parameters()}
    direct = attached(unet, group)
    assert equal(weights(unet), before)
    names = [name for part in GROUPS[group] for name in Partition.of(unet).names(part)]
    assert {name for name, parameter in unet.named_parameters() if parameter.requires_grad} == set(names)
    assert [id(parameter) for parameter in direct.parameters()] == [id(unet.get_parameter(name)) for name in names]
    optimiser = torch.optim.SGD(direct.parameters(), lr=0.1)
    x, text = torch.randn(1, 4, 3, 4, 4), torch.randn(1, 5, 32)
    unet(x, torch.tensor([500]), text, torch.tensor([8])).square().sum().backward()
    gradients = {name: unet.get_parameter(name).grad for name in names}
    optimiser.step()
    for name, tensor in weights(unet).items():
        gradient = gradients.get(name)
        expected = before[name] if gradient is None else before[name] - 0.1 * gradient
        torch.testing.assert_close(tensor, expected, atol=1e-7, rtol=1e-6)
    assert {name for name, x in weights(unet).items() if not torch.equal(x, before[name])} <= set(names)
    assert not close(call(unet), plain)
    direct.detach()
    assert equal(weights(unet), before)
    assert torch.equal(call(unet), plain)
    assert {name: parameter.requires_grad for name, parameter in unet.named_parameters()} == flags


def test_scale_is_exact_at_zero_and_one_and_linear_between(tiny_system: VideoSystem):
    unet, start = tiny_system.unet, weights(tiny_system.unet)
    direct = attached(unet)
    shift(direct)
    end = weights(unet)
    for alpha in (0.3, 0.0, 1.0, -2.0, 1.0):  # in any order, and the end is not forgotten
        direct.scale(alpha)
        now = weights(unet)
        if alpha in (0.0, 1.0):
            assert equal(now, start if alpha == 0 else end)
        for name, tensor in now.items():
            expected = start[name].double() + alpha * (end[name].double() - start[name].double())
            torch.testing.assert_close(tensor.double(), expected, atol=1e-6, rtol=1e-6)
    with pytest.raises(UserError, match="finite"):
        direct.scale(float("nan"))
    direct.scale(0.5)
    with pytest.raises(UserError, match=r"scale 0\.5 cannot be trained"):
        direct.parameters()
    direct.detach()
    assert equal(weights(unet), start)


def test_magnitude_by_hand(tiny_system: VideoSystem):
    unet = tiny_system.unet
    with torch.no_grad():
        unet.conv_in.weight.fill_(2.0)
        unet.get_parameter("conv_in.bias").zero_()
    direct = attached(unet)
    assert set(direct.magnitude().per_layer.values()) == {0.0}
    with torch.no_grad():
        unet.conv_in.weight.add_(1.0)
        unet.norm_out.weight.mul_(1.5)
    ratios = direct.magnitude().per_layer
    assert ratios["conv_in"] == pytest.approx(0.5)  # by its layer, as with LoRA
    assert ratios["norm_out.weight"] == pytest.approx(0.5)  # no layer with a matrix: by its own name
    assert ratios["conv_in.bias"] == 0.0
    names = Partition.of(unet).names("spatial")
    base = sum(float(direct._attached().original[name].double().square().sum()) for name in names)
    delta = unet.conv_in.weight.numel() + unet.norm_out.weight.numel() * 0.25
    assert direct.magnitude().total == pytest.approx((delta / base) ** 0.5, rel=1e-6)
    direct.scale(0.5)
    assert direct.magnitude().per_layer["conv_in"] == pytest.approx(0.25)
    direct.scale(1.0)
    with torch.no_grad():
        unet.get_parameter("conv_in.bias").add_(1.0)
    assert direct.magnitude().per_layer["conv_in.bias"] == float("inf")


def test_what_is_saved_is_the_moved_weights_and_comes_back_bit_for_bit(tiny_system: VideoSystem, tmp_path: Path):
    unet = tiny_system.unet
    direct = attached(unet, "temporal")
    direct.save(tmp_path / "start")
    shift(direct)
    end = weights(unet)
    direct.scale(0.25)
    direct.save(tmp_path / "end")  # the scale is not saved
    stored = load_file(tmp_path / "end" / FILE)
    assert set(stored) == set(Partition.of(unet).names("temporal"))
    assert all(torch.equal(tensor, end[name]) for name, tensor in stored.items())
    direct.scale(1.0)
    direct.load(tmp_path / "start")
    assert direct.magnitude().total == 0
    direct.load(tmp_path / "end")
    assert equal(weights(unet), end)
    direct.scale(0.5)
    direct.load(tmp_path / "start")  # α stays
    assert direct._attached().alpha == 0.5
    direct.load(tmp_path / "end")
    direct.scale(1.0)
    assert equal(weights(unet), end)


def test_a_saved_perturbation_is_restored_by_what_the_folder_holds(tiny_system: VideoSystem, tmp_path: Path):
    unet, plain = tiny_system.unet, call(tiny_system.unet)
    lora = LoraPerturbation(rank=2)
    lora.attach(unet, Partition.of(unet), "both", 0)
    lora.save(tmp_path / "lora")
    lora.detach()
    direct = attached(unet, "both")
    shift(direct)
    expected = call(unet)
    direct.save(tmp_path / "direct")
    direct.detach()
    again = restore(unet, tmp_path / "direct")
    assert isinstance(again, DirectPerturbation)
    assert close(call(unet), expected)
    assert not close(call(unet), plain)
    assert not any(parameter.requires_grad for parameter in unet.parameters())
    again.scale(0.0)
    assert close(call(unet), plain)
    again.detach()
    assert isinstance(restore(unet, tmp_path / "lora"), LoraPerturbation)


def test_what_does_not_fit_is_refused_with_a_reason(tiny_system: VideoSystem, tmp_path: Path):
    unet = tiny_system.unet
    direct = attached(unet)
    shift(direct)
    direct.save(tmp_path)
    direct.detach()
    with pytest.raises(UserError, match="not attached"):
        direct.load(tmp_path)
    temporal = attached(unet, "temporal")
    with pytest.raises(UserError, match="other parameters"):
        temporal.load(tmp_path)
    temporal.detach()
    with torch.no_grad():
        unet.conv_in.weight[0, 0, 0, 0] += 1
    before = weights(unet)
    direct = attached(unet)
    with pytest.raises(UserError, match="began at other weights"):
        direct.load(tmp_path)
    direct.detach()
    with pytest.raises(UserError, match="began at other weights"):
        DirectPerturbation.restore(unet, tmp_path)
    assert equal(weights(unet), before)
    with pytest.raises(UserError, match="another network"):
        DirectPerturbation.restore(nn.Linear(2, 2), tmp_path)
    stored = load_file(tmp_path / FILE)
    save_file(stored | {"conv_in.bias": torch.zeros(3)}, tmp_path / FILE)
    direct = attached(unet)
    with pytest.raises(UserError, match=r"shape \(3,\) at conv_in\.bias"):
        direct.load(tmp_path)
    (tmp_path / FILE).write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read"):
        direct.load(tmp_path)
    with pytest.raises(UserError, match="is missing"):
        direct.load(tmp_path / "nowhere")
    assert equal(weights(unet), before)


def test_one_perturbation_at_a_time(tiny_system: VideoSystem):
    unet = tiny_system.unet
    direct = attached(unet)
    with pytest.raises(UserError, match="attached already"):
        attached(unet)
    with pytest.raises(UserError, match="attached already"):
        direct.attach(nn.Linear(2, 2), Partition.of(unet), "spatial", 0)
    with pytest.raises(UserError, match="attached already"):
        LoraPerturbation().attach(unet, Partition.of(unet), "spatial", 0)
    direct.detach()
    direct.detach()
    lora = LoraPerturbation(rank=1)
    partition = Partition.of(unet)
    lora.attach(unet, partition, "spatial", 0)
    with pytest.raises(UserError, match="attached already"):
        DirectPerturbation().attach(unet, partition, "spatial", 0)


def test_groups_and_precisions_that_cannot_be_moved(tiny_system: VideoSystem):
    with pytest.raises(UserError, match="group is 'spacial'"):
        attached(tiny_system.unet, "spacial")
    with pytest.raises(UserError, match="'image' of this model has no parameters"):
        attached(tiny_system.unet, "image")
    tiny_system.to("cpu", torch.bfloat16)
    with pytest.raises(UserError, match=r"weights in bfloat16 .* system\.dtype=float32"):
        attached(tiny_system.unet)


def test_lora_can_take_both_groups(tiny_system: VideoSystem):
    partition = Partition.of(tiny_system.unet)
    lora = LoraPerturbation(rank=1)
    lora.attach(tiny_system.unet, partition, "both", 0)
    assert set(lora.describe()["layers"]) == {*partition.layers("spatial"), *partition.layers("temporal")}


def run_fit(system: VideoSystem, path: Path, group: str) -> DirectPerturbation:
    direct = DirectPerturbation()
    fit(setup(system), direct, group=group, probe_steps=(0, 2, 3), run=RunDir(path))
    return direct


@pytest.mark.parametrize("group", GROUPS)
def test_the_fit_stage_fits_it(tiny_system: VideoSystem, tmp_path: Path, group: str):
    before, start = hash_modules(tiny_system.modules()), weights(tiny_system.unet)
    direct = run_fit(tiny_system, tmp_path, group)
    names = {f"unet.{name}" for part in GROUPS[group] for name in Partition.of(tiny_system.unet).names(part)}
    changed = set(moved(before, hash_modules(tiny_system.modules())))
    assert changed <= names
    assert len(changed) > 0.8 * len(names)  # on one frame some temporal weights have no gradient
    rows = read_train(tmp_path / "train.csv")
    assert rows[0].magnitude == 0
    assert rows[-1].magnitude == direct.magnitude().total
    assert (rows[2].magnitude or 0) > 0
    assert read_magnitude(RunDir(tmp_path).adapter(step_id(3))) == direct.magnitude().per_layer
    direct.detach()
    assert equal(weights(tiny_system.unet), start)
    manifest = RunDir(tmp_path).manifest()
    assert manifest.frozen["unchanged"] is True
    assert manifest.perturbation["kind"] == "direct"
    expected = sum(tiny_system.unet.get_parameter(name.removeprefix("unet.")).numel() for name in names)
    assert manifest.perturbation["parameters"] == expected


def test_a_fit_stopped_in_between_goes_on_to_the_same_bits(
    tiny_system: VideoSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_fit(tiny_system, tmp_path / "whole", "spatial").detach()
    start = weights(tiny_system.unet)
    with monkeypatch.context() as patch:
        cut_after(2, patch)
        with pytest.raises(KeyError, match="power cut"):
            run_fit(tiny_system, tmp_path / "cut", "spatial")
    assert equal(weights(tiny_system.unet), start)
    run_fit(tiny_system, tmp_path / "cut", "spatial").detach()
    for step in (0, 2, 3):
        whole, cut = (load_file(RunDir(tmp_path / kind).adapter(step_id(step)) / FILE) for kind in ("whole", "cut"))
        assert equal(whole, cut)
    assert (tmp_path / "whole" / "train.csv").read_bytes() == (tmp_path / "cut" / "train.csv").read_bytes()
