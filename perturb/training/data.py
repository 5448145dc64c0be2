"""From the data section of a training's configuration to batches, held-out samples, and words for the manifest."""

import dataclasses
import functools
from dataclasses import asdict

import torch
from accelerate import Accelerator

from perturb.data.prompts import load_prompts
from perturb.errors import UserError
from perturb.loop.config import StageConfig
from perturb.loop.schedule import stage_seed
from perturb.models.videocrafter.system import VideoSystem
from perturb.nano.latents import LatentSet, WorldData, encode_world, latent_std
from perturb.nano.stream import Stream, WorldBatches
from perturb.store.paths import resolve
from perturb.training.config import TrainConfig
from perturb.training.files import TrainingData, as_trained, file_data, held_out
from perturb.training.validation import HeldOut, Validation, ValidationConfig

ONLY_FILES = ("prefetch", "threads", "max_broken_fraction")
"""Settings of data that mean nothing for the embedded world."""


def training_data(config: TrainConfig, system: VideoSystem, accelerator: Accelerator) -> TrainingData:
    """The data of a training. Latents of the embedded world are encoded here, once, by the first process.

    A fresh nano gets its latent scale from them: the inverse of their standard deviation.
    """
    for number, stage in enumerate(config.stages):
        _check_size(system, stage, number)
    if config.data.world is None and config.data.world_stills is None:
        return file_data(config, system)
    with accelerator.main_process_first():  # the others find what the first has put into the cache
        clips, stills = (_latents(config, system, data) for data in (config.data.world, config.data.world_stills))
    main = clips or stills
    assert main is not None
    if config.init_kind == "autoencoder":
        vae = dataclasses.replace(system.spec.vae, scale_factor=1 / latent_std(main))
        system.spec = dataclasses.replace(system.spec, vae=vae)
    batches = functools.partial(_world_batches, config, system, main, stills if clips else None)
    data = {k: v for k, v in asdict(config.data).items() if v is not None and k not in ONLY_FILES}
    sizes = [asdict(stage) | {"learning_rate": None} for stage in config.stages]  # what decides which samples are seen
    return TrainingData(batches, data | {"text_dropout": config.loss.text_dropout, "stages": sizes})


def _latents(config: TrainConfig, system: VideoSystem, data: WorldData | None) -> LatentSet | None:
    return None if data is None else encode_world(system, data, resolve(config.cache))


def _world_batches(
    config: TrainConfig, system: VideoSystem, main: LatentSet, stills: LatentSet | None, number: int
) -> WorldBatches:
    stage = config.stages[number]

    def stream(latents: LatentSet) -> Stream:
        still = latents.mean.shape[2] == 1
        if still and config.data.still_fps is not None:
            latents = dataclasses.replace(latents, fps=torch.full_like(latents.fps, config.data.still_fps))
        repeated = still and config.data.as_video == "repeat"
        return Stream(
            latents=latents,
            batch_size=stage.batch_size,
            seed=stage_seed(config.seed, number),
            text_dropout=config.loss.text_dropout,
            timesteps=system.spec.schedule.timesteps,
            frames=(stage.frames or system.spec.sampling.frames) if repeated else None,
        )

    assert config.trained is not None
    return WorldBatches(
        system,
        stream(main),
        stills=None if stills is None else stream(stills),
        image_share=config.data.image_share,
        offset_noise=config.loss.offset_noise,
        text_ids=config.trained.text_encoder,
    )


def validation(config: TrainConfig, system: VideoSystem, accelerator: Accelerator) -> Validation | None:
    """What the configuration wants measured during training, None where it wants nothing."""
    wanted = config.validation
    if wanted is None:
        return None
    with accelerator.main_process_first():
        held_out = _held_out(config, wanted, system)
    prompts = [] if wanted.prompts is None else load_prompts(wanted.prompts, wanted.limit)
    return Validation(
        system,
        held_out,
        prompts,
        wanted,
        stages=config.stages,
        accelerator=accelerator,
        folder=resolve(config.work),
    )


def _held_out(config: TrainConfig, wanted: ValidationConfig, system: VideoSystem) -> HeldOut:
    if wanted.world is None:
        return held_out(config, wanted, system)
    trained_on = {data.seed for data in (config.data.world, config.data.world_stills) if data is not None}
    if wanted.world.seed in trained_on:
        raise UserError(
            f"validation.world.seed is {wanted.world.seed}, whose scenes are trained on; allowed: any other number"
        )
    latents = encode_world(system, dataclasses.replace(wanted.world, count=wanted.count), resolve(config.cache))
    x0 = as_trained(system.spec.vae.scale_factor * latents.mean.float(), config, system)
    return HeldOut(x0, latents.captions, torch.as_tensor(latents.fps))


def _check_size(system: VideoSystem, stage: StageConfig, number: int) -> None:
    for name in ("height", "width"):
        value = getattr(stage, name)
        if value is not None and value % system.spec.size_multiple:
            allowed = f"multiples of {system.spec.size_multiple}"
            raise UserError(f"stages[{number}].{name} is {value}; allowed for {system.spec.name}: {allowed}")
