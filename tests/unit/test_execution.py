"""How a model runs: compiled without gradients or with a reason not to, and part by part on its device."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported

from perturb.cli.config import EXECUTION
from perturb.cli.identity import WITHOUT_EFFECT
from perturb.data.prompts import Prompt
from perturb.diffusion import DDIMSampler
from perturb.errors import UserError
from perturb.models.execution import Compiled, Quantised, channels_last, compile_network, offload, quantised
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation import LoraPerturbation
from perturb.store.tensors import hash_modules
from perturb.study.sample import Generator, SampleConfig


def denoised(system: VideoSystem) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, *system.latent_shape(2, 32, 32), generator=generator)
    return system.denoise(x, torch.tensor([500]), system.conditioning(["a red circle"], 8))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What torch.compile was asked for, and how often its result was called; it multiplies by two."""
    calls: list[Any] = []

    def fake(forward: Callable[..., Tensor], **settings: Any) -> Callable[..., Tensor]:
        calls.append(settings)
        return lambda *arguments, **named: calls.append("call") or 2 * forward(*arguments, **named)

    monkeypatch.setattr(torch, "compile", fake)
    return calls


def test_only_what_needs_no_gradient_is_compiled(tiny_system: VideoSystem, asked: list[Any]) -> None:
    with torch.no_grad():
        plain = denoised(tiny_system)
        compile_network(tiny_system)
        assert torch.equal(denoised(tiny_system), 2 * plain)
    assert torch.equal(denoised(tiny_system).detach(), plain)
    assert asked == [{"fullgraph": True, "dynamic": False, "mode": "default"}, "call"]


def test_what_cannot_be_compiled_runs_as_it_is_and_says_why(
    tiny_system: VideoSystem, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_arguments: Any, **_named: Any) -> Tensor:
        raise Unsupported("a call that it does not know\nand more")

    monkeypatch.setattr(torch, "compile", lambda *_arguments, **_settings: fails)
    with torch.no_grad():
        plain = denoised(tiny_system)
        compile_network(tiny_system)
        assert torch.equal(denoised(tiny_system), plain)
        assert torch.equal(denoised(tiny_system), plain)
    said = capsys.readouterr().err
    assert said == "warning: system.compile=true is not followed: a call that it does not know\n"


def test_a_ninth_shape_runs_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plain_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda forward, mode, **rest: plain_compile(forward, backend="eager", **rest))
    forward = Compiled(lambda x: 2 * x, replayed=False)
    with torch.no_grad():
        assert all(torch.equal(forward(torch.ones(n)), torch.full((n,), 2.0)) for n in range(2, 12))
    said = capsys.readouterr().err
    assert said.count("warning: system.compile=true is not followed: Dynamo recompile limit exceeded") == 1


def test_another_layout_of_kernels_has_the_same_weights_and_output(tiny_system: VideoSystem) -> None:
    before = hash_modules(tiny_system.modules())
    plain = denoised(tiny_system)
    channels_last(tiny_system)
    kernel = tiny_system.unet.conv_in.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert not kernel.is_contiguous()
    assert hash_modules(tiny_system.modules()) == before
    torch.testing.assert_close(denoised(tiny_system), plain)


def test_offloaded_parts_give_way_to_each_other_and_compute_the_same(tiny_system: VideoSystem) -> None:
    def clip() -> Tensor:
        with torch.no_grad():
            return tiny_system.decode(denoised(tiny_system))

    whole = clip()
    offload(tiny_system)
    torch.testing.assert_close(clip(), whole)
    assert tiny_system.vae.use_slicing
    parts: dict[str, Any] = tiny_system.modules()
    gives_way = {name: part._hf_hook.prev_module_hook for name, part in parts.items()}
    assert gives_way["text_encoder"] is None
    assert gives_way["unet"].model is parts["text_encoder"]
    assert gives_way["vae"].model is parts["unet"]
    assert tiny_system.device == torch.device("cpu")


@pytest.fixture(params=["stand-in", "torchao"])
def torchao(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchao where it is installed, and always something that rounds the weight of a layer as torchao does to int8."""
    if request.param == "torchao":
        pytest.importorskip("torchao", reason="pip install 'perturb[quantise]'")
        return

    def quantize_(layer: nn.Linear, _config: object) -> None:
        scale = layer.weight.abs().amax(1, keepdim=True) / 127
        layer.weight = nn.Parameter((layer.weight / scale).round() * scale, requires_grad=False)
        layer.extra_repr = lambda: "int8"

    module = ModuleType("torchao.quantization")
    for name, value in {"quantize_": quantize_, "Int8WeightOnlyConfig": dict, "Float8WeightOnlyConfig": dict}.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "torchao.quantization", module)
    monkeypatch.setattr("perturb.models.execution.find_spec", lambda name: module)


def clip(system: VideoSystem, quantise: Quantised | None) -> Any:
    """Levels from 0 to 1 of one clip, and how it is described."""
    config = SampleConfig(quantise=quantise)
    generate = Generator(system, DDIMSampler(steps=2), [Prompt("p", "a red circle")], config, image=None)
    return generate(generate.jobs, lambda _: None) / 255, generate.describe().get("quantise")


@pytest.mark.usefixtures("torchao")
@pytest.mark.parametrize(("kind", "limit"), [("int8", 0.01), ("float8", 0.05)])
def test_quantised_weights_make_a_clip_and_are_those_of_before(
    tiny_system: VideoSystem, kind: Quantised, limit: float
) -> None:
    lora = LoraPerturbation(rank=2)
    lora.attach(tiny_system.unet, tiny_system.partition(), "both", 0)
    for parameter in lora.parameters():
        nn.init.normal_(parameter, std=0.1)
    before, weights = hash_modules(tiny_system.modules()), list(tiny_system.unet.parameters())
    with lora.merged():
        (plain, none), (rounded, said) = clip(tiny_system, None), clip(tiny_system, kind)
        assert [none, said] == [None, kind]
        assert 0 < abs(rounded - plain).mean() < limit
        assert (clip(tiny_system, None)[0] == plain).all()
        with pytest.raises(KeyboardInterrupt), quantised(tiny_system.unet, kind):
            raise KeyboardInterrupt
    assert hash_modules(tiny_system.modules()) == before
    assert all(now is then for now, then in zip(tiny_system.unet.parameters(), weights, strict=True))
    assert not any("extra_repr" in vars(module) for module in tiny_system.unet.modules())


def test_without_torchao_nothing_is_quantised(tiny_system: VideoSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perturb.models.execution.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"sample\.quantise=int8 needs torchao.*pip install 'perturb\[quantise\]'"):
        clip(tiny_system, "int8")


def test_how_a_model_runs_is_no_part_of_a_run_id() -> None:
    assert {f"system.{name}" for name in EXECUTION} <= set(WITHOUT_EFFECT)
