"""`plan=true` for a training: memory per GPU and arithmetic, from the architecture alone; nothing is loaded or trained.

Parameters are counted and activations measured on the meta device. Time is operations over the speed of one convolution
of the network's own size, measured on this machine now: an estimate, and an upper bound of what is reached.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from perturb.cli.plan import BYTES, GIB, gradient_cost, span, speed
from perturb.errors import UserError
from perturb.loop.config import StageConfig, check_division
from perturb.loop.processes import pick_device
from perturb.models.videocrafter.files import read_json
from perturb.models.videocrafter.folder import SPEC_FILE
from perturb.models.videocrafter.nano import NANO
from perturb.models.videocrafter.skeleton import skeleton
from perturb.models.videocrafter.spec import ModelSpec, get_spec
from perturb.models.videocrafter.system import VideoSystem
from perturb.store.paths import resolve
from perturb.structured import MISSING_VALUE, read
from perturb.training.config import TrainConfig
from perturb.training.objective import BLOCKS
from perturb.training.recipes import Adapter, Trained, trained_parameters

STATE_BYTES = {"weights": 4, "gradients": 4, "optimiser": 8, "average": 4}
"""Float32: AdamW keeps two averages of each gradient, and the EMA one of each weight. All but weights: trained only."""


@dataclass(frozen=True)
class Memory:
    """Bytes in one process; ``encoders`` are the frozen autoencoder and text encoder, which are never sharded.

    ``gathered``: whole weights of the two largest blocks, which FSDP2 has in memory while one computes.
    """

    weights: float
    gradients: float
    optimiser: float
    average: float
    encoders: float
    gathered: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class StageCost:
    """One stage: tokens (latent positions) and operations of one clip, bytes kept for its backward pass.

    ``kept``: with gradient checkpointing or without, in the precision of the loop.
    """

    tokens: int
    flops: float
    kept: Mapping[bool, float]


def print_training_plan(values: Mapping[str, Any]) -> None:
    """Print what a training would move, its memory per process, and how long its stages take."""
    config = read(TrainConfig, _given(values))
    if config.trained is None:
        raise UserError("plan=true reckons with the denoiser; the autoencoder of the embedded world trains in minutes")
    check_division(config.stages, config.plan_processes, config.loop.accumulation)
    spec = architecture(config)
    system, names = meta_system(spec, config.trained)
    memory = state_memory(config, system, names)
    device = pick_device(config.device)
    rate = speed(spec, device, config.loop.precision)
    lines = {
        "training": f"{config.recipe} of {spec.name}: {config.trained.describe()}",
        "parameters": f"{_count(system, names):,} trained of {_total(system):,} in the network",
        "processes": f"{config.plan_processes}, {'sharded (FSDP2)' if _sharded(config) else 'each with all weights'}",
        **{f"memory: {name}": _gib(getattr(memory, name)) for name in (*STATE_BYTES, "encoders", "gathered")},
        "memory: together": f"{_gib(memory.total)} per process, before activations",
    }
    for number, stage in enumerate(config.stages):
        cost = stage_cost(config, system, stage)
        lines |= _stage_lines(config, number, cost, memory, rate=rate)
    lines["speed"] = f"{rate / 1e12:.3g} TFLOP/s per process, one convolution measured now on {device} (an upper bound)"
    width = max(map(len, lines)) + 2
    print("\n".join(f"{name:{width}}{text}" for name, text in lines.items()))


def architecture(config: TrainConfig) -> ModelSpec:
    """The spec of the model to be trained, without reading weights."""
    if config.init_kind == "autoencoder":
        return NANO
    folder = resolve(str(config.init))
    if (folder / SPEC_FILE).is_file():
        return ModelSpec.from_dict(read_json(folder / SPEC_FILE)["spec"])
    if config.init_spec is None:
        given = "" if config.init == MISSING_VALUE else f"init={config.init} is no folder of ours (not trained yet?); "
        raise UserError(
            f"the architecture is unknown: {given}give init, a folder of ours (package:weights/nano/image is one), or "
            "init_spec, for example t2v_512_v2"
        )
    return get_spec(config.init_spec)


def meta_system(spec: ModelSpec, trained: Trained) -> tuple[VideoSystem, list[str]]:
    """The system on the meta device, only what is trained with gradients, and the names of that."""
    parts = skeleton(spec)
    # no word is read, so that there need be no tokenizer
    system = VideoSystem(spec=spec, tokenizer=typing.cast(Any, None), **typing.cast(dict[str, Any], parts))
    for module in parts.values():
        module.requires_grad_(False)
    if trained.lora is not None:
        return system, Adapter(system, trained, seed=0).names()
    parameters = trained_parameters(system, trained)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    return system, list(parameters)


def state_memory(config: TrainConfig, system: VideoSystem, names: list[str]) -> Memory:
    """Bytes of weights, gradients, optimiser and average in one process."""
    share = config.plan_processes if _sharded(config) else 1
    trained = _count(system, names)
    text = sum(p.numel() for p in system.text_encoder.parameters())
    in_objective = _total(system) + (text if config.trained is not None and config.trained.text_encoder else 0)
    encoders = sum(p.numel() for module in (system.vae, system.text_encoder) for p in module.parameters())
    return Memory(
        weights=STATE_BYTES["weights"] * in_objective / share,
        gradients=STATE_BYTES["gradients"] * trained / share,
        optimiser=STATE_BYTES["optimiser"] * trained / share,
        average=STATE_BYTES["average"] * trained / share,
        encoders=4 * (encoders + _total(system) - in_objective),
        gathered=BYTES[config.loop.precision] * sum(sorted(_block_sizes(system))[-2:]) if _sharded(config) else 0,
    )


def _block_sizes(system: VideoSystem) -> list[int]:
    """Parameters of every block of the UNet that is sharded as one."""
    blocks = (
        module for module in system.unet.modules() if type(module).__name__ in BLOCKS and module is not system.unet
    )
    return [sum(p.numel() for p in block.parameters()) for block in blocks]


def stage_cost(config: TrainConfig, system: VideoSystem, stage: StageConfig) -> StageCost:
    """Measured on the meta device for one clip of the stage, forward and backward."""
    spec, size = system.spec, system.spec.sampling
    frames = 1 if _stills_alone(config) else stage.frames or size.frames
    f = spec.downsampling
    h, w = (stage.height or size.height) // f, (stage.width or size.width) // f
    shape = (spec.vae.latent_channels, frames, h, w)
    bytes_share = BYTES[config.loop.precision] / 4
    costs = {flag: gradient_cost(system.unet, spec, shape, checkpointing=flag) for flag in (False, True)}
    kept = {flag: cost.kept * bytes_share for flag, cost in costs.items()}
    return StageCost(frames * h * w, costs[config.loop.gradient_checkpointing].flops, kept)


def _stage_lines(config: TrainConfig, number: int, cost: StageCost, memory: Memory, *, rate: float) -> dict[str, str]:
    stage, processes = config.stages[number], config.plan_processes
    micro = stage.batch_size // (processes * config.loop.accumulation)
    per_second = rate * processes / cost.flops * cost.tokens
    tokens = stage.batch_size * cost.tokens
    seconds = stage.steps * tokens / per_second
    without, with_ = (micro * cost.kept[flag] for flag in (False, True))
    chosen = with_ if config.loop.gradient_checkpointing else without
    name = f"stage {number + 1}"
    return {
        name: f"{stage.steps:,} steps of {stage.batch_size} ({micro} per process and micro-batch)",
        f"{name}: activations": f"{_gib(without)} kept, with checkpointing {_gib(with_)}",
        f"{name}: memory": f"{_gib(memory.total + chosen)} per process",
        f"{name}: work": f"{cost.flops / 1e12:,.3g} TFLOP and {cost.tokens:,} tokens per clip, {tokens:,} per step",
        f"{name}: time": f"{per_second:,.0f} tokens/s, {span(seconds)}",
    }


def _stills_alone(config: TrainConfig) -> bool:
    """Whether every sample is one frame."""
    moving = config.data.video is not None or (config.data.world is not None and config.data.world.kind == "clips")
    return not moving and config.data.as_video == "single_frame"


def _sharded(config: TrainConfig) -> bool:
    return config.loop.sharding == "fsdp"


def _count(system: VideoSystem, names: list[str]) -> int:
    modules = system.modules()
    split = (name.split(".", 1) for name in names)
    return sum(modules[component].get_parameter(name).numel() for component, name in split)


def _total(system: VideoSystem) -> int:
    return sum(p.numel() for p in system.unet.parameters())


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with something in place of the paths that a plan does not need."""
    data = {k: {"_target_": MISSING_VALUE} if v == MISSING_VALUE else v for k, v in values["data"].items()}
    return {**values, "init": values["init"] or MISSING_VALUE, "data": data}


def _gib(size: float) -> str:
    return f"{size / GIB:,.3g} GiB"
