"""The UNet against the published one: every fixture, every call, every stored intermediate."""

from typing import Any

import pytest
from einops import rearrange, repeat
from torch import Tensor, nn

from perturb.models.videocrafter.keymap.unet import unet_modules
from perturb.nn import VideoUNet
from tests.parity.fixtures import Fixture, fixtures, requires_fixtures
from tests.parity.networks import build_unet, run_call

pytestmark = requires_fixtures

FIXTURES = fixtures("unet")
CALLS = [pytest.param(f, call, id=f"{f.name}-{call['name']}") for f in FIXTURES for call in f.calls]


@pytest.fixture(scope="module")
def unets() -> dict[str, VideoUNet]:
    return {fixture.name: build_unet(fixture) for fixture in FIXTURES}


def record(unet: VideoUNet, paths: dict[str, str]) -> tuple[dict[str, Tensor], list[Any]]:
    """Outputs of our modules, by official path, filled during the next forward; and the hooks to remove."""
    seen: dict[str, Tensor] = {}

    def keep(official: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            seen[official] = output

        return hook

    return seen, [unet.get_submodule(ours).register_forward_hook(keep(o)) for o, ours in paths.items()]


def as_published(value: Tensor, expected: Tensor, official: str, frames: int, tolerance: float) -> Tensor:
    """Our intermediate in the published layout."""
    if official == "time_embed":  # ours is per frame: all frames of a clip hold the same row
        per_frame = rearrange(value, "(b t) d -> b t d", t=frames)
        # to within rounding: a matrix product may round the same row in different ways
        assert (per_frame - per_frame[:, :1]).abs().max() <= tolerance
        return per_frame[:, 0]
    return rearrange(value, "(b t) c h w -> b c t h w", t=frames) if expected.ndim == 5 else value


@pytest.mark.parametrize(("fixture", "call"), CALLS)
def test_outputs_and_intermediates_match(fixture: Fixture, call: dict[str, Any], unets: dict[str, VideoUNet]) -> None:
    unet, prefix = unets[fixture.name], f"{call['name']}.inter."
    modules = unet_modules(unet)
    wanted = [name.removeprefix(prefix) for name in fixture.outputs(prefix)]
    seen, hooks = record(unet, {official: modules[official] for official in wanted})
    output = run_call(unet, fixture, call)
    for hook in hooks:
        hook.remove()
    for official in wanted:
        name = prefix + official
        ours = as_published(seen[official], fixture.expected(name), official, call["T"], fixture.tolerance(name))
        fixture.check(name, ours)
    fixture.check(f"{call['name']}.y", output)


@pytest.mark.parametrize("fixture", FIXTURES, ids=str)
def test_every_stored_output_is_compared(fixture: Fixture) -> None:
    names = {call["name"] for call in fixture.calls}
    for output in fixture.outputs():
        call = fixture.call_of(output)
        assert call in names
        rest = output.removeprefix(f"{call}.")
        assert rest == "y" or rest.startswith("inter.")


def test_equal_timesteps_per_frame_give_the_same_output(unets: dict[str, VideoUNet]) -> None:
    fixture = next(f for f in FIXTURES if f.name == "unet_t2v")
    unet, call = unets[fixture.name], fixture.calls[0]
    x, context, fps = (fixture.given(f"c0.{name}") for name in ("x", "context", "fps"))
    per_clip = fixture.given("c0.timesteps")
    per_frame = repeat(per_clip, "b -> b t", t=call["T"]).clone()
    same = run_call(unet, fixture, call)
    assert (unet(x, per_frame, context, fps) - same).abs().max() <= fixture.tolerance("c0.y")
    per_frame[:, 0] = 500
    assert not unet(x, per_frame, context, fps).allclose(same, atol=1e-3)
