"""Our networks with the weights of golden fixtures, as a sampler calls them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perturb.diffusion import Conditioning
from perturb.models.videocrafter.keymap.unet import unet_modules
from perturb.models.videocrafter.spec import UNetSpec
from perturb.nn import VideoUNet
from tests.golden.golden_fixtures import fixture
from tests.parity.fixtures import Fixture
from tests.parity.networks import build_unet, unet_spec


def load(name: str, **changes: Any) -> VideoUNet:
    """The network of the fixture called ``name``, or one of its spec with ``changes``."""
    golden = fixture(name)
    spec: UNetSpec = unet_spec(golden.meta["config"])
    return build_unet(golden, dataclasses.replace(spec, **changes))


def run(unet: VideoUNet, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
    """What a model's ``denoise`` does with the conditioning."""
    return unet(
        x if cond.image_latents is None else torch.cat([x, cond.image_latents], dim=1),
        t,
        cond.text,
        cond.fps,
        image_context=cond.image,
        guidance=cond.guidance,
        motion=cond.motion,
        injected_context=cond.injected,
        windows=cond.windows,
        dilation=cond.dilation,
    )


def recorded(unet: VideoUNet) -> tuple[Callable[[Tensor, Tensor, Conditioning], Tensor], list[Tensor]]:
    """``denoise`` of a network, and the list that its outputs go to."""
    seen: list[Tensor] = []

    @torch.no_grad()
    def denoise(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        seen.append(run(unet, x, t, cond))
        return seen[-1]

    return denoise, seen


def record(unet: VideoUNet, wanted: Sequence[str]) -> dict[str, Tensor]:
    """Outputs of the modules at these official paths, filled by the next forwards."""
    paths = unet_modules(unet) | {"init_attn": "init_attention"}
    seen: dict[str, Tensor] = {}

    def keep(official: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            seen[official] = output

        return hook

    for official in wanted:
        unet.get_submodule(paths[official]).register_forward_hook(keep(official))
    return seen


def each_call(*goldens: Fixture) -> list[tuple[Fixture, dict[str, Any]]]:
    return [(golden, call) for golden in goldens for call in golden.calls]


def ids(calls: list[tuple[Fixture, dict[str, Any]]]) -> list[str]:
    return [f"{golden}-{call['name']}" for golden, call in calls]
