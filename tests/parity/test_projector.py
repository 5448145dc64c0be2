"""The image projectors against the published ones."""

import pytest
import torch

from perturb.models.videocrafter.keymap.unet import PROJECTOR_PREFIX, projector_official_to_ours
from perturb.models.videocrafter.spec import ResamplerSpec
from perturb.nn import ImageProjection, Resampler
from tests.parity.fixtures import Fixture, fixtures, requires_fixtures

pytestmark = requires_fixtures

FIXTURES = fixtures("resampler")


def resampler_spec(config: dict[str, int]) -> ResamplerSpec:
    """The spec that a published Resampler configuration describes."""
    names = {"dim_head": "head_dim"}
    return ResamplerSpec(**{names.get(key, key): value for key, value in config.items()})


def part(fixture: Fixture, name: str) -> dict[str, torch.Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in fixture.state.items() if key.startswith(prefix)}


@pytest.mark.parametrize("fixture", FIXTURES, ids=str)
def test_resampler_matches(fixture: Fixture) -> None:
    spec = resampler_spec(fixture.meta["config"]["Resampler"])
    names = projector_official_to_ours(spec)
    resampler = Resampler(spec)
    resampler.load_state_dict({names[PROJECTOR_PREFIX + k]: v for k, v in part(fixture, "resampler").items()})
    seen = {}
    attention = resampler.get_submodule("layers.0.attention")
    attention.register_forward_hook(lambda module, arguments, output: seen.update(attention=output))
    with torch.no_grad():
        fixture.check("resampler", resampler(fixture.given("tokens")))
    fixture.check("resampler.inter.layers.0.attn", seen["attention"])


@pytest.mark.parametrize("fixture", FIXTURES, ids=str)
def test_image_projection_matches(fixture: Fixture) -> None:
    config = fixture.meta["config"]["ImageProjModel"]
    projection = ImageProjection(
        embedding_dim=config["clip_embeddings_dim"],
        output_dim=config["cross_attention_dim"],
        num_queries=config["clip_extra_context_tokens"],
    )
    state = {key.replace("proj.", "project.", 1): value for key, value in part(fixture, "image_proj").items()}
    projection.load_state_dict(state)
    with torch.no_grad():
        fixture.check("image_proj", projection(fixture.given("pooled")))
        fixture.check("image_proj_3d", projection(fixture.given("pooled_3d")))


@pytest.mark.parametrize("fixture", FIXTURES, ids=str)
def test_every_stored_output_is_compared(fixture: Fixture) -> None:
    assert set(fixture.outputs()) == {"resampler", "resampler.inter.layers.0.attn", "image_proj", "image_proj_3d"}
