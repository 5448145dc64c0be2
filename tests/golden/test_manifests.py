"""The official state dicts of VideoCrafter's relatives: every key and shape of the manifests is in a spec."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from perturb.models.videocrafter.keymap import expected_keys, renamed
from perturb.models.videocrafter.keymap.unet import UNET_PREFIX
from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.spec import ModelSpec, ResamplerSpec
from tests.golden.golden_fixtures import fixture, fixtures, folder, requires_fixtures
from tests.parity import fixtures as base
from tests.parity.fixtures import Fixture
from tests.parity.networks import unet_spec

pytestmark = requires_fixtures
BASE_SET = " (base set)"
SAME_NETWORK = {
    "manifest_unet_dynamicrafter_256": ("dynamicrafter_256",),
    "manifest_unet_dynamicrafter_512": ("dynamicrafter_512", "dynamicrafter_1024", "dynamicrafter_interpolation"),
    "manifest_unet_t2v_turbo_v2_mg": ("t2v_turbo_v2_mg",),
    "manifest_image_projector_dynamicrafter": ("dynamicrafter_256", "dynamicrafter_512"),
}
INDICES = fixtures("manifest_index")


def entries(meta: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(shape) for key, shape, _ in meta["entries"]}


def spec_of(index: Fixture) -> ModelSpec:
    return SPECS[index.name.removeprefix("manifest_").removesuffix("_v1.0")]


def test_every_manifest_is_used():
    assert {golden.name for golden in fixtures("manifest")} == SAME_NETWORK.keys()
    assert {golden.name for golden in fixtures("manifest_lora")} == {"manifest_lora_t2v_turbo_v1"}


@pytest.mark.parametrize("name", SAME_NETWORK)
def test_keys_and_shapes_of_a_component(name: str):
    manifest = fixture(name)
    for spec in (SPECS[each] for each in SAME_NETWORK[name]):
        prefix, official = manifest.meta["prefix"], entries(manifest.meta)
        within = UNET_PREFIX if manifest.meta["role"] == "unet" else "image_proj_model."
        ours = {key: shape for key, shape in expected_keys(spec).items() if key.startswith(within)}
        assert ours == {within + key.removeprefix(prefix): shape for key, shape in official.items()}


def test_specs_are_the_published_configurations():
    for name, specs in SAME_NETWORK.items():
        config = dict(fixture(name).meta["config"])
        for spec in (SPECS[each] for each in specs):
            if fixture(name).meta["role"] == "unet":
                assert unet_spec(config) == spec.unet
                assert spec.sampling.fps == config.get("default_fs", spec.sampling.fps) or len(specs) > 1
                continue
            values = {key: value for key, value in config.items() if key != "cls"}
            values["head_dim"] = values.pop("dim_head")
            assert spec.image is not None
            assert values.pop("video_length") == spec.image.frames == spec.sampling.frames
            values["num_queries"] *= spec.image.frames
            assert ResamplerSpec(**values) == spec.image.projector


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_expected_keys_are_the_whole_manifest(index: Fixture):
    official = entries(index.meta)
    for part in index.meta["components"].values():
        file = part["file"]
        place = base.folder() if file.endswith(BASE_SET) else folder()
        official |= entries(json.loads((place / file.removesuffix(BASE_SET)).read_text(encoding="utf-8")))
    assert expected_keys(spec_of(index)) == official


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_schedules_are_the_published_ones(index: Fixture):
    spec, published = spec_of(index), index.meta["diffusion_params"]
    schedule = spec.schedule
    assert schedule.beta_start == published["linear_start"]
    assert schedule.beta_end == published["linear_end"]
    assert schedule.zero_terminal_snr == published.get("rescale_betas_zero_snr", False)
    assert schedule.prediction == {"eps": "epsilon"}.get(
        parameter := published.get("parameterization", "eps"), parameter
    )
    assert schedule.latent_scale == (published["base_scale"] if published.get("use_dynamic_rescale") else None)
    assert [spec.sampling.height // 8, spec.sampling.width // 8] == published["image_size"]
    assert spec.sampling.rate == published.get("fps_condition_type", "stride")


def test_the_misnamed_part_of_the_256_model_is_renamed():
    keys = [key for key in expected_keys(SPECS["dynamicrafter_256"]) if ".fps_embedding." in key]
    as_published = {key.replace("fps_embedding", "framestride_embed"): torch.zeros(1) for key in keys}
    assert list(renamed(as_published)) == keys
    assert len(keys) == 4


def test_the_motion_guided_network_is_the_other_one_and_two_matrices():
    with_motion, without = (expected_keys(SPECS[name]) for name in ("t2v_turbo_v2_mg", "t2v_turbo_v2"))
    added = {key.removeprefix(UNET_PREFIX) for key in with_motion.keys() - without.keys()}
    assert added == {"motion_cond_proj.weight", "combine_proj.weight"}
    assert expected_keys(SPECS["t2v_turbo_v1"]) == without
