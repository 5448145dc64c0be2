"""A training of the tiny model on made-up latents, small enough for a test, and the same for several processes.

Run as a script by torchrun: arguments are the folder of the tiny model, a work folder, the settings as json, and
"ddp" or "fsdp". It trains, then goes on from the checkpoint in the middle with a second copy, which must end alike.
"""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from torch import Tensor

from perturb.stages.latents import LatentSet
from perturb.stages.train_diffusion import Run, Trace, train_diffusion
from perturb.stages.train_world import Stream, WorldBatches
from perturb.stages.training.config import LoggingConfig, LoopConfig, StageConfig
from perturb.stages.training.processes import make_accelerator, sharding_plugin
from perturb.stages.training.recipes import Trained
from perturb.structured import read
from perturb.videocrafter.checkpoint import load_system
from perturb.videocrafter.system import VideoSystem

FULL = Trained(groups=("spatial", "temporal", "conditioning"), fps_embedding=True)
QUIET = LoggingConfig(tensorboard=False)
CAPTIONS = ["a red circle", "a blue square", "a green star"]


def made_up_latents(system: VideoSystem, count: int = 12, frames: int = 4) -> LatentSet:
    shape = (count, 4, frames, 32 // system.spec.downsampling, 32 // system.spec.downsampling)
    mean = torch.randn(shape, generator=torch.Generator().manual_seed(0)).half()
    captions = [CAPTIONS[i % len(CAPTIONS)] for i in range(count)]
    return LatentSet(mean, torch.full(shape, 0.1).half(), captions, torch.full((count,), 8))


def made_up_stream(latents: LatentSet, *, batch_size: int = 4, seed: int = 3, frames: int | None = None) -> Stream:
    return Stream(latents=latents, batch_size=batch_size, seed=seed, text_dropout=0.3, timesteps=1000, frames=frames)


def loop(**changes: Any) -> LoopConfig:
    settings = {"learning_rate": 1e-2, "warmup_steps": 2, "log_every": 2, "save_every": 2}
    return LoopConfig(**(settings | changes))


def train_tiny(
    system: VideoSystem,
    work: Path,
    trained: Trained = FULL,
    *,
    loop: LoopConfig,
    steps: int = 3,
    batch_size: int = 4,
    prepare: Callable[[Accelerator], None] = lambda _: None,
) -> Trace:
    """Train ``system`` in place on made-up latents."""
    stream = made_up_stream(made_up_latents(system), batch_size=batch_size)
    accelerator = make_accelerator(loop, device="cpu", folder=work, logging=QUIET)
    prepare(accelerator)
    run = Run(
        trained=trained,
        stages=[StageConfig(steps=steps, batch_size=batch_size)],
        batches=lambda _: WorldBatches(system, stream, text_ids=trained.text_encoder),
        loop=loop,
        gamma=0.2,
        seed=stream.seed,
        folder=work,
        adapter=work / "adapter",
        title="test",
        identity={"data": "made up"},
    )
    return train_diffusion(system, run, accelerator)


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float:
    """‖θ₁ − θ₂‖/‖θ₂ − θ₀‖; elementwise, AdamW would blow up the round-off of gradients that are nearly zero."""
    return (_square(one, other) / _square(other, start)) ** 0.5


def _square(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return sum(float((one[name] - other[name]).double().square().sum()) for name in one)


def shard(accelerator: Accelerator) -> None:
    """FSDP2 on the CPU, which accelerate itself offers on GPUs only: the same plugin and the same code behind it."""
    accelerator.state.fsdp_plugin = sharding_plugin("float32")
    accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP


def main() -> None:
    model, work, settings, kind = sys.argv[1:]
    prepare = {"ddp": lambda _: None, "fsdp": shard}[kind]
    folder, loop = Path(work), read(LoopConfig, json.loads(settings))
    system = load_system(model)
    trace = train_tiny(system, folder, loop=loop, prepare=prepare)
    state = PartialState()
    assert state.num_processes == 2, state
    if state.is_main_process:
        save_file(dict(system.unet.state_dict()), folder / "unet.safetensors")
        (folder / "stream.txt").write_text(trace.outcome.stream)
        shutil.copytree(folder / "checkpoints" / "step_000002", folder / "again" / "checkpoints" / "step_000002")
    state.wait_for_everyone()
    again = load_system(model)
    train_tiny(again, folder / "again", loop=loop, prepare=prepare)
    if state.is_main_process:
        weights = again.unet.state_dict()
        assert all(torch.equal(weights[name], x) for name, x in system.unet.state_dict().items()), "resumed otherwise"
    state.destroy_process_group()


if __name__ == "__main__":
    main()
