"""The encoders of the published models at full size (no data): same keys, same shapes, nothing more, nothing less."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from perturb.models.videocrafter.encoders import build_image_encoder, build_text_encoder, build_vae
from perturb.models.videocrafter.keymap.diffusion import diffusion_buffers
from perturb.models.videocrafter.keymap.encoders import (
    IMAGE_PREFIX,
    TEXT_PREFIX,
    VAE_PREFIX,
    Rule,
    convert_to_official,
    image_leftovers,
    image_rules,
    text_leftovers,
    text_rules,
    vae_rules,
)
from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.spec import ModelSpec
from tests.parity.fixtures import Fixture, fixtures, folder, requires_fixtures

pytestmark = requires_fixtures

Shapes = dict[str, tuple[int, ...]]
ROLES = ("vae", "text_encoder", "image_encoder")
MANIFESTS = [golden for golden in fixtures("manifest") if golden.meta["role"] in ROLES]
INDICES = fixtures("manifest_index")


def spec_of(index: Fixture) -> ModelSpec:
    """Our spec of an official configuration: manifest_t2v_512_v2.0 is t2v_512_v2."""
    return SPECS[index.name.removeprefix("manifest_").removesuffix(".0")]


def shapes(golden: Fixture) -> Shapes:
    return {key: tuple(shape) for key, shape, _ in golden.meta["entries"]}


def parts(spec: ModelSpec, role: str) -> tuple[str, nn.Module, tuple[Rule, ...], Shapes]:
    """Prefix, model on the meta device, rules and unused keys of one encoder of ``spec``."""
    with torch.device("meta"):
        if role == "vae":
            return VAE_PREFIX, build_vae(spec.vae), vae_rules(spec.vae), {}
        if role == "text_encoder":
            return TEXT_PREFIX, build_text_encoder(spec.text), text_rules(spec.text), text_leftovers(spec.text)
        assert spec.image is not None
        image = spec.image
        return IMAGE_PREFIX, build_image_encoder(image), image_rules(image), image_leftovers(image)


USES = [
    (index, role, part["file"]) for index in INDICES for role, part in index.meta["components"].items() if role in ROLES
]


@pytest.mark.parametrize(("index", "role", "file"), USES, ids=[f"{index}-{role}" for index, role, _ in USES])
def test_keys_and_shapes(index: Fixture, role: str, file: str):
    prefix, model, rules, leftovers = parts(spec_of(index), role)
    state = model.state_dict()
    # Each of our keys is named once, and none is forgotten.
    named = [key for rule in rules for key in rule.ours]
    assert sorted(named) == sorted(state)
    official = {key: tuple(tensor.shape) for key, tensor in convert_to_official(state, rules).items()}
    assert not official.keys() & leftovers.keys()
    ours = {prefix + key: shape for key, shape in (official | leftovers).items()}
    meta: dict[str, Any] = json.loads((folder() / file).read_text(encoding="utf-8"))
    assert ours == {key: tuple(shape) for key, shape, _ in meta["entries"]}


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_diffusion_buffers(index: Fixture):
    assert {key: tuple(table.shape) for key, table in diffusion_buffers(spec_of(index).schedule).items()} == shapes(
        index
    )


def test_every_encoder_manifest_is_used():
    assert {f"{golden.name}.json" for golden in MANIFESTS} == {file for _, _, file in USES}
