"""Training: schedule and EMA by hand, exact resume, and twins that see the same stream and move only what they may."""

import csv
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from perturb.diffusion import NoiseSchedule
from perturb.errors import UserError
from perturb.stages.latents import LatentSet, WorldData, encode_world
from perturb.stages.train_diffusion import Recipe, Stream, loss_weights, train_diffusion, trained_parameters
from perturb.stages.train_vae import VAEData
from perturb.stages.training_loop import Ema, LoopConfig, learning_rate_factor, optimise
from perturb.videocrafter.spec import ModelSpec
from perturb.videocrafter.system import VideoSystem, build_system
from perturb.videocrafter.tokenizer import FileTokenizer


def loop(steps: int) -> LoopConfig:
    return LoopConfig(steps=steps, learning_rate=1e-2, warmup_steps=2, log_every=2, save_every=2)


def test_learning_rate_warms_up_and_follows_the_cosine() -> None:
    config = LoopConfig(steps=100, learning_rate=1.0, warmup_steps=10)
    assert learning_rate_factor(0, config) == pytest.approx(0.1)
    assert learning_rate_factor(4, config) == pytest.approx(0.5 * 0.5 * (1 + math.cos(math.pi * 0.04)))
    assert learning_rate_factor(50, config) == pytest.approx(0.5)
    assert learning_rate_factor(50, LoopConfig(steps=100, learning_rate=1.0, schedule="constant")) == pytest.approx(
        0.51
    )


def test_ema_by_hand() -> None:
    parameter = nn.Parameter(torch.tensor([0.0]))
    ema = Ema([parameter], decay=0.9)
    parameter.data.fill_(1.0)
    ema.update(0)  # decay min(0.9, 1/10) = 0.1
    assert ema.shadow[0].item() == pytest.approx(0.9)
    ema.update(1000)
    assert ema.shadow[0].item() == pytest.approx(0.9 * 0.9 + 0.1)


def _problem() -> tuple[dict[str, nn.Parameter], list[Tensor]]:
    parameter = nn.Parameter(torch.zeros(3))
    return {"w": parameter}, [torch.randn(3, generator=torch.Generator().manual_seed(step)) for step in range(8)]


def _fit(folder: Path, steps: int, stop: int | None = None) -> Tensor:
    parameters, targets = _problem()

    def loss(step: int) -> Tensor:
        if step == stop:
            raise KeyboardInterrupt
        return (parameters["w"] - targets[step]).square().sum()

    optimise(parameters, loss, loop(steps), folder, title="test")
    return parameters["w"].detach()


def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = _fit(tmp_path / "whole", 8)
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "cut", 8, stop=5)
    torch.testing.assert_close(_fit(tmp_path / "cut", 8), whole, rtol=0, atol=0)
    logs = [list(csv.DictReader((tmp_path / name / "train.csv").open())) for name in ("whole", "cut")]
    assert [row["loss"] for row in logs[0]] == [row["loss"] for row in logs[1]]


def test_a_loss_that_is_not_finite_stops_and_names_the_good_state(tmp_path: Path) -> None:
    parameters, _ = _problem()
    with pytest.raises(UserError, match=r"nan at step 0.*state\.pt"):
        optimise(parameters, lambda _: parameters["w"].sum() * math.nan, loop(2), tmp_path, title="test")


@pytest.fixture
def latents(tiny_system: VideoSystem) -> LatentSet:
    f = tiny_system.spec.downsampling
    shape = (12, 4, 4, 64 // f, 64 // f)
    generator = torch.Generator().manual_seed(0)
    captions = ["a red circle", "a blue square", "a green star"] * 4
    mean = torch.randn(shape, generator=generator).half()
    return LatentSet(mean, torch.full(shape, 0.1).half(), captions, torch.full((12,), 8))


def stream(latents: LatentSet, seed: int = 3) -> Stream:
    return Stream(latents=latents, batch_size=4, seed=seed, text_dropout=0.3, timesteps=1000)


def test_the_stream_depends_on_seed_and_step_alone(latents: LatentSet) -> None:
    assert stream(latents).digest(7) == stream(latents).digest(7)
    assert stream(latents).digest(7) != stream(latents, seed=4).digest(7)
    assert stream(latents).digest(7) != stream(latents).digest(6)


def test_loss_weights_by_hand() -> None:
    schedule = NoiseSchedule(latent_scale=0.7)
    alpha = float(schedule.alphas_cumprod[600])
    expected = 0.2 * (1 - alpha) / (alpha * 0.49)
    weights = loss_weights(schedule, 0.2)
    assert 1 < expected < 20
    assert weights[600].item() == pytest.approx(expected, rel=1e-4)
    assert (weights[0].item(), weights[999].item()) == (1, 20)
    assert loss_weights(schedule, 0.0).unique().tolist() == [1]


def test_an_epoch_shows_every_sample_once(latents: LatentSet) -> None:
    seen = torch.cat([stream(latents).draw(step).index for step in range(3)])
    assert sorted(seen.tolist()) == list(range(12))


@pytest.mark.parametrize("recipe", ["image", "full", "partial"])
def test_a_recipe_moves_what_it_names_and_nothing_else(
    recipe: Recipe, tiny_system: VideoSystem, latents: LatentSet, tmp_path: Path
) -> None:
    trained = trained_parameters(tiny_system, recipe)
    before = {name: p.detach().clone() for name, p in _all(tiny_system).items()}
    train_diffusion(tiny_system, stream(latents), recipe, loop(2), tmp_path, gamma=0.2)
    changed = {name for name, p in _all(tiny_system).items() if not torch.equal(p, before[name])}
    assert changed <= set(trained)
    groups = {name.split(".")[1] for name in changed}
    assert "fps_embedding" in groups
    assert ("time_embedding" in groups) == (recipe != "partial")
    assert ("conv_in" in groups) == (recipe != "partial")
    assert ("init_attention" in groups) == (recipe != "image")
    assert all(name.startswith("unet.") for name in changed)


def _all(system: VideoSystem) -> dict[str, nn.Parameter]:
    return {f"{part}.{name}": p for part, module in system.modules().items() for name, p in module.named_parameters()}


def test_encoded_latents_are_the_posterior_and_are_kept(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    from perturb.data.shapes import WORDS

    system = build_system(tiny_spec, FileTokenizer.from_words(WORDS, tiny_spec.text.tokens))
    data = WorldData(kind="clips", grade="low", count=3, seed=1)
    made = encode_world(system, data, tmp_path)
    frames = torch.from_numpy(data.frames(2)).permute(3, 0, 1, 2)[None].float().div(127.5).sub(1)
    mean, _ = system.posterior(frames)
    torch.testing.assert_close(made.mean[2], mean[0].half(), atol=2e-3, rtol=2e-3)
    (file,) = tmp_path.glob("*.safetensors")
    written = file.stat().st_mtime_ns
    again = encode_world(system, data, tmp_path)
    assert file.stat().st_mtime_ns == written
    assert torch.equal(again.mean, made.mean)


def test_autoencoder_batches_begin_as_crops_around_the_object() -> None:
    data = VAEData(seed=1, batch_size=3, crop=32, crop_steps=1)
    crops, frames = data.batch(0), data.batch(1)
    assert (tuple(crops.shape), tuple(frames.shape)) == ((6, 3, 32, 32), (3, 3, 64, 64))
    chroma = [float((batch.amax(1) - batch.amin(1)).mean()) for batch in (crops, frames)]
    assert chroma[0] > 1.5 * chroma[1]
