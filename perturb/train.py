"""`python -m perturb.train experiment=train/nano_full`: train a model of the embedded world from a recipe."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from perturb.command import run_command
from perturb.errors import UserError
from perturb.paths import resolve
from perturb.rundir import write_atomic
from perturb.stages.latents import WorldData, encode_world, latent_std
from perturb.stages.training_loop import LoopConfig
from perturb.structured import read


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training. ``init``: the folder to start from (``image``: the trained autoencoder; twins: the image model).

    ``work`` holds the log and the resumable state, ``output`` the finished system, ``share`` the sibling folder whose
    autoencoder, text encoder and tokenizer the finished system points to instead of carrying copies.
    For an image model, ``latent_std`` is the standard deviation that latents are scaled to, and ``text_steps`` how long
    the text encoder is taught (``perturb.stages.text_init``) before it is frozen.
    """

    recipe: Literal["vae", "image", "full", "partial"]
    init: str | None = None
    share: str | None = None
    work: str
    output: str
    cache: str
    data: WorldData | None = None
    loop: LoopConfig
    batch_size: int
    text_dropout: float = 0.1
    kl_weight: float = 1e-5
    crop_steps: int = 0
    gamma: float = 0.0
    latent_std: float = 1.0
    text_steps: int = 0
    seed: int
    threads: int | None = None


def train(values: dict[str, Any]) -> None:
    """Run the training that the resolved configuration describes; goes on with what was begun."""
    import torch

    config = read(TrainConfig, values)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    output = resolve(config.output)
    if (output / "training.json").is_file():
        print(f"already trained: {output} (delete it to train again)")
        return
    torch.manual_seed(config.seed)
    card = _train_vae(config, output) if config.recipe == "vae" else _train_unet(config, config.recipe, output)
    card |= {"config": values, "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    card |= {"torch": torch.__version__, "finished": time.strftime("%Y-%m-%d")}
    write_atomic(output / "training.json", json.dumps(card, indent=2) + "\n")
    print(f"trained {output}: {card['last']}")


def _train_vae(config: TrainConfig, output: Path) -> dict[str, Any]:
    from safetensors.torch import save

    from perturb.stages.train_vae import GRADES, VAEData, psnr, train_vae
    from perturb.stages.vae_init import pass_through
    from perturb.videocrafter.encoders import build_vae
    from perturb.videocrafter.nano import NANO

    vae = build_vae(NANO.vae)
    pass_through(vae)
    data = VAEData(seed=config.seed, batch_size=config.batch_size, crop_steps=config.crop_steps)
    last = train_vae(vae, data, config.loop, resolve(config.work), kl_weight=config.kl_weight)
    write_atomic(output / "vae.safetensors", save({k: v.contiguous() for k, v in vae.state_dict().items()}))
    return {
        "recipe": "vae",
        "last": last,
        "psnr_db": {grade: psnr(vae, grade, seed=config.seed + 1) for grade in GRADES},
    }


def _train_unet(config: TrainConfig, recipe: Literal["image", "full", "partial"], output: Path) -> dict[str, Any]:
    from perturb.stages.oracle_report import oracle_report
    from perturb.stages.text_init import teach_labels
    from perturb.stages.train_diffusion import Stream, train_diffusion
    from perturb.videocrafter.checkpoint import load_system, save_system

    if config.data is None or config.init is None:
        raise UserError(f"recipe {recipe!r} needs data and init; see conf/experiment/train/nano_{recipe}.yaml")
    system = _fresh_image_system(config) if recipe == "image" else load_system(config.init)
    latents = encode_world(system, config.data, resolve(config.cache))
    if recipe == "image":
        scaled = dataclasses.replace(system.spec.vae, scale_factor=config.latent_std / latent_std(latents))
        system.spec = dataclasses.replace(system.spec, vae=scaled)
    stream = Stream(
        latents=latents,
        batch_size=config.batch_size,
        seed=config.seed,
        text_dropout=config.text_dropout,
        timesteps=system.spec.schedule.timesteps,
    )
    named = teach_labels(system, steps=config.text_steps, seed=config.seed) if config.text_steps else None
    card: dict[str, Any] = {} if named is None else {"text_labels_named": named}
    card |= train_diffusion(system, stream, recipe, config.loop, resolve(config.work), gamma=config.gamma)
    shared = None
    if config.share is not None:
        files = {"vae": "vae.safetensors", "text_encoder": "text_encoder.safetensors", "tokenizer": "tokenizer.json"}
        shared = {component: f"{config.share}/{file}" for component, file in files.items()}
    save_system(system, output, shared=shared)
    if recipe != "image":
        card["oracle"] = oracle_report(system)
    return card | {"init": config.init, "init_sha256": system.provenance.get("sha256")}


def _fresh_image_system(config: TrainConfig) -> Any:
    """An untrained nano with the trained autoencoder of ``init``; its temporal modules are the identity."""
    from safetensors.torch import load_file

    from perturb.data.shapes.world import WORDS
    from perturb.videocrafter.nano import NANO
    from perturb.videocrafter.system import build_system
    from perturb.videocrafter.tokenizer import FileTokenizer

    system = build_system(NANO, FileTokenizer.from_words(WORDS, NANO.text.tokens))
    system.vae.load_state_dict(load_file(resolve(str(config.init)) / "vae.safetensors"))
    return system


def main() -> None:
    """The command."""
    run_command(train, "train")


if __name__ == "__main__":
    main()
