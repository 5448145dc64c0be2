"""ModelScope's folder and T2V-Turbo's files: the same network under other names, loaded whole, or refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from checkpoint_files import as_published, official, random_state
from torch import Tensor

from perturb.convert import convert
from perturb.diffusion import Conditioning
from perturb.errors import UserError
from perturb.models.names import listed_layers
from perturb.models.videocrafter import published
from perturb.models.videocrafter.checkpoint import load_system, open_checkpoint, save_system
from perturb.models.videocrafter.files import read_safetensors, write_safetensors
from perturb.models.videocrafter.keymap import expected_keys
from perturb.models.videocrafter.keymap.stable_diffusion import diffusers_keys, meta_unet
from perturb.models.videocrafter.keymap.unet import UNET_PREFIX
from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.tokenizer import FileTokenizer
from perturb.models.videocrafter.turbo import GUIDANCE
from perturb.world.scenes import WORDS

FPS = 12


@pytest.fixture(scope="module")
def spec(tiny_spec: ModelSpec) -> ModelSpec:
    """VideoCrafter2 at toy widths."""
    return as_published(tiny_spec)


@pytest.fixture(scope="module")
def plain(spec: ModelSpec) -> ModelSpec:
    """ModelScope: the same without a frame rate, a latent scale and the last block of the text encoder."""
    text = dataclasses.replace(spec.text, layers=spec.text.layers - 1, skip_last=0)
    schedule = dataclasses.replace(spec.schedule, latent_scale=None, scale_table_length=None)
    unet = dataclasses.replace(spec.unet, fps_cond=False)
    return dataclasses.replace(spec, name="tiny_modelscope", unet=unet, text=text, schedule=schedule)


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch, spec: ModelSpec, plain: ModelSpec) -> None:
    for name in list(SPECS):
        monkeypatch.delitem(SPECS, name)
    monkeypatch.setitem(SPECS, spec.name, spec)
    monkeypatch.setitem(SPECS, "modelscope", plain)


@pytest.fixture(scope="module")
def video_crafter(tmp_path_factory: pytest.TempPathFactory, spec: ModelSpec) -> Path:
    torch.manual_seed(0)
    return official(tmp_path_factory.mktemp("v2") / "model.ckpt", random_state(spec))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, video_crafter: Path, spec: ModelSpec) -> Path:
    """VideoCrafter2 at one frame rate as diffusers keeps it."""
    folder = tmp_path_factory.mktemp("written") / "diffusers"
    convert(video_crafter, folder, spec=spec, to="diffusers", fps=FPS)
    return folder


@pytest.fixture
def folder(tmp_path: Path, written: Path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(written, tmp_path / "diffusers")


def given(spec: ModelSpec) -> tuple[Tensor, Tensor, Tensor]:
    """x, t and text of two clips; the timesteps differ."""
    return torch.randn(2, 4, 4, 4, 6), torch.tensor([981, 20]), torch.randn(2, 7, spec.unet.context_dim)


@torch.no_grad()
def test_diffusers_own_class_computes_the_same(folder: Path, video_crafter: Path, spec: ModelSpec):
    """VideoCrafter2 at 12 frames per second, what is written of it, and what is read of that again."""
    from diffusers import AutoencoderKL, UNet3DConditionModel
    from transformers import CLIPTextModel

    before, after = load_system(video_crafter), load_system(folder)
    theirs = UNet3DConditionModel.from_pretrained(folder, subfolder="unet").eval()
    x, t, text = given(spec)
    expected = theirs(x, t, text).sample
    assert expected.std() > 0.01
    for system, fps in ((before, FPS), (after, 0)):
        actual = system.denoise(x, t, Conditioning(text, torch.full((2,), fps)))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    other = before.denoise(x, t, Conditioning(text, torch.full((2,), 2 * FPS)))
    assert (other - expected).abs().max() > 1e-3
    ids = torch.randint(0, spec.text.vocab_size, (1, spec.text.tokens))
    tokens = before.text_encoder(ids)
    torch.testing.assert_close(after.text_encoder(ids), tokens)
    encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").eval()
    torch.testing.assert_close(encoder(ids).last_hidden_state, tokens, rtol=1e-4, atol=1e-5)
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
    assert all(torch.equal(v, vae.state_dict()[k]) for k, v in before.vae.state_dict().items())
    assert after.schedule.latent_scale == before.schedule.latent_scale == 0.7
    assert after.provenance["format"] == "diffusers"


def test_every_name_of_the_public_model_has_its_place():
    from diffusers import UNet3DConditionModel

    with torch.device("meta"):
        theirs = UNet3DConditionModel()  # its defaults are those of ModelScope
        unet = published._V2
        ours = dataclasses.replace(unet, fps_cond=False)
    names = diffusers_keys(meta_unet(ours))
    assert names.keys() == theirs.state_dict().keys()
    assert sum(p.numel() for p in theirs.parameters()) == 1_411_233_860


def test_there_and_back_keeps_every_byte(tmp_path: Path, folder: Path):
    convert(folder, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "again", to="diffusers")
    for file in folder.rglob("*.*"):
        assert (tmp_path / "again" / file.relative_to(folder)).read_bytes() == file.read_bytes(), file
    assert open_checkpoint(tmp_path / "ours").spec == open_checkpoint(folder).spec


def test_old_files_and_names_are_read(folder: Path, spec: ModelSpec):
    """A .bin beside no safetensors, a text encoder without its prefix, its buffer of positions."""
    text = read_safetensors(folder / "text_encoder" / "model.safetensors")
    (folder / "text_encoder" / "model.safetensors").unlink()
    old = text | {"text_model.embeddings.position_ids": torch.arange(spec.text.tokens)[None]}
    torch.save(old, folder / "text_encoder" / "pytorch_model.bin")
    system = load_system(folder)
    weight = "embeddings.token_embedding.weight"
    assert torch.equal(system.text_encoder.state_dict()[f"transformer.{weight}"], text[f"text_model.{weight}"])


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("unet", "attention_head_dim", 8, r"attention_head_dim is 8; wanted 16"),
        ("text_encoder", "hidden_act", "quick_gelu", r"hidden_act is 'quick_gelu'; wanted 'gelu'"),
        ("scheduler", "prediction_type", "v_prediction", r"prediction_type is 'v_prediction'; wanted 'epsilon'"),
        ("scheduler", "beta_end", 0.02, r"beta_end is 0.02; wanted 0.012"),
    ],
)
def test_settings_that_no_shape_tells_are_checked(folder: Path, file: str, key: str, value: object, message: str):
    config = folder / file / ("scheduler_config.json" if file == "scheduler" else "config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))
    with pytest.raises(UserError, match=message):
        open_checkpoint(folder)


def test_a_folder_that_does_not_fit_is_refused(folder: Path, video_crafter: Path, tmp_path: Path, spec: ModelSpec):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    write_safetensors(file, {**read_safetensors(file), "lora.up": torch.zeros(1)})
    with pytest.raises(UserError, match=r"1 unexpected(.|\n)*lora\.up \(diffusers\)"):
        open_checkpoint(folder)
    with pytest.raises(UserError, match="is told a frame rate, and diffusers' is not: give fps"):
        convert(video_crafter, tmp_path / "other", to="diffusers")
    with pytest.raises(UserError, match="fps is for --to diffusers"):
        convert(video_crafter, tmp_path / "other", fps=8)
    relative = dataclasses.replace(spec, unet=dataclasses.replace(spec.unet, relative_position=True))
    path = official(tmp_path / "first.ckpt", random_state(relative))
    with pytest.raises(UserError, match="has relative positions, which diffusers"):
        convert(path, tmp_path / "other", to="diffusers", fps=8, spec=relative)
    assert not (tmp_path / "other").exists()


@pytest.fixture(scope="module")
def turbo(spec: ModelSpec) -> ModelSpec:
    """T2V-Turbo v1, and v2 without motion guidance."""
    schedule = dataclasses.replace(spec.schedule, latent_scale=None, scale_table_length=None)
    unet = dataclasses.replace(spec.unet, guidance_dim=8)
    return dataclasses.replace(spec, name="tiny_turbo", unet=unet, schedule=schedule)


def factors(spec: ModelSpec) -> list[Tensor]:
    """What training leaves: up and down of rank 2 for every layer of the list."""
    unet = spec.build_unet()
    weights = [unet.get_parameter(f"{ours}.weight") for ours in listed_layers(unet).values()]
    shapes = [((len(w), 2, *[1] * (w.ndim - 2)), (2, *w.shape[1:])) for w in weights]
    return [0.1 * torch.randn(shape) for pair in shapes for shape in pair]


def test_a_whole_unet_takes_the_place_of_the_base(tmp_path: Path, video_crafter: Path, turbo: ModelSpec):
    state = {k.removeprefix(UNET_PREFIX): torch.randn(s) for k, s in expected_keys(turbo).items() if UNET_PREFIX in k}
    torch.save(state, tmp_path / "unet_no_mg.pt")
    system = load_system(video_crafter, turbo, unet=tmp_path / "unet_no_mg.pt")
    assert torch.equal(system.unet.state_dict()[GUIDANCE], state["time_cond_proj.weight"])
    assert torch.equal(system.unet.state_dict()["conv_out.weight"], state["out.2.weight"])
    assert system.provenance["guidance"] == "the file"
    assert system.schedule.latent_scale is None
    system.tokenizer = FileTokenizer.from_words(WORDS, turbo.text.tokens)
    # the network is told a scale where no sampler says one
    cond = system.conditioning(["a red circle"] * 2, 8)
    assert cond.guidance is not None
    assert cond.guidance.tolist() == [turbo.sampling.guidance] * 2
    assert len(Conditioning.concat([cond, system.unconditional(2, 8)])) == 4
    saved = save_system(system, tmp_path / "folder")
    again = load_system(saved)
    assert torch.equal(again.unet.state_dict()[GUIDANCE], state["time_cond_proj.weight"])
    torch.save({k: v for k, v in state.items() if k != "out.2.weight"}, tmp_path / "short.pt")
    with pytest.raises(UserError, match=r"does not fit the UNet of tiny_turbo(.|\n)*1 missing(.|\n)*out\.2\.weight"):
        open_checkpoint(video_crafter, turbo, unet=tmp_path / "short.pt")


@pytest.mark.parametrize("seed", [None, 3])
def test_a_list_of_factors_is_added_to_the_base(
    tmp_path: Path, video_crafter: Path, turbo: ModelSpec, seed: int | None
):
    pairs = factors(turbo)
    torch.save(pairs, tmp_path / "unet_lora.pt")
    source = open_checkpoint(video_crafter, turbo, unet=tmp_path / "unet_lora.pt", guidance_seed=seed)
    base = open_checkpoint(video_crafter).components["unet"]
    merged = source.components["unet"]
    up, down = pairs[-2:]  # of the last layer
    expected = base["conv_out.weight"] + torch.einsum("orhw,rikl->oikl", up, down)
    torch.testing.assert_close(merged["conv_out.weight"], expected)
    assert torch.equal(merged["conv_out.bias"], base["conv_out.bias"])
    up, down = pairs[8:10]  # of the guidance projection, after two embeddings of two layers
    start = merged[GUIDANCE] - up @ down
    assert bool(start.abs().max() > 0.1) == (seed is not None)
    assert start.abs().max() <= 8**-0.5 + 1e-6
    assert source.guidance == ("LoRA over zeros" if seed is None else "LoRA over the draw of seed 3")


def test_a_list_that_does_not_fit_is_refused(tmp_path: Path, video_crafter: Path, turbo: ModelSpec):
    pairs = factors(turbo)
    path = tmp_path / "unet_lora.pt"
    torch.save(pairs[:-2], path)
    with pytest.raises(UserError, match=rf"list of {len(pairs) // 2 - 1} pairs up, down"):
        open_checkpoint(video_crafter, turbo, unet=path)
    torch.save(pairs[2:4] + pairs[:2] + pairs[4:], path)
    with pytest.raises(UserError, match=r"pair 0, time_embed\.0: up is "):
        open_checkpoint(video_crafter, turbo, unet=path)
    moving = dataclasses.replace(turbo, unet=dataclasses.replace(turbo.unet, motion_cond=True))
    with pytest.raises(UserError, match="LoRA factors without names: they are of t2v_turbo_v1"):
        open_checkpoint(video_crafter, moving, unet=path)
    with pytest.raises(UserError, match=r"needs system\.spec of a model that was distilled from it"):
        open_checkpoint(video_crafter, unet=path)
