"""θ_S⁰ from Stable Diffusion: diffusers' own network is the oracle for the numbers, its converter for the names."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from sd_models import ImageModel, autoencoder, image_unet, ldm_state, randomise, small_spec, text_model
from torch import Tensor, nn

from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.models.videocrafter.keymap.stable_diffusion import ldm_unet
from perturb.models.videocrafter.sd import StableDiffusionInit, init_from_stable_diffusion
from perturb.models.videocrafter.skeleton import skeleton
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem, build_system
from perturb.models.videocrafter.tokenizer import FileTokenizer
from perturb.store.tensors import hash_modules
from perturb.world.scenes import WORDS

UNET = "model.diffusion_model."
PROMPT = ["a red circle moving left slowly on a gray background"]


@pytest.fixture(scope="module")
def spec(tiny_spec: ModelSpec) -> ModelSpec:
    """Without fps conditioning: then the video network on one frame is exactly the image network."""
    return small_spec(tiny_spec, fps_cond=False)


@pytest.fixture(scope="module")
def image_model(spec: ModelSpec) -> ImageModel:
    torch.manual_seed(3)
    return ImageModel.random(spec)


@pytest.fixture(scope="module")
def folder(image_model: ImageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_model.save(tmp_path_factory.mktemp("sd") / "folder")


def fresh(spec: ModelSpec) -> VideoSystem:
    torch.manual_seed(11)
    return build_system(spec, tokenizer=FileTokenizer.from_words(WORDS, spec.text.tokens))


def filled(spec: ModelSpec, source: Path) -> tuple[VideoSystem, StableDiffusionInit]:
    system = fresh(spec)
    return system, init_from_stable_diffusion(system, source)


def random_ldm(spec: ModelSpec) -> dict[str, Tensor]:
    shapes = skeleton(spec)["unet"].state_dict()
    unet = {}
    for key, ours in ldm_unet(spec.unet).items():
        shape = shapes[ours].shape
        unet[key] = torch.randn(shape) * (shape[1:].numel() ** -0.5 if len(shape) > 1 else 0.3)
    return ldm_state(spec, unet)


def converted(spec: ModelSpec, state: dict[str, Tensor]) -> nn.Module:
    """Diffusers' network from an LDM checkpoint by diffusers' own converter, strictly."""
    reference = image_unet(spec.unet).eval()
    config = {"layers_per_block": spec.unet.num_res_blocks}
    reference.load_state_dict(convert_ldm_unet_checkpoint(dict(state), config))
    return reference


@torch.no_grad()
def outputs(system: VideoSystem, reference: nn.Module, frames: int = 1) -> tuple[Tensor, Tensor]:
    """The video network's ε̂ and the image network's on each frame, b c t h w."""
    torch.manual_seed(5)
    x, text = torch.randn(2, 4, frames, 8, 16), torch.randn(2, 7, 32)
    t = torch.tensor([3, 870])
    ours = system.unet(x, t, text, torch.tensor([8, 24]))
    theirs = [reference(frame, t, text, return_dict=False)[0] for frame in x.unbind(2)]
    return ours, torch.stack(theirs, dim=2)


def test_on_one_frame_it_is_diffusers_image_network(spec: ModelSpec, image_model: ImageModel, folder: Path):
    system, _ = filled(spec, folder)
    ours, theirs = outputs(system, image_model.unet)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_an_ldm_checkpoint_computes_what_diffusers_makes_of_it(spec: ModelSpec, tmp_path: Path):
    state = random_ldm(spec)
    torch.save({"state_dict": state, "global_step": 1}, tmp_path / "sd.ckpt")
    system, report = filled(spec, tmp_path / "sd.ckpt")
    ours, theirs = outputs(system, converted(spec, state))
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
    assert (report.format, report.predicts) == ("ldm", "unknown")


def test_more_frames_are_as_many_images_because_theta_t_is_the_identity(
    spec: ModelSpec, image_model: ImageModel, folder: Path
):
    system, _ = filled(spec, folder)
    ours, theirs = outputs(system, image_model.unet, frames=3)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
    with torch.no_grad():
        system.unet.middle.stage.temporal.project_out.weight.normal_(std=0.1)  # pyright: ignore
    ours, theirs = outputs(system, image_model.unet, frames=3)
    assert not torch.allclose(ours, theirs, atol=1e-2)


def test_the_fps_embedding_is_all_that_stands_between(tiny_spec: ModelSpec, image_model: ImageModel, folder: Path):
    system, report = filled(small_spec(tiny_spec, fps_cond=True), folder)
    ours, theirs = outputs(system, image_model.unet)
    assert not torch.allclose(ours, theirs, atol=1e-2)
    assert any("fps_embedding" in name for names in report.kept.values() for name in names)
    with torch.no_grad():
        for parameter in system.unet.fps_embedding.mix.parameters():  # pyright: ignore[reportOptionalMemberAccess]
            parameter.zero_()
    ours, theirs = outputs(system, image_model.unet)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_text_and_autoencoder_compute_what_theirs_do(spec: ModelSpec, image_model: ImageModel, folder: Path):
    system, _ = filled(spec, folder)
    ids = system.tokenizer(PROMPT)
    with torch.no_grad():
        theirs = image_model.text(input_ids=ids).last_hidden_state
        torch.testing.assert_close(system.embed(PROMPT), theirs, atol=1e-5, rtol=1e-5)
        video = torch.rand(1, 3, 1, 32, 32) * 2 - 1
        mean, _ = system.posterior(video)
        torch.testing.assert_close(mean[:, :, 0], image_model.vae.encode(video[:, :, 0]).latent_dist.mean)  # pyright: ignore


def test_the_encoders_of_an_ldm_checkpoint_are_those_diffusers_converts(spec: ModelSpec, tmp_path: Path):
    state = random_ldm(spec)
    torch.save(state, tmp_path / "sd.ckpt")
    system, _ = filled(spec, tmp_path / "sd.ckpt")
    vae = autoencoder(spec.vae)
    vae.load_state_dict(convert_ldm_vae_checkpoint(state, vae.config))
    for key, tensor in vae.state_dict().items():
        assert torch.equal(system.vae.state_dict()[key], tensor), key
    own = system.text_encoder.state_dict()
    text = convert_open_clip_checkpoint(text_model(spec.text), state)
    checked = [key for key in text if f"transformer.{key.removeprefix('text_model.')}" in own]
    assert len(checked) >= len(text_model(spec.text).state_dict())
    assert all(torch.equal(own[f"transformer.{key.removeprefix('text_model.')}"], text[key]) for key in checked)


def test_the_names_of_2022_mean_the_same(spec: ModelSpec, image_model: ImageModel, folder: Path, tmp_path: Path):
    new, _ = filled(spec, folder)
    old, report = filled(spec, image_model.save(tmp_path / "old", old_names=True))
    for name in ("vae", "unet"):
        assert hash_modules({name: new.modules()[name]}) == hash_modules({name: old.modules()[name]})
    with torch.no_grad():
        assert torch.equal(new.embed(PROMPT), old.embed(PROMPT))
    assert report.unused == {"positions counted from 0": ("text_model.embeddings.position_ids",)}


@pytest.mark.parametrize("source", ["ldm", "diffusers"])
def test_everything_is_filled_or_kept_for_a_reason(
    source: str, tiny_spec: ModelSpec, image_model: ImageModel, folder: Path, tmp_path: Path
):
    spec = small_spec(tiny_spec, fps_cond=True)
    path, state = folder, random_ldm(spec)
    if source == "ldm":
        path = tmp_path / "sd.ckpt"
        torch.save(state, path)
    system = fresh(spec)
    before = {f"{name}.{k}": h for name, part in hash_modules(system.modules()).items() for k, h in part.items()}
    report = init_from_stable_diffusion(system, path)
    after = {f"{name}.{k}": h for name, part in hash_modules(system.modules()).items() for k, h in part.items()}
    partition = Partition.of(system.unet)
    kept = {name for names in report.kept.values() for name in names}
    spatial = {f"unet.{name}" for name in partition.names("spatial")}
    fps = {f"unet.{name}" for name in partition.names("conditioning") if name.startswith("fps_embedding.")}
    unread = {name for name in after if name.startswith("text_encoder.transformer.encoder.layers.1.")}
    assert {name for name in kept if name.startswith("unet.")} == fps | {
        f"unet.{name}" for name in partition.names("temporal")
    }
    assert kept - {name for name in kept if name.startswith("unet.")} == (unread if source == "diffusers" else set())
    assert spatial <= {name for name in after if before[name] != after[name]}  # random weights: each must have changed
    assert all(before[name] == after[name] for name in kept)
    parameters = {name for name in after if not name.endswith("position_ids")}
    assert sum(report.filled.values()) + len(kept) == len(parameters)
    if source == "ldm":
        used = {key for keys in report.unused.values() for key in keys}
        assert used == {key for key in state if not key.startswith((UNET, "first_stage", "cond_stage"))} | {
            "cond_stage_model.model.text_projection",
            "cond_stage_model.model.logit_scale",
        }
        assert sum(len(keys) for keys in report.unused.values()) == len(used)
    assert json.dumps(report.describe())
    assert system.provenance["sha256"] == report.sha256


def refused(system: VideoSystem, source: Path, message: str) -> None:
    """The source is refused, and the system is as it was."""
    before = hash_modules(system.modules())
    with pytest.raises(UserError, match=message):
        init_from_stable_diffusion(system, source)
    assert hash_modules(system.modules()) == before


def test_ldm_files_that_do_not_fit_change_nothing(spec: ModelSpec, tmp_path: Path):
    good, system = random_ldm(spec), fresh(spec)
    path = tmp_path / "sd.ckpt"

    bias, decoder = f"{UNET}out.2.bias", "first_stage_model.quant_conv.bias"

    def check(key: str, tensor: Tensor | None, message: str) -> None:
        torch.save({name: x for name, x in {**good, key: tensor}.items() if x is not None}, path)
        refused(system, path, message)

    check(bias, None, r"1 missing [\s\S]*out\.2\.bias")
    check(bias, torch.zeros(5), r"of another shape [\s\S]*out\.2\.bias  given \[5\], wanted \[4\]")
    check(bias, torch.zeros(4, dtype=torch.int8), "no plain weights")
    check(decoder, torch.full((8,), torch.nan), r"hold NaN .*vae\.quant_conv\.bias")
    check("ghost", torch.zeros(1), r"1 unexpected [\s\S]*ghost")
    check("betas", good["betas"] * 1.01, "another noise schedule")
    with pytest.raises(UserError, match="no checkpoint at"):
        init_from_stable_diffusion(system, tmp_path / "nowhere.ckpt")


def test_a_video_checkpoint_is_no_image_checkpoint(spec: ModelSpec, tmp_path: Path):
    from perturb.models.videocrafter.keymap import expected_keys

    torch.save({key: torch.zeros(shape) for key, shape in expected_keys(spec).items()}, tmp_path / "video.ckpt")
    refused(fresh(spec), tmp_path / "video.ckpt", "unexpected")


def test_folders_that_do_not_fit_change_nothing(spec: ModelSpec, image_model: ImageModel, tmp_path: Path):
    system = fresh(spec)
    folder = image_model.save(tmp_path / "sd", prediction_type="v_prediction", beta_schedule="scaled_linear",
                              beta_start=0.00085, beta_end=0.012)  # fmt: skip
    refused(system, folder, r"prediction_type is 'v_prediction'; wanted 'epsilon'\n.*2-1-base")
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({"beta_schedule": "linear"}))
    refused(system, folder, "beta_schedule is 'linear'; wanted 'scaled_linear'")
    scheduler.unlink()
    config = folder / "text_encoder" / "config.json"
    good = config.read_text()
    config.write_text(good.replace('"gelu"', '"quick_gelu"'))
    refused(system, folder, "hidden_act is 'quick_gelu'; wanted 'gelu'")
    config.write_text(good)
    heads = folder / "unet" / "config.json"
    content = json.loads(heads.read_text())
    heads.write_text(json.dumps(content | {"attention_head_dim": 4}))
    refused(system, folder, r"attention_head_dim is 4; wanted \[2, 4, 4\]")
    heads.write_text(json.dumps(content))
    good_scheduler = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler.write_text(json.dumps(good_scheduler))
    assert init_from_stable_diffusion(fresh(spec), folder).predicts == "epsilon"  # mended: nothing else was wrong
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    refused(system, folder, r"no weights at .*vae")


def test_another_size_is_named(spec: ModelSpec, folder: Path):
    wider = replace(spec, unet=replace(spec.unet, context_dim=16), text=replace(spec.text, width=16))
    with pytest.raises(UserError, match=r"unet does not fit the image part of small.*\n.*of another shape"):
        init_from_stable_diffusion(fresh(wider), folder)


def test_only_a_fresh_text_to_video_model_can_begin_there(spec: ModelSpec, folder: Path, tiny_system: VideoSystem):
    with pytest.raises(UserError, match=r"θ_T of this system is not at its initialisation .* e\.g\. "):
        init_from_stable_diffusion(tiny_system, folder)
    system = fresh(spec)
    system.unet.adapter = nn.Linear(2, 2)
    with pytest.raises(UserError, match="detach perturbations"):
        init_from_stable_diffusion(system, folder)
    system = fresh(spec)
    system.spec = replace(spec, unet=replace(spec.unet, image_attention=True))
    with pytest.raises(UserError, match="takes an image"):
        init_from_stable_diffusion(system, folder)


def test_a_model_for_zero_terminal_snr_may_begin_there_too(spec: ModelSpec, tmp_path: Path):
    torch.save(random_ldm(spec), tmp_path / "sd.ckpt")
    zero = replace(spec, schedule=replace(spec.schedule, zero_terminal_snr=True))
    system, _ = filled(zero, tmp_path / "sd.ckpt")
    assert system.schedule.alphas_cumprod[-1] == 0


def test_half_precision_is_taken_up_in_full(spec: ModelSpec, tmp_path: Path):
    state = {key: x.half() if x.is_floating_point() else x for key, x in random_ldm(spec).items()}
    torch.save(state, tmp_path / "sd.ckpt")
    system, _ = filled(spec, tmp_path / "sd.ckpt")
    assert system.dtype == torch.float32
    assert torch.equal(system.unet.get_parameter("conv_out.bias"), state[f"{UNET}out.2.bias"].float())


def test_random_weights_all_matter(spec: ModelSpec):
    """The oracle sees a difference in any tensor it is given: here in the last bias of the deepest block."""
    network = image_unet(spec.unet).eval()
    randomise(network)
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 32)
    with torch.no_grad():
        before = network(x, torch.tensor([3]), text, return_dict=False)[0]
        network.mid_block.resnets[1].conv2.bias += 0.1  # pyright: ignore
        after = network(x, torch.tensor([3]), text, return_dict=False)[0]
    assert (before - after).abs().max() > 1e-3
