"""LoRA: the identity at the start, exactly one group, exact scaling, merging and magnitude."""

import hashlib
from typing import Any

import pytest
import torch
from einops import einsum
from lora_net import GROUPS, Groups, Net, attached, example, frozen_net, randomise
from torch import Tensor, nn

from perturb.errors import UserError
from perturb.perturbation import LoraPerturbation


@pytest.fixture
def net() -> Net:
    return frozen_net()


@pytest.fixture
def x() -> Tensor:
    return example()


def hashes(net: nn.Module) -> dict[str, str]:
    """SHA-256 of every parameter and buffer that is not the adapter's, by its name before attaching."""
    state = {
        name.replace(".base_layer", ""): tensor for name, tensor in net.state_dict().items() if "lora_" not in name
    }
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in state.items()}


def dense_delta(net: nn.Module, name: str, factor: float) -> Tensor:
    layer: Any = net.get_submodule(name)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return factor * einsum(b.flatten(1), a, "o r, r ... -> o ...").detach()


def test_a_fresh_adapter_is_the_identity_bit_for_bit(net: Net, x: Tensor) -> None:
    before = net(x)
    attached(net)
    assert torch.equal(net(x), before)


@pytest.mark.parametrize("group", ["first", "second"])
def test_exactly_the_named_layers_are_wrapped_and_trainable(net: Net, group: str) -> None:
    lora = attached(net, group, rank=3)
    wrapped = {name for name, module in net.named_modules() if hasattr(module, "base_layer")}
    assert wrapped == set(GROUPS.layers(group))
    trainable = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trainable == {f"{n}.lora_{w}.default.weight" for n in GROUPS.layers(group) for w in "AB"}
    assert {id(p) for p in lora.parameters()} == {id(p) for p in net.parameters() if p.requires_grad}


def test_one_step_changes_the_adapter_and_nothing_else(net: Net, x: Tensor) -> None:
    before = hashes(net)
    lora = attached(net)
    optimiser = torch.optim.AdamW(lora.parameters(), lr=0.1, weight_decay=0.1)
    start = [parameter.detach().clone() for parameter in lora.parameters()]
    net(x).square().mean().backward()
    optimiser.step()
    assert hashes(net) == before
    # B has a gradient at once; A only moves by weight decay, because B = 0
    assert all(not torch.equal(a, b) for a, b in zip(start, lora.parameters(), strict=True))


