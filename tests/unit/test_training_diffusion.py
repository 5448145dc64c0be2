"""Training of the denoiser: the numbers of one step by hand, what each recipe moves, streams, and proofs of twins."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perturb.diffusion import Conditioning, NoiseSchedule, sample_generator
from perturb.diffusion.loss import epsilon_loss
from perturb.errors import UserError
from perturb.nn import VideoUNet
from perturb.partition import Partition
from perturb.perturbation import LoraPerturbation
from perturb.stages.latents import LatentSet, WorldData, encode_world
from perturb.stages.train_vae import AutoencoderObjective, VAEBatches, VAEData
from perturb.stages.train_world import Captions, WorldBatches
from perturb.stages.training.objective import loss_weights
from perturb.stages.training.recipes import LoraConfig, Trained, trained_parameters
from perturb.stages.twins import differences, read_member, write_trace
from perturb.videocrafter.checkpoint import save_system
from perturb.videocrafter.encoders import build_vae
from perturb.videocrafter.spec import ModelSpec
from perturb.videocrafter.system import VideoSystem, build_system
from perturb.videocrafter.tokenizer import FileTokenizer
from tests.unit.training_case import FULL, apart, loop, made_up_latents, made_up_stream, train_tiny

IMAGE = Trained(groups=("spatial", "conditioning"), fps_embedding=True, text_encoder=True)
PARTIAL = Trained(groups=("temporal",), fps_embedding=True)


@pytest.fixture
def latents(tiny_system: VideoSystem) -> LatentSet:
    return made_up_latents(tiny_system)


def parameters(system: VideoSystem) -> dict[str, nn.Parameter]:
    return {f"{part}.{name}": p for part, module in system.modules().items() for name, p in module.named_parameters()}


def copies(system: VideoSystem) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters(system).items()}


def changed(system: VideoSystem, before: dict[str, Tensor]) -> set[str]:
    return {name for name, p in parameters(system).items() if not torch.equal(p, before[name])}


# the mathematics ---------------------------------------------------------------------------------------------------


def by_hand(system: VideoSystem, latents: LatentSet, steps: int) -> list[float]:
    """The training loop written out, with AdamW of torch and nothing of ours but the networks and the stream."""
    stream, part = made_up_stream(latents), Partition.of(system.unet)
    names = [*part.names("spatial"), *part.names("temporal"), *part.names("conditioning")]
    trained = [system.unet.get_parameter(name) for name in names]
    system.unet.train()
    weights, scale = loss_weights(system.schedule, 0.2), system.spec.vae.scale_factor
    optimiser = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    average, losses = [p.detach().clone() for p in trained], []
    for step in range(steps):
        d = stream.draw(step)
        torch.manual_seed(sample_generator("dropout", stream.seed, step).initial_seed())
        x0 = scale * (latents.mean[d.index].float() + latents.std[d.index].float() * d.posterior_noise)
        words = ["" if gone else latents.captions[i] for i, gone in zip(d.index, d.dropped, strict=True)]
        cond = Conditioning(system.embed(words), latents.fps[d.index])
        loss = (
            weights[d.timestep] * epsilon_loss(system.denoise, system.schedule, x0, d.timestep, d.noise, cond)
        ).mean()
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * min(1.0, (step + 1) / 2) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        torch._foreach_lerp_(average, [p.detach() for p in trained], 1 - min(0.999, (1 + step) / (10 + step)))
        losses.append(loss.item())
    with torch.no_grad():
        for parameter, mean in zip(trained, average, strict=True):
            parameter.copy_(mean)
    return losses


def test_the_engine_computes_what_is_written_out_by_hand(tiny_system: VideoSystem, latents: LatentSet, tmp_path: Path):
    start = copies(tiny_system)
    losses = by_hand(tiny_system, latents, 3)
    expected = copies(tiny_system)
    tiny_system.unet.load_state_dict({n.removeprefix("unet."): x for n, x in start.items() if n.startswith("unet.")})
    trace = train_tiny(tiny_system, tmp_path, loop=loop(dropout="step", log_every=1))
    assert trace.outcome.last["loss"] == pytest.approx(losses[-1], rel=1e-5)
    # to round-off: the embedding of a caption depends on its batch in the last bits
    for name, parameter in parameters(tiny_system).items():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-4, atol=1e-6)


def test_dividing_a_batch_changes_round_off_alone(tiny_system: VideoSystem, tmp_path: Path):
    start = {name: tensor.clone() for name, tensor in tiny_system.unet.state_dict().items()}

    def trained(name: str, **changes: Any) -> dict[str, Tensor]:
        tiny_system.unet.load_state_dict(start)
        train_tiny(tiny_system, tmp_path / name, loop=loop(save_every=9, **changes), steps=2)
        return {name: tensor.clone() for name, tensor in tiny_system.unet.state_dict().items()}

    whole = trained("whole")
    assert apart(trained("parts", accumulation=2, gradient_checkpointing=True), whole, start) < 1e-3
    assert apart(trained("other masks", dropout="step"), whole, start) > 1e-2


def test_one_mask_for_a_batch_cannot_be_divided(tiny_system: VideoSystem, tmp_path: Path):
    with pytest.raises(UserError, match=r"loop\.dropout=step.*divided into 2 .*use loop\.dropout=place"):
        train_tiny(tiny_system, tmp_path, loop=loop(dropout="step", accumulation=2))


def test_loss_weights_by_hand():
    schedule = NoiseSchedule(latent_scale=0.7)
    alpha = float(schedule.alphas_cumprod[600])
    expected = 0.2 * (1 - alpha) / (alpha * 0.49)
    weights = loss_weights(schedule, 0.2)
    assert 1 < expected < 20
    assert weights[600].item() == pytest.approx(expected, rel=1e-4)
    assert (weights[0].item(), weights[999].item()) == (1, 20)
    assert loss_weights(schedule, 0.0).unique().tolist() == [1]
    pure_noise = NoiseSchedule(latent_scale=0.7, zero_terminal_snr=True)
    assert (loss_weights(pure_noise, 0.0)[-1].item(), loss_weights(pure_noise, 0.2)[-1].item()) == (1, 20)


# what moves --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (IMAGE, {"spatial", "time_embedding", "fps_embedding", "text_encoder"}),
        (FULL, {"spatial", "temporal", "time_embedding", "fps_embedding"}),
        (PARTIAL, {"temporal", "fps_embedding"}),
        (dataclasses.replace(PARTIAL, fps_embedding=False), {"temporal"}),
        (Trained(groups=("spatial",), fps_embedding=False), {"spatial"}),
        (Trained(groups=("spatial", "temporal"), fps_embedding=False), {"spatial", "temporal"}),
    ],
    ids=["image", "full", "partial", "partial without fps", "direct_spatial", "direct_both"],
)
def test_a_recipe_moves_what_it_names_and_nothing_else(
    trained: Trained, expected: set[str], tiny_system: VideoSystem, tmp_path: Path
):
    before, partition = copies(tiny_system), Partition.of(tiny_system.unet)
    trace = train_tiny(tiny_system, tmp_path, trained, loop=loop(), steps=1)
    moved = changed(tiny_system, before)
    assert moved <= set(trace.moved) == set(trained_parameters(tiny_system, trained))
    in_unet = {name.removeprefix("unet.") for name in moved if name.startswith("unet.")}
    found = {group for group in ("spatial", "temporal") if in_unet & set(partition.names(group))}
    found |= {name.split(".")[0] for name in in_unet & set(partition.names("conditioning"))}
    found |= {name.split(".")[0] for name in moved if not name.startswith("unet.")}
    assert found == expected
    unread = f"text_encoder.transformer.encoder.layers.{tiny_system.spec.text.layers - 1}."
    assert not any(name.startswith(unread) for name in trace.moved)


@pytest.mark.parametrize("groups", [("spatial",), ("spatial", "temporal")])
def test_low_rank_training_moves_the_layers_of_its_groups_by_the_adapter_it_saves(
    groups: tuple[Any, ...], tiny_system: VideoSystem, tmp_path: Path
):
    before, partition = copies(tiny_system), Partition.of(tiny_system.unet)
    plain = {name: tensor.clone() for name, tensor in tiny_system.unet.state_dict().items()}
    trained = Trained(groups=groups, fps_embedding=False, lora=LoraConfig(rank=2, alpha=2.0))
    trace = train_tiny(tiny_system, tmp_path, trained, loop=loop(), steps=2)
    layers = {f"unet.{name}.weight" for group in groups for name in partition.layers(group)}
    assert changed(tiny_system, before) <= layers == set(trace.moved)
    assert changed(tiny_system, before)
    assert type(tiny_system.unet) is VideoUNet
    assert set(tiny_system.unet.state_dict()) == set(plain)  # no wrapper is left
    after = {name: tensor.clone() for name, tensor in tiny_system.unet.state_dict().items()}
    tiny_system.unet.load_state_dict(plain)
    adapter = LoraPerturbation.restore(tiny_system.unet, tmp_path / "adapter")
    merged = adapter.merged(tiny_system.unet).state_dict()
    assert all(torch.equal(merged[name], after[name]) for name in after)


def test_low_rank_training_takes_no_conditioning():
    with pytest.raises(UserError, match=r"trained\.lora puts factors on spatial and temporal layers only"):
        Trained(groups=("spatial",), fps_embedding=True, lora=LoraConfig())


# streams -----------------------------------------------------------------------------------------------------------


def test_the_stream_depends_on_seed_and_step_alone(latents: LatentSet):
    assert made_up_stream(latents).digest(7) == made_up_stream(latents).digest(7)
    assert made_up_stream(latents).digest(7) != made_up_stream(latents, seed=4).digest(7)
    assert made_up_stream(latents).digest(7) != made_up_stream(latents).digest(6)


def test_an_epoch_shows_every_sample_once(latents: LatentSet):
    seen = torch.cat([made_up_stream(latents).draw(step).index for step in range(3)])
    assert sorted(seen.tolist()) == list(range(12))


def test_places_are_rows_of_the_global_batch(tiny_system: VideoSystem, latents: LatentSet):
    batches = WorldBatches(tiny_system, made_up_stream(latents), text_ids=False)
    whole, parts = batches.inputs(5, range(4)), [batches.inputs(5, range(i, i + 2)) for i in (0, 2)]
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
    assert batches.inputs(step, range(4))[0].shape[2] == 1
    assert batches.digest(9, list) != made_up_stream(latents).digest(9)


def test_a_repeated_still_is_one_latent_under_different_noise(tiny_system: VideoSystem):
    stills = made_up_latents(tiny_system, frames=1)
    x0, _, noise, *_ = WorldBatches(tiny_system, made_up_stream(stills, frames=4), text_ids=False).inputs(0, range(4))
    assert x0.shape == noise.shape
    assert torch.equal(x0, x0[:, :, :1].expand_as(x0))
    assert not torch.equal(noise[:, :, 0], noise[:, :, 1])


def test_offset_noise_moves_the_mean_of_the_noise_alone(tiny_system: VideoSystem, latents: LatentSet):
    stream = made_up_stream(latents)
    plain = WorldBatches(tiny_system, stream, text_ids=False).inputs(2, range(4))
    shifted = WorldBatches(tiny_system, stream, offset_noise=0.1, text_ids=False).inputs(2, range(4))
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


# the autoencoder ---------------------------------------------------------------------------------------------------


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
        whole = objective(*batches.inputs(0, range(4)))
        parts = [objective(*batches.inputs(0, range(i, i + 2))) for i in (0, 2)]
    torch.testing.assert_close(sum(parts) / 2, whole)


# twins -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def twins(tiny_system: VideoSystem, tmp_path: Path) -> tuple[Path, Path]:
    """Output folders of a fully and a partially trained tiny model from one init."""
    start = {name: tensor.clone() for name, tensor in tiny_system.unet.state_dict().items()}
    folders = []
    for name, trained in (("full", FULL), ("partial", PARTIAL)):
        tiny_system.unet.load_state_dict(start)
        trace = train_tiny(tiny_system, tmp_path / "work" / name, trained, loop=loop(), steps=1)
        folders.append(save_system(tiny_system, tmp_path / name))
        write_trace(tmp_path / name, trace)
        card = {"sample_stream_sha256": trace.outcome.stream, "data": {"count": 12}}
        (tmp_path / name / "training.json").write_text(json.dumps(card))
    return folders[0], folders[1]


def test_twins_are_known_and_what_breaks_them_is_named(twins: tuple[Path, Path], tiny_system: VideoSystem):
    full, partial = (read_member(folder) for folder in twins)
    assert differences(full, partial) == []
    other = dataclasses.replace(partial, card=partial.card | {"sample_stream_sha256": "0" * 64, "data": {"count": 13}})
    stream, data = differences(full, other)
    assert "the sample stream differs" in stream
    assert "'count': 13" in data
    elsewhere = {"unet": partial.init["unet"] | {"conv_in.weight": "0"}}
    began, moved = differences(full, dataclasses.replace(partial, init=partial.init | elsewhere))
    assert "different weights: 1 tensors" in began
    assert "unet.conv_in.weight" in moved
    nothing = dataclasses.replace(partial, trained=frozenset())
    (line,) = differences(full, nothing)
    assert "frozen tensors are not those of the init" in line
    with pytest.raises(UserError, match=r"lacks training\.json, hashes\.json"):
        read_member(twins[0].parent)
