"""Training of the denoiser: the numbers of one step by hand, what each recipe moves, and proofs of twins."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from perturb.diffusion import Conditioning
from perturb.diffusion.loss import epsilon_loss
from perturb.errors import UserError
from perturb.loop.loop import Loop
from perturb.loop.task import Outcome
from perturb.models.partition import Partition
from perturb.models.videocrafter.checkpoint import save_system
from perturb.models.videocrafter.system import VideoSystem
from perturb.nano.latents import LatentSet
from perturb.nn import VideoUNet
from perturb.perturbation import LoraPerturbation
from perturb.perturbation.base import parts
from perturb.training.recipes import LoraConfig, Trained, trained_parameters
from perturb.training.twins import differences, read_member, write_trace
from tests.unit.training_case import FULL, apart, loop, made_up_latents, made_up_stream, train_tiny

IMAGE = Trained(group="spatial", time_embedding=True, fps_embedding=True, text_encoder=True)
PARTIAL = Trained(group="temporal", time_embedding=False, fps_embedding=True)


def direct(group: Literal["spatial", "temporal", "both"], lora: LoraConfig | None = None) -> Trained:
    return Trained(group=group, time_embedding=False, fps_embedding=False, lora=lora)


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
    scale = system.spec.vae.scale_factor
    optimiser = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    average, losses = [p.detach().clone() for p in trained], []
    for step in range(steps):
        d = stream.draw(step)
        x0 = scale * (latents.mean[d.index].float() + latents.std[d.index].float() * d.posterior_noise)
        words = ["" if gone else latents.captions[i] for i, gone in zip(d.index, d.dropped, strict=True)]
        cond = Conditioning(system.embed(words), latents.fps[d.index])
        loss = epsilon_loss(system.denoise, system.schedule, x0, d.timestep, d.noise, cond).mean()
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


def test_the_loop_computes_what_is_written_out_by_hand(tiny_system: VideoSystem, latents: LatentSet, tmp_path: Path):
    for layer in [module for module in tiny_system.unet.modules() if isinstance(module, nn.Dropout)]:
        layer.p = 0.0
    start = copies(tiny_system)
    losses = by_hand(tiny_system, latents, 3)
    expected = copies(tiny_system)
    tiny_system.unet.load_state_dict({n.removeprefix("unet."): x for n, x in start.items() if n.startswith("unet.")})
    trace = train_tiny(tiny_system, tmp_path, loop=loop(log_every=1))
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


# what moves --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (IMAGE, {"spatial", "time_embedding", "fps_embedding", "text_encoder"}),
        (FULL, {"spatial", "temporal", "time_embedding", "fps_embedding"}),
        (PARTIAL, {"temporal", "fps_embedding"}),
        (dataclasses.replace(PARTIAL, fps_embedding=False), {"temporal"}),
        (direct("spatial"), {"spatial"}),
        (direct("both"), {"spatial", "temporal"}),
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


@pytest.mark.parametrize("group", ["spatial", "both"])
def test_low_rank_training_moves_the_layers_of_its_group_by_the_adapter_it_saves(
    group: Literal["spatial", "both"], tiny_system: VideoSystem, tmp_path: Path
):
    before, partition = copies(tiny_system), Partition.of(tiny_system.unet)
    plain = {name: tensor.clone() for name, tensor in tiny_system.unet.state_dict().items()}
    trained = direct(group, LoraConfig(rank=2, alpha=2.0))
    trace = train_tiny(tiny_system, tmp_path, trained, loop=loop(), steps=2)
    layers = {f"unet.{name}.weight" for part in parts(group) for name in partition.layers(part)}
    assert changed(tiny_system, before) <= layers == set(trace.moved)
    assert changed(tiny_system, before)
    assert type(tiny_system.unet) is VideoUNet
    assert set(tiny_system.unet.state_dict()) == set(plain)  # no wrapper is left
    after = {name: tensor.clone() for name, tensor in tiny_system.unet.state_dict().items()}
    tiny_system.unet.load_state_dict(plain)
    adapter = LoraPerturbation.restore(tiny_system.unet, tmp_path / "adapter")
    merged = adapter.merged_copy(tiny_system.unet).state_dict()
    assert all(torch.equal(merged[name], after[name]) for name in after)


def test_a_frozen_tensor_that_moved_ends_a_training(
    tiny_system: VideoSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def train_and_touch(loop: Loop) -> Outcome:
        outcome = run(loop)
        with torch.no_grad():
            tiny_system.unet.get_parameter("conv_in.bias")[0] += 1e-6
        return outcome

    run = Loop.run
    monkeypatch.setattr(Loop, "run", train_and_touch)
    with pytest.raises(RuntimeError, match=r"changed 1 tensors that were frozen, e\.g\. \['unet\.conv_in\.bias'\]"):
        train_tiny(tiny_system, tmp_path, PARTIAL, loop=loop(), steps=1)


def test_low_rank_training_takes_no_conditioning():
    with pytest.raises(UserError, match=r"trained\.lora puts factors on spatial and temporal layers only"):
        Trained(group="spatial", time_embedding=False, fps_embedding=True, lora=LoraConfig())


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
