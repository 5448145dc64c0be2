"""Run by torchrun in two processes: trains the tiny model in each of the ways that the arguments name.

Arguments: the folder of the model, a folder to write to, and the ways: ddp and fsdp on made-up latents, shards on the
stills in ``tars/*.tar`` of that folder. Every training is done a second time, from the checkpoint in its middle on.
Written to ``<way>/``: what each process was given (``given_<rank>.pt``), the weights and the stream of both trainings.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file

from perturb.data.feed import FeedConfig, open_feed
from perturb.data.prompts import Prompt
from perturb.data.shards import ImageShards
from perturb.loop.config import StageConfig
from perturb.loop.processes import sharding_plugin
from perturb.loop.task import Batches
from perturb.models.videocrafter.checkpoint import load_system
from perturb.models.videocrafter.system import VideoSystem
from perturb.nano.latents import WorldData
from perturb.training.feeds import FeedBatches, FeedSettings
from perturb.training.validation import HeldOut, Validation, ValidationConfig
from tests.unit.training_case import loop, made_up_batches, made_up_latents, train_tiny

STEPS, MIDDLE = {"ddp": 2, "fsdp": 2, "shards": 3}, 1
LOOP = loop(log_every=1, save_every=1, keep_last=3)


def read_shards(system: VideoSystem, folder: Path) -> FeedBatches:
    """Stills of the shards in ``folder``; a step of four comes from two processes."""
    size = FeedConfig(seed=5, batch_size=4, frames=1, height=32, width=32)
    settings = FeedSettings(
        seed=5, text_dropout=0.3, offset_noise=0.0, frames=None, still_fps=8, text_ids=False, prefetch=True
    )
    return FeedBatches(system, open_feed(ImageShards(str(folder), shuffle=2), size), settings)


def watch(batches: Any) -> dict[int, Any]:
    """Step → what the objective is given and the keys of its samples, from now on."""
    given: dict[int, Any] = {}
    inputs = batches.inputs

    def kept(step: int, places: range, loaded: Any) -> tuple[Any, ...]:
        keys = [sample.key for sample in loaded] if isinstance(loaded, list) else None
        given[step] = {"inputs": inputs(step, places, loaded), "keys": keys}
        return given[step]["inputs"]

    batches.inputs = kept
    return given


def measure(system: VideoSystem, work: Path) -> Callable[[Accelerator], Validation]:
    """Every second step: the loss of four made-up clips, and a sampled one."""
    latents = made_up_latents(system)
    held_out = HeldOut(latents.mean[:4].float(), latents.captions[:4], latents.fps[:4])
    world = WorldData(kind="clips", grade="low", count=4, seed=1)
    config = ValidationConfig(every=2, world=world, count=4, timesteps=(500,), sampler_steps=2)
    return lambda accelerator: Validation(
        system,
        held_out,
        [Prompt("p0", latents.captions[0])],
        config,
        stages=[StageConfig(steps=9, batch_size=4)],
        accelerator=accelerator,
        folder=work,
    )


def shard(accelerator: Accelerator) -> None:
    """FSDP2 on the CPU, which accelerate itself offers on GPUs only: the same plugin and the same code behind it."""
    accelerator.state.fsdp_plugin = sharding_plugin("float32")
    accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP


def train(model: str, folder: Path, way: str, work: Path, *, measured: bool) -> None:
    """One training, with validation if ``measured``; whatever the test wants to know of it goes to ``work``."""
    system = load_system(model)
    batches: Batches = read_shards(system, folder / "tars") if way == "shards" else made_up_batches(system)
    given = watch(batches)
    prepare: Callable[[Accelerator], None] = shard if way == "fsdp" else lambda _: None
    more: dict[str, Any] = {"validation": measure(system, work)} if measured else {}
    trace = train_tiny(system, work, loop=LOOP, steps=STEPS[way], batches=batches, prepare=prepare, **more)
    state = PartialState()
    assert state.num_processes == 2, state
    torch.save(given, work / f"given_{state.process_index}.pt")
    (work / f"stream_{state.process_index}.txt").write_text(trace.outcome.stream)
    if state.is_main_process:
        save_file(dict(system.unet.state_dict()), work / "unet.safetensors")


def main() -> None:
    model, folder, *ways = sys.argv[1:]
    for way in ways:
        work = Path(folder) / way
        train(model, Path(folder), way, work, measured=way != "shards")
        state = PartialState()
        if state.is_main_process:
            middle = Path("checkpoints", f"step_{MIDDLE:06d}")
            shutil.copytree(work / middle, work / "again" / middle)
        state.wait_for_everyone()
        train(model, Path(folder), way, work / "again", measured=False)
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
