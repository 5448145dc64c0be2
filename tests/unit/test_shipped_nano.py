"""The shipped nano models against today's code: their recipes and the samples they saw are still the same."""

import json
from typing import Any

import pytest
import torch

from perturb.nano.latents import LatentSet
from perturb.nano.stream import Stream
from perturb.store.paths import resolve
from perturb.structured import read
from perturb.training.config import TrainConfig
from tests.unit.test_training_plan import composed

CARDS = {
    "nano_vae": "image/vae_training.json",
    "nano_image": "image/training.json",
    "nano_full": "full/training.json",
    "nano_partial": "partial/training.json",
    "nano_joint_full": "joint_full/training.json",
    "nano_joint_partial": "joint_partial/training.json",
}
PAIR = ("seed=44", "init=package:weights/nano/image", "share=../../../../perturb/weights/nano/image")
"""Of the joint twins: the pair, and whose autoencoder and text encoder they share."""
GONE = {"latent_std", "loop.dropout", "loss.gamma", "logging.tensorboard", "logging.wandb", "logging.project"}
"""Settings of the recorded trainings that had no effect and are no more, as the model card says."""

FILES_ONLY = {"data.prefetch", "data.threads", "data.max_broken_fraction", "tracker", "project"}
TRAINED = {
    ("spatial", "conditioning"): {"group": "spatial", "time_embedding": True},
    ("spatial", "temporal", "conditioning"): {"group": "both", "time_embedding": True},
    ("temporal",): {"group": "temporal", "time_embedding": False},
}
"""How groups were written then, and how they are now."""


def recorded(name: str) -> dict[str, Any]:
    return json.loads(resolve(f"package:weights/nano/{CARDS[name]}").read_text())


def leaves(values: Any, where: str = "") -> dict[str, Any]:
    """Dotted key → value."""
    if not isinstance(values, dict):
        return {where: values}
    parts = (leaves(value, f"{where}.{name}" if where else name) for name, value in values.items())
    return {key: value for part in parts for key, value in part.items()}


@pytest.mark.parametrize("name", CARDS)
def test_the_command_of_the_model_card_is_the_training_that_was_done(name: str):
    then = recorded(name)["config"]
    if then["validation"] and then["validation"]["prompts"]:  # where the file lies now
        then["validation"]["prompts"] = then["validation"]["prompts"].replace("data/shapes/", "world/")
    if "groups" in then.get("trained", {}):
        then["trained"] |= TRAINED[tuple(then["trained"].pop("groups"))]
    overrides = [f"experiment=train/{name}", "threads=1"]
    if (twin := name.removeprefix("nano_")).startswith("joint"):
        overrides += [*PAIR, f"work=runs/train/{twin}_44", f"output=runs/train/nano/{twin}_44"]
    now = leaves(composed(*overrides))
    assert {key: value for key, value in now.items() if key not in FILES_ONLY} == {
        key: value for key, value in leaves(then).items() if key not in GONE | FILES_ONLY
    }


def test_the_twins_would_see_the_samples_that_they_saw():
    config = read(TrainConfig, composed("experiment=train/nano_full"))
    assert config.data.world is not None
    count, (stage,) = config.data.world.count, config.stages
    empty = torch.zeros(count, 4, 8, 8, 8, dtype=torch.float16)  # draws depend on the shape alone
    stream = Stream(
        latents=LatentSet(empty, empty, [""] * count, torch.zeros(count)),
        batch_size=stage.batch_size,
        seed=config.seed,
        text_dropout=config.loss.text_dropout,
        timesteps=1000,
    )
    digests = {recorded(name)["sample_stream_sha256"] for name in ("nano_full", "nano_partial")}
    assert digests == {stream.digest(stage.steps)}


def test_the_joint_twins_saw_the_same_samples():
    full, partial = (recorded(f"nano_joint_{training}") for training in ("full", "partial"))
    assert full["sample_stream_sha256"] == partial["sample_stream_sha256"]
    assert full["init_sha256"] == partial["init_sha256"]
    assert full["oracle"] == partial["oracle"] == {"prompts": 128, "colour": 1.0, "shape": 1.0, "direction": 1.0}
