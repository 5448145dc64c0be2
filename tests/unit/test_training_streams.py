"""What a training on the embedded world sees: draws by seed and step, stills among clips, latents, crops."""

from pathlib import Path

import pytest
import torch

from perturb.models.videocrafter.encoders import build_vae
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem, build_system
from perturb.models.videocrafter.tokenizer import FileTokenizer
from perturb.nano.autoencoder import AutoencoderObjective, VAEBatches, VAEData
from perturb.nano.latents import LatentSet, WorldData, encode_world
from perturb.nano.stream import Captions, WorldBatches
from tests.unit.training_case import drawn, made_up_latents, made_up_stream


@pytest.fixture
def latents(tiny_system: VideoSystem) -> LatentSet:
    return made_up_latents(tiny_system)


def test_the_stream_depends_on_seed_and_step_alone(latents: LatentSet):
    assert made_up_stream(latents).digest(7) == made_up_stream(latents).digest(7)
    assert made_up_stream(latents).digest(7) != made_up_stream(latents, seed=4).digest(7)
    assert made_up_stream(latents).digest(7) != made_up_stream(latents).digest(6)


def test_an_epoch_shows_every_sample_once(latents: LatentSet):
    seen = torch.cat([made_up_stream(latents).draw(step).index for step in range(3)])
    assert sorted(seen.tolist()) == list(range(12))


def test_places_are_rows_of_the_global_batch(tiny_system: VideoSystem, latents: LatentSet):
    batches = WorldBatches(tiny_system, made_up_stream(latents), text_ids=False)
    whole, parts = drawn(batches, 5, range(4)), [drawn(batches, 5, range(i, i + 2)) for i in (0, 2)]
    assert all(torch.equal(torch.cat([a, b]), all_) for a, b, all_ in zip(*parts, whole, strict=True))
    assert batches.digest(4, list) == made_up_stream(latents).digest(4)


def test_joint_steps_take_whole_batches_of_stills_at_the_share_asked_for(tiny_system: VideoSystem, latents: LatentSet):
    stills = made_up_latents(tiny_system, frames=1)
    batches = WorldBatches(
        tiny_system, made_up_stream(latents), stills=made_up_stream(stills), image_share=0.25, text_ids=False
    )
    frames = [batches.stream(step).latents.mean.shape[2] for step in range(400)]
    assert 70 < frames.count(1) < 130
    assert frames.count(1) + frames.count(4) == 400
    step = frames.index(1)
    assert drawn(batches, step, range(4))[0].shape[2] == 1
    assert batches.digest(9, list) != made_up_stream(latents).digest(9)


def test_a_repeated_still_is_one_latent_under_different_noise(tiny_system: VideoSystem):
    stills = made_up_latents(tiny_system, frames=1)
    x0, _, noise, *_ = drawn(WorldBatches(tiny_system, made_up_stream(stills, frames=4), text_ids=False), 0, range(4))
    assert x0.shape == noise.shape
    assert torch.equal(x0, x0[:, :, :1].expand_as(x0))
    assert not torch.equal(noise[:, :, 0], noise[:, :, 1])


def test_offset_noise_moves_the_mean_of_the_noise_alone(tiny_system: VideoSystem, latents: LatentSet):
    stream = made_up_stream(latents)
    plain = drawn(WorldBatches(tiny_system, stream, text_ids=False), 2, range(4))
    shifted = drawn(WorldBatches(tiny_system, stream, offset_noise=0.1, text_ids=False), 2, range(4))
    for number in (0, 1, 3, 4):
        assert torch.equal(plain[number], shifted[number])
    difference = shifted[2] - plain[2]
    assert difference.abs().max() > 0.01
    torch.testing.assert_close(difference, difference[:, :, :1, :1, :1].expand_as(difference), rtol=0, atol=1e-6)


def test_a_dropped_caption_is_the_empty_prompt(tiny_system: VideoSystem, latents: LatentSet):
    captions = Captions(tiny_system, latents, as_ids=True)
    ids = captions(torch.tensor([0, 1]), torch.tensor([False, True]))
    assert torch.equal(ids[0], tiny_system.tokenizer([latents.captions[0]])[0])
    assert torch.equal(ids[1], tiny_system.tokenizer([""])[0])


def test_encoded_latents_are_the_posterior_and_are_kept(tiny_spec: ModelSpec, tmp_path: Path):
    from perturb.world import WORDS

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


def test_autoencoder_batches_begin_as_crops_around_the_object():
    data = VAEData(seed=1, batch_size=3, crop=32, crop_steps=1)
    crops, frames = data.batch(0), data.batch(1)
    assert (tuple(crops.shape), tuple(frames.shape)) == ((6, 3, 32, 32), (3, 3, 64, 64))
    chroma = [float((batch.amax(1) - batch.amin(1)).mean()) for batch in (crops, frames)]
    assert chroma[0] > 1.5 * chroma[1]


def test_the_autoencoder_loss_of_a_batch_is_the_mean_over_its_parts(tiny_spec: ModelSpec):
    objective = AutoencoderObjective(build_vae(tiny_spec.vae), kl_weight=0.1)
    batches = VAEBatches(VAEData(seed=1, batch_size=4, crop_steps=1), torch.device("cpu"))
    with torch.no_grad():
        whole = objective(*drawn(batches, 0, range(4)))
        parts = [objective(*drawn(batches, 0, range(i, i + 2))) for i in (0, 2)]
    torch.testing.assert_close(sum(parts) / 2, whole)
