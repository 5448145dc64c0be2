"""The keys of Stable Diffusion 2.1 at the published size, with which diffusers' network and converter must agree."""

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from sd_models import image_unet
from torch import Tensor

from perturb.models.videocrafter.keymap.stable_diffusion import diffusers_unet, ldm_renamed, ldm_unet, ldm_unused
from perturb.models.videocrafter.published import get_spec
from perturb.models.videocrafter.skeleton import skeleton
from perturb.models.videocrafter.spec import ModelSpec

UNET = "model.diffusion_model."


def full_size(name: str) -> tuple[ModelSpec, dict[str, Tensor]]:
    spec = get_spec(name)
    return spec, skeleton(spec)["unet"].state_dict()


@pytest.mark.parametrize("name", ["t2v_512_v1", "t2v_512_v2"])
def test_published_size_has_every_key_of_stable_diffusion(name: str):
    spec, ours = full_size(name)
    ldm = {key: ours[mine] for key, mine in ldm_unet(spec.unet).items()}
    assert len(ldm) == 686
    assert sum(tensor.numel() for tensor in ldm.values()) == 865_910_724
    with torch.device("meta"):
        reference = image_unet(spec.unet)
    assert reference.config["attention_head_dim"] == [5, 10, 20, 20]
    expected = {key: tensor.shape for key, tensor in reference.state_dict().items()}
    assert {key: ours[mine].shape for key, mine in diffusers_unet(spec.unet).items()} == expected
    # diffusers' converter, given our list of LDM keys, must find exactly its own, each with its shape
    found = convert_ldm_unet_checkpoint(dict(ldm), {"layers_per_block": 2})
    assert {key: tensor.shape for key, tensor in found.items()} == expected


def test_the_fourteen_renamed_tensors():
    spec = get_spec("t2v_512_v2")
    renamed = {k.removeprefix(UNET): v.removeprefix(UNET) for k, v in ldm_renamed(spec.unet).items()}
    assert len(renamed) == 14
    moved = {(old.partition(".2.")[0], new.replace(".3.", ".2.", 1) == old) for old, new in renamed.items()}
    assert moved == {("middle_block", True), ("output_blocks.5", True), ("output_blocks.8", True)}
    assert renamed["output_blocks.8.2.conv.bias"] == "output_blocks.8.3.conv.bias"
    # a key that both files have and that means another block: LDM's middle_block.2 is not VideoCrafter's
    assert ldm_unet(spec.unet)[f"{UNET}middle_block.2.in_layers.2.weight"] == "middle.resblock.conv_in.weight"


def test_full_size_leftovers_of_an_ldm_checkpoint():
    spec = get_spec("t2v_512_v2")
    keys = ["betas", "model_ema.decay", "cond_stage_model.model.logit_scale", "model.diffusion_model.out.2.bias"]
    assert sorted(key for group in ldm_unused(keys, spec).values() for key in group) == sorted(keys[:3])
