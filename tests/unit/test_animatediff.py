"""AnimateDiff: diffusers' UNetMotionModel and converters are the oracle for the numbers and the names."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.loaders.single_file_utils import convert_animatediff_checkpoint_to_diffusers, convert_ldm_unet_checkpoint
from einops import repeat
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from perturb.errors import UserError
from perturb.models.animatediff.keys import motion_keys
from perturb.models.animatediff.load import empty_system, load_animatediff
from perturb.models.animatediff.spec import SPECS, normalised
from perturb.models.partition import Partition
from perturb.models.videocrafter.checkpoint import load_system, save_system
from perturb.models.videocrafter.keymap.stable_diffusion import diffusers_unet, ldm_unet, meta_unet
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem, build_schedule
from perturb.nn import ResBlock
from perturb.store.tensors import hash_modules
from tests.unit.animatediff_parts import SCHEDULER, adapter, joined, published, small
from tests.unit.sd_models import ImageModel, image_unet, ldm_state

V1, V2, V3 = (small(name) for name in SPECS)
PROMPTS = ["a red circle moving left", "a blue star"]


@pytest.fixture(scope="module")
def image_model() -> ImageModel:
    torch.manual_seed(3)
    return ImageModel.random(V3)


@pytest.fixture(scope="module")
def image(image_model: ImageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_model.save(tmp_path_factory.mktemp("sd") / "folder", **SCHEDULER)


@pytest.fixture(scope="module")
def motion() -> MotionAdapter:
    torch.manual_seed(4)
    return adapter(V3)


@pytest.fixture(scope="module")
def official(motion: MotionAdapter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("motion") / "mm.ckpt"
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in published(motion, V3).items()}}, path)
    return path


@pytest.fixture(scope="module")
def system(image: Path, official: Path) -> VideoSystem:
    """To be read only."""
    return load_animatediff(image, official, spec=V3, reference=image)


@torch.no_grad()
def outputs(system: VideoSystem, reference: UNetMotionModel, frames: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    x, text, t = torch.randn(2, 4, frames, 8, 8), torch.randn(2, 7, 32), torch.tensor([3, 870])
    theirs = reference(x, t, repeat(text, "b l d -> (b t) l d", t=frames), return_dict=False)[0]
    return system.unet(x, t, text, 8), theirs


@pytest.mark.parametrize("spec", [V1, V2, V3], ids=lambda spec: spec.name)
def test_over_the_clip_it_is_diffusers_network(spec: ModelSpec, image_model: ImageModel, image: Path, tmp_path: Path):
    motion = adapter(spec)
    motion.save_pretrained(tmp_path)
    reference = joined(image_model, motion)
    system = load_animatediff(image, tmp_path, spec=spec, motion_norm="clip")
    ours, theirs = outputs(system, reference, frames=5)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=1e-5)
    frame = load_animatediff(image, tmp_path, spec=spec)
    ours, theirs = outputs(frame, reference, frames=5)
    assert (ours - theirs).abs().max() > 0.05
    ours, theirs = outputs(frame, reference, frames=1)
    torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=1e-5)
    with pytest.raises(UserError, match=f"33 frames given; .* at most {spec.unet.motion_length}"):
        frame.unet(torch.zeros(1, 4, 33, 8, 8), torch.tensor([3]), torch.zeros(1, 7, 32), 8)


def test_groups_are_the_motion_modules_and_the_image_model(system: VideoSystem, image: Path, motion: MotionAdapter):
    partition = system.partition()
    assert partition.count("temporal") == sum(p.numel() for p in motion.parameters())
    assert set(partition.names("temporal")) == set(motion_keys(V3.unet).values())
    fixed = UNet2DConditionModel.from_pretrained(image / "unet").state_dict()
    assert partition.count("spatial") + partition.count("conditioning") == sum(p.numel() for p in fixed.values())
    for key, ours in diffusers_unet(V3.unet).items():
        assert torch.equal(system.unet.get_parameter(ours).flatten(), fixed[key].flatten()), key


def test_text_is_what_transformers_reads(system: VideoSystem, image_model: ImageModel):
    ids = system.tokenizer(PROMPTS)
    assert ids[1, :5].tolist() == [49406, 320, 1746, 1565, 49407]
    assert (ids[1, 5:] == 49407).all()
    with torch.no_grad():
        theirs = image_model.text(input_ids=ids).last_hidden_state
    torch.testing.assert_close(system.embed(PROMPTS), theirs, atol=1e-5, rtol=1e-5)


def test_official_names_are_those_that_diffusers_converts(
    system: VideoSystem, motion: MotionAdapter, image: Path, tmp_path: Path
):
    state = published(motion, V3)
    converted = convert_animatediff_checkpoint_to_diffusers(dict(state))
    own = {key: tensor for key, tensor in motion.state_dict().items() if not key.endswith(".pe")}
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[key], own[key]) for key in own)
    motion.save_pretrained(tmp_path / "folder")
    torch.save(state | {"animatediff_config": "unet: {}"}, tmp_path / "bare.ckpt")
    save_file(converted, tmp_path / "theirs.safetensors")
    for name in ("folder", "bare.ckpt", "theirs.safetensors"):
        other = load_animatediff(image, tmp_path / name, spec=V3)
        assert hash_modules({"unet": other.unet}) == hash_modules({"unet": system.unet}), name


def test_one_file_is_read_as_diffusers_converts_it(image: Path, official: Path, tmp_path: Path):
    shapes = meta_unet(V3.unet).state_dict()
    unet = {}
    for key, ours in ldm_unet(V3.unet).items():
        shape = (*shapes[ours].shape, *((1, 1) if ".proj_" in key and key.endswith("weight") else ()))
        unet[key] = torch.randn(shape) * 0.1
    state = ldm_state(V3, unet)
    torch.save({"state_dict": state}, tmp_path / "sd.ckpt")
    system = load_animatediff(tmp_path / "sd.ckpt", official, spec=V3)
    reference = image_unet(V3.unet)
    reference.load_state_dict(convert_ldm_unet_checkpoint(dict(state), {"layers_per_block": 1}))
    theirs = reference.state_dict()
    for key, ours in diffusers_unet(V3.unet).items():
        assert torch.equal(system.unet.get_parameter(ours).flatten(), theirs[key].flatten()), key
    text = system.text_encoder.state_dict()
    prefix = "cond_stage_model.transformer.text_model."
    given = {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}
    assert {f"transformer.{key}" for key in given} == {*text, "transformer.embeddings.position_ids"}
    assert all(torch.equal(text[f"transformer.{key}"], x) for key, x in given.items() if "position_ids" not in key)


def lora(layers: dict[str, tuple[int, int]], path: Path) -> dict[str, Tensor]:
    """A LoRA of rank 2 in official names: layer → (out, in)."""
    state = {}
    for layer, (out, inputs) in layers.items():
        state |= {f"{layer}_lora.up.weight": torch.randn(out, 2), f"{layer}_lora.down.weight": torch.randn(2, inputs)}
    torch.save({"state_dict": state}, path)
    return state


DOMAIN = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.processor."
MOTION = "down_blocks.1.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1.processor."


def test_loras_are_merged_and_theta_s_is_proven(system: VideoSystem, image: Path, official: Path, tmp_path: Path):
    domain = lora({f"{DOMAIN}to_k": (32, 32), f"{DOMAIN}to_out": (32, 32)}, tmp_path / "adapter.ckpt")
    moving = lora({f"{MOTION}to_q": (64, 64)}, tmp_path / "motion_lora.ckpt")
    options: dict[str, Any] = {"domain_adapter": tmp_path / "adapter.ckpt", "domain_adapter_scale": 0.5}
    options |= {"motion_lora": tmp_path / "motion_lora.ckpt", "reference": image}
    adapted = load_animatediff(image, official, spec=V3, **options)
    deltas = {
        f"{ours}.weight": scale * state[f"{layer}_lora.up.weight"] @ state[f"{layer}_lora.down.weight"]
        for ours, state, layer, scale in (
            ("up.1.stages.0.spatial.blocks.0.cross_attention.key", domain, f"{DOMAIN}to_k", 0.5),
            ("up.1.stages.0.spatial.blocks.0.cross_attention.out", domain, f"{DOMAIN}to_out", 0.5),
            ("down.1.stages.0.temporal.blocks.0.attention_2.query", moving, f"{MOTION}to_q", 1.0),
        )
    }
    for name, before in system.unet.named_parameters():
        torch.testing.assert_close(adapted.unet.get_parameter(name), before + deltas.get(name, 0))
    tensors = len(diffusers_unet(V3.unet))
    plain = system.provenance
    assert plain["reference"]["equal"] == tensors == plain["image_model"]["tensors"]
    assert adapted.provenance["reference"]["equal"] == tensors - 2
    assert plain["image_model"]["sha256"] != adapted.provenance["image_model"]["sha256"]
    with pytest.raises(UserError, match=r"motion_lora=.* none of animatediff_v3's .*motion_modules|A domain_adapter"):
        load_animatediff(image, official, spec=V3, motion_lora=tmp_path / "adapter.ckpt")
    lora({f"{DOMAIN}to_k": (32, 48)}, tmp_path / "wide.ckpt")
    with pytest.raises(UserError, match=r"cross_attention.key.weight is \[32, 32\]"):
        load_animatediff(image, official, spec=V3, domain_adapter=tmp_path / "wide.ckpt")


def test_another_image_model_is_not_the_reference(image: Path, official: Path, tmp_path: Path):
    torch.manual_seed(9)
    other = ImageModel.random(V3).save(tmp_path / "other", **SCHEDULER)
    with pytest.raises(UserError, match=r"θ_S is not that of system.reference: \d+ of \d+ tensors differ"):
        load_animatediff(image, official, spec=V3, reference=other)


def test_another_version_is_refused(image: Path, official: Path, tmp_path: Path):
    with pytest.raises(UserError, match="counts 32 frames and animatediff_v1 24"):
        load_animatediff(image, official, spec=V1)
    with pytest.raises(UserError, match=r"(?s)not the motion module of animatediff_v2.*mid_block.*system.spec="):
        load_animatediff(image, official, spec=V2)
    adapter(V1).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="motion_max_seq_length is 24; wanted 32"):
        load_animatediff(image, tmp_path, spec=V3)
    with pytest.raises(UserError, match="motion_norm is 'joint'; allowed: frame"):
        load_animatediff(image, official, spec=V3, motion_norm="joint")
    with pytest.raises(UserError, match="unknown AnimateDiff 'v3'; allowed: animatediff_v1"):
        load_animatediff(image, official, spec="v3")


def test_the_first_version_normalises_residual_blocks_over_all_frames():
    block = ResBlock(replace(SPECS["animatediff_v1"].unet, model_channels=8, norm_groups=4), 8, 8)
    torch.nn.init.normal_(block.conv_out.weight)
    x, embedding = torch.randn(3, 8, 4, 4), torch.randn(3, 32)

    def joint(y: Tensor) -> Tensor:
        clip = y.transpose(0, 1)[None]
        return F.group_norm(clip, 4)[0].transpose(0, 1)

    y = block.conv_in(F.silu(joint(x))) + block.embedding(embedding)[..., None, None]
    torch.testing.assert_close(block(x, embedding, 3), x + block.conv_out(F.silu(joint(y))))
    assert [spec.unet.clip_norm for spec in SPECS.values()] == [True, False, False]
    assert not normalised(SPECS["animatediff_v1"], "clip").unet.clip_norm


def test_its_schedule_is_linear_in_beta():
    schedule = build_schedule(V3.schedule)
    theirs = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")
    torch.testing.assert_close(schedule.alphas_cumprod, theirs.alphas_cumprod, atol=1e-6, rtol=0)
    assert schedule.betas[[0, -1]].tolist() == pytest.approx([0.00085, 0.012])
    assert schedule.sampling_timesteps(25)[-1] == 961


def test_it_is_saved_as_a_folder_of_ours(system: VideoSystem, tmp_path: Path):
    again = load_system(save_system(system, tmp_path / "ours"))
    assert again.spec == V3
    assert hash_modules(again.modules()) == hash_modules(system.modules())
    assert again.tokenizer(PROMPTS).equal(system.tokenizer(PROMPTS))


@pytest.mark.parametrize(
    ("name", "moving", "tensors"),
    [("animatediff_v1", 417_137_600, 520), ("animatediff_v2", 453_209_280, 546), ("animatediff_v3", 417_137_600, 520)],
)
def test_full_size_has_the_published_names_shapes_and_counts(name: str, moving: int, tensors: int):
    spec = SPECS[name]
    unet = meta_unet(spec.unet)
    partition = Partition.of(unet)
    assert partition.counts() == {
        "spatial": 857_470_404,
        "temporal": moving,
        "conditioning": 2_050_560,
        "image": 0,
    }
    assert [len(partition.names(group)) for group in ("spatial", "temporal", "conditioning")] == [682, tensors, 4]
    with torch.device("meta"):
        theirs = MotionAdapter(use_motion_mid_block=spec.unet.motion_middle).state_dict()
    theirs = {key: tuple(x.shape) for key, x in theirs.items() if not key.endswith(".pe")}
    own = unet.state_dict()
    assert {key: tuple(own[ours].shape) for key, ours in motion_keys(spec.unet).items()} == theirs
    if name == "animatediff_v3":
        with torch.device("meta"):
            image = UNet2DConditionModel(cross_attention_dim=768).state_dict()  # its defaults are those of 1.5
        projected = {key for key in image if ".proj_" in key and key.endswith("weight")}
        shapes = {key: tuple(x.shape[:2] if key in projected else x.shape) for key, x in image.items()}
        assert {key: tuple(own[ours].shape) for key, ours in diffusers_unet(spec.unet).items()} == shapes
    assert spec.unet.heads == (8, 8, 8, 8)


def test_a_study_can_be_planned_without_any_file():
    model = empty_system(None, None, spec="animatediff_v2")
    assert (model.name, model.latent_shape(16, 512, 512)) == ("animatediff_v2", (4, 16, 64, 64))
    assert model.partition().count("temporal") == 453_209_280
    assert all(parameter.is_meta for parameter in model.network.parameters())