def test_targets_select_by_kind(net: Net) -> None:
    def chosen(targets: str) -> list[str]:
        lora = attached(net, "second", targets=targets)
        layers = lora.describe()["layers"]
        lora.detach()
        return [name.removeprefix("inner.outer.") for name in layers]

    assert chosen("linear") == ["project"]
    assert chosen("convolution") == ["conv", "point", "sequence", "volume", "frames"]
    with pytest.raises(UserError, match="no layers of the kind"):
        chosen("attention")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rank": 0}, "rank"),
        ({"rank": 2.5}, "rank"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"dropout": 1.0}, "dropout"),
        ({"targets": "conv"}, "all, linear, convolution, attention"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        LoraPerturbation(**settings)


def test_convolutions_that_lora_cannot_follow_are_refused() -> None:
    net = nn.ModuleDict({"dilated": nn.Conv2d(3, 3, 3, dilation=2)})
    with pytest.raises(UserError, match="dilated"):
        LoraPerturbation().attach(net, Groups({"first": ("dilated",)}), "first", 0)  # pyright: ignore[reportArgumentType]


def test_equal_seeds_give_equal_adapters_and_the_global_generator_does_not_move(net: Net) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    lora = attached(net)
    assert torch.equal(torch.rand(1), expected)
    first = [parameter.detach().clone() for parameter in lora.parameters()]
    lora.detach()
    lora = attached(net)
    assert all(torch.equal(a, b) for a, b in zip(first, lora.parameters(), strict=True))
    lora.detach()
    lora.attach(net, GROUPS, "first", 1)  # pyright: ignore[reportArgumentType]
    assert not torch.equal(first[0], lora.parameters()[0])


def test_scale_is_exact_at_zero_and_one_and_linear_between(net: Net, x: Tensor) -> None:
    plain = net(x)
    lora = attached(net, rank=2, alpha=6.0, targets="linear")  # one linear layer at the end: the output is linear in α
    randomise(lora)
    full = net(x)
    lora.scale(0.0)
    assert torch.equal(net(x), plain)
    lora.scale(1.0)
    assert torch.equal(net(x), full)
    lora.scale(0.5)
    torch.testing.assert_close(net(x) - plain, 0.5 * (full - plain), atol=1e-6, rtol=0)
    lora.scale(-2.0)
    torch.testing.assert_close(net(x) - plain, -2 * (full - plain), atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="finite"):
        lora.scale(float("inf"))


def test_magnitude_equals_the_dense_computation_and_peft_s_own_delta(net: Net) -> None:
    lora = attached(net, rank=2, alpha=6.0)
    assert lora.magnitude().total == 0
    randomise(lora)
    lora.scale(0.5)
    measured = lora.magnitude()
    deltas, bases = [], []
    for name in GROUPS.layers("first"):
        layer: Any = net.get_submodule(name)
        delta, base = dense_delta(net, name, 0.5 * 6.0 / 2), layer.base_layer.weight
        if name != "outer.frames":  # peft cannot compute Δ of a (1, 1, k) kernel
            torch.testing.assert_close(layer.get_delta_weight("default"), delta, atol=1e-6, rtol=1e-5)
        assert measured.per_layer[name] == pytest.approx(float(delta.norm() / base.norm()), rel=1e-5)
        deltas.append(delta.flatten())
        bases.append(base.detach().flatten())
    assert measured.total == pytest.approx(float(torch.cat(deltas).norm() / torch.cat(bases).norm()), rel=1e-5)


def test_magnitude_of_a_layer_of_zeros() -> None:
    net = nn.ModuleDict({"zero": (layer := nn.Linear(3, 3))})
    nn.init.zeros_(layer.weight)
    lora = LoraPerturbation(rank=1)
    lora.attach(net, Groups({"first": ("zero",)}), "first", 0)  # pyright: ignore[reportArgumentType]
    assert lora.magnitude().per_layer == {"zero": 0.0}
    randomise(lora)
    assert lora.magnitude().per_layer == {"zero": float("inf")}


def test_merged_is_a_plain_network_and_then_the_one_it_was(net: Net, x: Tensor) -> None:
    plain, names, before = net(x), set(net.state_dict()), hashes(net)
    lora = attached(net, rank=2, alpha=6.0)
    with lora.merged():
        assert torch.equal(net(x), plain)  # Δ = 0
    randomise(lora)
    lora.scale(0.7)
    perturbed, modules = net(x), dict(net.named_modules())
    with lora.merged():
        assert set(net.state_dict()) == names
        torch.testing.assert_close(net(x), perturbed, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(net(x), plain, atol=1e-2)
        for ask in (lora.magnitude, lora.detach, lambda: lora.scale(1.0)):
            with pytest.raises(UserError, match="merged into"):
                ask()
    assert hashes(net) == before
    with pytest.raises(KeyboardInterrupt), lora.merged():
        raise KeyboardInterrupt
    assert hashes(net) == before
    assert dict(net.named_modules()) == modules
    assert torch.equal(net(x), perturbed)


def test_what_was_compiled_reads_the_weights_of_every_state(net: Net, x: Tensor) -> None:
    """Merged, they lie where they lay in the state before, so that a CUDA graph need not be recorded again."""
    lora, graphs, outputs, addresses = attached(net), [], [], set()
    fast = torch.compile(net, backend=lambda graph, _: graphs.append(graph) or graph.forward, fullgraph=True)
    randomise(lora)
    for scale in (0.0, 1.0, 3.0):
        lora.scale(scale)
        with torch.no_grad():
            outputs.append(net(x))
            with lora.merged():
                addresses.add(tuple(weight.data_ptr() for weight in net.parameters()))
                torch.testing.assert_close(fast(x), outputs[-1], atol=1e-5, rtol=1e-5)
    assert len(graphs) == len(addresses) == 1
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-2)


def test_merged_rounds_once_to_half_precision(net: Net, x: Tensor) -> None:
    lora = attached(net.to(torch.bfloat16))
    randomise(lora)
    weight = net.outer.project.weight
    expected = (weight.float() + dense_delta(net, "outer.project", 1.0)).to(torch.bfloat16)
    with lora.merged():
        assert torch.equal(net.outer.project.weight, expected)
    assert not torch.equal(weight, expected)


def test_the_merged_copy_computes_the_same_without_wrappers(net: Net, x: Tensor) -> None:
    lora = attached(net, rank=2, alpha=6.0)
    randomise(lora)
    lora.scale(0.7)
    before = hashes(net)
    merged = lora.merged_copy(net)
    torch.testing.assert_close(merged(x), net(x), atol=1e-5, rtol=1e-5)
    assert set(merged.state_dict()) == set(Net().state_dict())
    assert hashes(net) == before
    with pytest.raises(UserError, match="attached to"):
        lora.merged_copy(Net())


def test_the_merged_copy_of_a_bf16_network_is_float32(net: Net, x: Tensor) -> None:
    lora = attached(net.to(torch.bfloat16))
    assert {parameter.dtype for parameter in lora.parameters()} == {torch.float32}
    randomise(lora)
    merged = lora.merged_copy(net)
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.float32}
    torch.testing.assert_close(merged(x), net(x.to(torch.bfloat16)).float(), atol=0.1, rtol=0.05)


def test_detach_gives_the_original_network_back(net: Net, x: Tensor) -> None:
    net.outer.requires_grad_(True)
    net.outer.conv.weight.requires_grad_(False)
    flags = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    modules, before, output = dict(net.named_modules()), hashes(net), net(x)
    lora = attached(net)
    randomise(lora)
    lora.detach()
    lora.detach()
    after = dict(net.named_modules())
    assert after.keys() == modules.keys()
    assert all(after[name] is modules[name] for name in modules)
    assert {name: parameter.requires_grad for name, parameter in net.named_parameters()} == flags
    assert hashes(net) == before
    assert torch.equal(net(x), output)
    assert not hasattr(net, "peft_config")


def test_dropout_acts_in_training_mode_only_and_leaves_the_network_s_mode_alone(net: Net, x: Tensor) -> None:
    lora = attached(net, dropout=0.5)
    randomise(lora)
    assert torch.equal(net(x), net(x))
    lora.train(True)
    assert not torch.equal(net(x), net(x))
    assert not net.outer.conv.base_layer.training  # pyright: ignore[reportAttributeAccessIssue]
    lora.train(False)
    assert torch.equal(net(x), net(x))


def test_unreachable_weights_are_reported(net: Net) -> None:
    description = attached(net, rank=2).describe()
    assert description["unreachable"] == ["outer.table"]
    assert set(description["layers"]) == set(GROUPS.layers("first"))
    # r (inputs · kernel + outputs) of conv, outer.conv, point, sequence, volume, frames, project
    assert description["parameters"] == 2 * ((3 + 3) + (27 + 4) + (4 + 4) + (4 + 6) + (12 + 4) + (12 + 4) + (6 + 5))
