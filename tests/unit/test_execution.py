"""How a model runs: compiled without gradients or with a reason not to, and part by part on its device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import Unsupported

from perturb.cli.config import EXECUTION
from perturb.cli.identity import WITHOUT_EFFECT
from perturb.models.execution import channels_last, compile_network, offload
from perturb.models.videocrafter.system import VideoSystem
from perturb.store.tensors import hash_modules


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


def test_how_a_model_runs_is_no_part_of_a_run_id() -> None:
    assert {f"system.{name}" for name in EXECUTION} <= set(WITHOUT_EFFECT)
