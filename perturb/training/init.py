"""What a training starts from."""

import dataclasses

import torch

from perturb.errors import UserError
from perturb.models.videocrafter.checkpoint import load_system
from perturb.models.videocrafter.published import get_spec
from perturb.models.videocrafter.system import VideoSystem, build_schedule, build_system
from perturb.store.paths import resolve
from perturb.training.config import INIT_HELP, TrainConfig


def initial_system(config: TrainConfig, device: torch.device) -> VideoSystem:
    """The system before training, in float32 on ``device``; fresh weights come from torch's global random state.

    Its ``provenance`` says what it was made from. UserError for an init that is not there.
    """
    assert config.init is not None
    if not resolve(config.init).exists():
        raise UserError(f"init={config.init} does not exist; give {INIT_HELP[config.init_kind]}")
    if config.init_kind == "autoencoder":
        system = _around_autoencoder(config)
    elif config.init_kind in ("stable_diffusion", "scratch"):
        system = _from_stable_diffusion(config)
    else:
        system = load_system(config.init, config.init_spec)
    if system.image_encoder is not None:
        raise UserError(f"{system.spec.name} is conditioned on images, which cannot be trained here; use a text model")
    if config.loss.zero_terminal_snr:
        schedule = dataclasses.replace(system.spec.schedule, zero_terminal_snr=True)
        system.spec = dataclasses.replace(system.spec, schedule=schedule)
        system.schedule = build_schedule(schedule)
        system.extra = {}  # an official file's noise tables are those of the other schedule
    return system.to(device)


def _around_autoencoder(config: TrainConfig) -> VideoSystem:
    """An untrained nano with the trained autoencoder of ``init``; its temporal modules are the identity."""
    from safetensors.torch import load_file

    from perturb.models.videocrafter.nano import NANO
    from perturb.models.videocrafter.tokenizer import FileTokenizer
    from perturb.nano.text_encoder import teach_labels
    from perturb.world.scenes import WORDS

    system = build_system(NANO, FileTokenizer.from_words(WORDS, NANO.text.tokens))
    system.vae.load_state_dict(load_file(resolve(str(config.init)) / "vae.safetensors"))
    system.provenance = {"checkpoint": config.init, "spec": NANO.name}
    if config.text_steps:
        named = teach_labels(system, steps=config.text_steps, seed=config.seed)
        system.provenance["text_labels_named"] = named
    return system


def _from_stable_diffusion(config: TrainConfig) -> VideoSystem:
    """All that Stable Diffusion has; from ``scratch`` its autoencoder and text encoder, around a fresh denoiser."""
    from perturb.models.videocrafter.sd import init_from_stable_diffusion

    if config.init_spec is None:
        raise UserError(f"init_kind={config.init_kind} needs init_spec: the model to fill, for example t2v_512_v2")
    system = build_system(get_spec(config.init_spec))
    report = init_from_stable_diffusion(system, str(config.init))
    system.provenance["stable_diffusion"] = report.describe()
    if config.init_kind == "scratch":
        system.unet = system.spec.build_unet().eval()
        system.provenance["unet"] = "fresh"
    return system
