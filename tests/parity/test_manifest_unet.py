"""Every official key of the published UNets and of the image projector has exactly one place of the same shape."""

import pytest
import torch
from torch import nn

from perturb.models.videocrafter.keymap.unet import projector_official_to_ours, unet_official_to_ours
from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.spec import ResamplerSpec, UNetSpec
from perturb.nn import Resampler
from tests.parity.fixtures import Fixture, fixture, fixtures, requires_fixtures
from tests.parity.networks import unet_spec

pytestmark = requires_fixtures

UNETS = {
    "manifest_unet_t2v_512_v1.0": "t2v_512_v1",
    "manifest_unet_t2v_1024_v1.0": "t2v_1024_v1",
    "manifest_unet_i2v_512_v1.0": "i2v_512_v1",
    "manifest_unet_t2v_512_v2.0": "t2v_512_v2",
}


def shapes(manifest: Fixture) -> dict[str, tuple[int, ...]]:
    return {key: tuple(shape) for key, shape, _ in manifest.meta["entries"]}


def check_bijective(manifest: Fixture, names: dict[str, str], network: nn.Module) -> None:
    state = network.state_dict()
    assert len(set(names.values())) == len(names)
    assert set(names.values()) == set(state)
    assert {key: tuple(state[ours].shape) for key, ours in names.items()} == shapes(manifest)


def test_every_unet_manifest_is_known() -> None:
    assert {f.name for f in fixtures("manifest") if f.meta["role"] == "unet"} == set(UNETS)


@pytest.mark.parametrize("name", UNETS)
def test_unet_keys_and_shapes(name: str) -> None:
    spec, manifest = SPECS[UNETS[name]], fixture(name)
    with torch.device("meta"):
        unet = spec.build_unet()
    check_bijective(manifest, unet_official_to_ours(spec.unet), unet)


@pytest.mark.parametrize("name", UNETS)
def test_unet_spec_is_the_published_configuration(name: str) -> None:
    published: UNetSpec = unet_spec(fixture(name).meta["config"])
    assert published == SPECS[UNETS[name]].unet


def test_projector_keys_and_shapes() -> None:
    manifest = fixture("manifest_image_projector")
    image = SPECS["i2v_512_v1"].image
    assert image is not None
    config = {key: value for key, value in manifest.meta["config"].items() if key != "cls"}
    config["head_dim"] = config.pop("dim_head")
    assert ResamplerSpec(**config) == image.projector
    with torch.device("meta"):
        projector = Resampler(image.projector)
    check_bijective(manifest, projector_official_to_ours(image.projector), projector)
