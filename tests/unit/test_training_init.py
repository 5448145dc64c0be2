"""What a training starts from: Stable Diffusion's weights in their places, a schedule to pure noise, and refusals."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from sd_models import ImageModel, small_spec

from perturb.errors import UserError
from perturb.models.videocrafter.checkpoint import load_system, save_system
from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem
from perturb.structured import read
from perturb.training.config import TrainConfig
from perturb.training.init import initial_system

CPU = torch.device("cpu")


def configured(init: Path | None, **changes: Any) -> TrainConfig:
    values = {
        "recipe": "image",
        "trained": {"group": "spatial", "time_embedding": True, "fps_embedding": True},
        "init": None if init is None else str(init),
        "work": "work",
        "output": "output",
        "cache": "cache",
        "data": {},
        "stages": [{"steps": 1, "batch_size": 1}],
        "loop": {"learning_rate": 1e-3},
        "loss": {},
        "tracker": None,
        "seed": 1,
    }
    return read(TrainConfig, values | changes)


def test_an_image_training_starts_from_stable_diffusion(
    tiny_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text = dataclasses.replace(tiny_spec.text, tokenizer="clip")
    spec = dataclasses.replace(small_spec(tiny_spec, fps_cond=True), text=text)
    monkeypatch.setitem(SPECS, spec.name, spec)
    source = ImageModel.random(spec)
    folder = source.save(tmp_path / "sd")
    system = initial_system(configured(folder, init_kind="stable_diffusion", init_spec="small"), CPU)
    ours, theirs = system.unet.get_parameter("conv_out.weight"), source.unet.conv_out.weight  # pyright: ignore
    assert torch.equal(ours, theirs)
    assert len(system.provenance["sha256"]) == 64
    assert system.provenance["stable_diffusion"]["filled"].keys() == {"unet", "vae", "text_encoder"}
    with pytest.raises(UserError, match="init_kind=stable_diffusion needs init_spec"):
        initial_system(configured(folder, init_kind="stable_diffusion"), CPU)
    torch.manual_seed(0)
    scratch = initial_system(configured(folder, init_kind="scratch", init_spec="small"), CPU)
    words = torch.randint(spec.text.vocab_size, (1, spec.text.tokens))
    assert torch.equal(scratch.text_encoder(words), system.text_encoder(words))
    video = torch.rand(1, 3, 1, 32, 32) * 2 - 1
    assert torch.equal(scratch.encode(video), system.encode(video))
    fresh = dict(scratch.unet.named_parameters())
    assert not torch.equal(
        fresh["middle.stage.resblock.conv_in.weight"], system.unet.get_parameter("middle.stage.resblock.conv_in.weight")
    )
    assert not fresh["conv_out.weight"].any()  # as every denoiser begins
    assert scratch.provenance["unet"] == "fresh"


def test_zero_terminal_snr_is_trained_with_and_stays_with_the_model(tiny_system: VideoSystem, tmp_path: Path):
    folder = save_system(tiny_system, tmp_path / "model")
    assert initial_system(configured(folder), CPU).schedule.alphas_cumprod[-1] > 0
    system = initial_system(configured(folder, loss={"zero_terminal_snr": True}), CPU)
    assert system.schedule.alphas_cumprod[-1] == 0
    again = load_system(save_system(system, tmp_path / "trained"))
    assert torch.equal(again.schedule.alphas_cumprod, system.schedule.alphas_cumprod)


def test_an_init_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"init=.*nowhere does not exist; give a folder made by a training"):
        initial_system(configured(tmp_path / "nowhere"), CPU)
    with pytest.raises(UserError, match=r"recipe 'image' needs init: Stable Diffusion 2\.1"):
        configured(None, init_kind="stable_diffusion")
