"""`plan=true`: what a study or a training would make, and what memory and time that takes; nothing is kept.

Memory is reckoned from the architecture, on the meta device. Time is that of one real step on the device, measured now
with random weights of the same shapes (their values do not change it), or is not given.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from perturb.cli.command import WANTED, path_problems
from perturb.cli.config import RunConfig, partition_of
from perturb.cli.cost import (
    Cost,
    Shape,
    decoding_cost,
    empty_system,
    gradient_cost,
    inputs,
    measured_seconds,
    sampling_cost,
    size,
    step_seconds,
    wait,
)
from perturb.device import pick_device
from perturb.diffusion.protocols import Work
from perturb.errors import UserError
from perturb.loop.config import StageConfig, check_division
from perturb.models.videocrafter.files import read_json
from perturb.models.videocrafter.folder import SPEC_FILE
from perturb.models.videocrafter.nano import NANO
from perturb.models.videocrafter.spec import ModelSpec, get_spec
from perturb.models.videocrafter.system import VideoSystem
from perturb.progress import span
from perturb.store.paths import resolve
from perturb.structured import MISSING_VALUE, build, read
from perturb.study.sample import ClipFormat
from perturb.study.states import check_probe_steps
from perturb.training.config import TrainConfig
from perturb.training.objective import BLOCKS
from perturb.training.recipes import Adapter, Trained, trained_parameters

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
GIB = 2**30
TRAINED_BYTES = 16
"""Per trained number, float32: weight (an adapter's, or the copy of a moved one), gradient, AdamW's two averages."""
STATE_BYTES = {"weights": 4, "gradients": 4, "optimiser": 8, "average": 4}
"""Of a training, in float32; the average is that of EMA. All but the weights: for what is trained only."""
LIVE = 4
"""Results of the largest layer's size that are alive at once without autograd; gives the 12 GiB that sampling
VideoCrafter2 takes, see experiments/gpu."""


def print_plan(values: Mapping[str, Any]) -> None:
    """Print the parameters of each group, the perturbation's size, the clips, memory and time of a study."""
    config = read(RunConfig, values)
    spec = architecture(config)
    system = empty_system(spec)
    partition = partition_of(config, system)
    perturbation = build("perturbation", config.perturbation)
    form, fit = ClipFormat.of(config.sample, spec), config.fit
    forward, decode = sampling_cost(system, form), decoding_cost(system, form)
    weights = _weight_bytes(config, system)  # before anything is attached
    perturbation.attach(system.unet, partition, config.group, fit.seed)
    described = perturbation.describe()
    trained = sum(parameter.numel() for parameter in perturbation.parameters())
    check_probe_steps(perturbation, config.probe_steps)
    states = len(config.probe_steps or perturbation.states())
    steps = described.get("fit_steps", config.probe_steps[-1] if config.probe_steps else 0)
    still = gradient_cost(system, _still(config, spec), checkpointing=fit.gradient_checkpointing) if trained else None

    work = build("sampler", config.sampler).resolved(spec.sampling).work(form.frames)
    count, seeds = _prompt_count(config), len(config.sample.seeds)
    clips, unknown = (count or 1) * seeds * states, "" if count else " per prompt"
    layers, size = len(described["layers"]), described["parameters"]
    lines = {"study": f"{config.name}: the {config.group} group of {spec.name}, trained {config.training}"}
    lines |= {f"θ {group}": f"{number:,} parameters" for group, number in partition.counts().items() if number}
    lines |= {
        "perturbation": f"{size:,} parameters in {layers} layers, {size * 4 / 1e6:.1f} MB each",
        "fit": f"{steps:,} steps of {fit.batch_size} images" if steps else "nothing: this perturbation is not fitted",
        "clips": f"{clips:,}{unknown}: {count or '?'} prompts × {seeds} noises × {states} states, "
        f"each {form.frames} frames of {form.height}×{form.width}",
        "memory": _study_memory(
            config, weights, work=work, trained=trained, still=still, forward=forward, decode=decode
        ),
    }
    if still is not None:
        lines["time to fit"] = _spent(steps, _fit_seconds(config, spec, still))
    lines["time to sample"] = _sampling_time(config, form, spec, forward, work, clips)
    lines |= {f"needed {i + 1}": problem for i, problem in enumerate(needed(values, spec))}
    _print(lines, config.system.get("device", "auto"))


def needed(values: Mapping[str, Any], spec: ModelSpec) -> list[str]:
    """One line for everything that the study lacks: paths, and the image of an image-to-video model."""
    image = [f"image=…  is not given: {WANTED['image']}"] if spec.image is not None and values["image"] is None else []
    return path_problems(values) + image


def architecture(config: RunConfig) -> ModelSpec:
    """The spec that the system's configuration names, or the one in its checkpoint folder."""
    if "pipeline" in config.system:
        raise UserError(
            "plan=true does not know pipelines of diffusers; what they need is said where they are published"
        )
    checkpoint = config.system.get("checkpoint", MISSING_VALUE)
    return _spec(checkpoint, config.system.get("spec"), "system.checkpoint", "+system.spec")


def training_architecture(config: TrainConfig) -> ModelSpec:
    """The spec of the model to be trained, without reading weights."""
    return NANO if config.init_kind == "autoencoder" else _spec(str(config.init), config.init_spec, "init", "init_spec")


def _spec(checkpoint: str, name: str | None, key: str, name_key: str) -> ModelSpec:
    folder = resolve(checkpoint)
    if (folder / SPEC_FILE).is_file():
        return ModelSpec.from_dict(read_json(folder / SPEC_FILE)["spec"])
    if name is not None:
        return get_spec(name)
    given = "" if checkpoint == MISSING_VALUE else f"{key}={checkpoint} is no folder of ours (is it trained yet?); "
    raise UserError(
        f"the architecture is unknown: {given}give {key}, a folder with {SPEC_FILE} (package:weights/nano/image is "
        f"one), or {name_key}=t2v_512_v2 or another published name"
    )


def _still(config: RunConfig, spec: ModelSpec) -> Shape:
    """A fitted still as a latent."""
    defaults, fit, f = spec.sampling, config.fit, spec.downsampling
    frames = 1 if config.images.get("as_video", "single_frame") == "single_frame" else fit.frames or defaults.frames
    return spec.vae.latent_channels, frames, (fit.height or defaults.height) // f, (fit.width or defaults.width) // f


def _weight_bytes(config: RunConfig, system: VideoSystem) -> float:
    kept = {"unet": BYTES[config.system.get("dtype", "float32")]}
    return sum(kept.get(name, 4) * size(part) for name, part in system.modules().items())


def _study_memory(
    config: RunConfig, weights: float, *, work: Work, trained: int, still: Cost | None, forward: Cost, decode: Cost
) -> str:
    batch = work.at_once * config.sample.batch_size * forward.largest * BYTES[config.sample.precision] / 4
    sampling = weights + LIVE * max(batch, decode.largest)
    if still is None:
        return f"about {_gib(sampling)} to sample (estimate)"
    fitting = weights + TRAINED_BYTES * trained + config.fit.batch_size * still.kept * BYTES[config.fit.precision] / 4
    return f"about {_gib(fitting)} to fit, {_gib(sampling)} to sample (estimate)"


def _fit_seconds(config: RunConfig, spec: ModelSpec, cost: Cost) -> float | str:
    fit = config.fit

    def train(system: VideoSystem) -> list[nn.Parameter]:
        perturbation = build("perturbation", config.perturbation)
        system.unet.to(getattr(torch, config.system.get("dtype", "float32")))
        perturbation.attach(system.unet, partition_of(config, system), config.group, fit.seed)
        perturbation.train(True)
        return list(perturbation.parameters())

    device = pick_device(config.system.get("device", "auto"))
    return step_seconds(spec, device, _still(config, spec), fit.batch_size, flop=cost.flop, how=fit, train=train)


def _sampling_time(  # noqa: PLR0917
    config: RunConfig, form: ClipFormat, spec: ModelSpec, cost: Cost, work: Work, clips: int
) -> str:
    """Of ``clips`` clips, from one forward of a batch of them and from decoding one."""
    device = pick_device(config.system.get("device", "auto"))
    count = min(config.sample.batch_size, clips)
    bfloat16 = config.sample.precision == "bfloat16"

    def prepare() -> Callable[[], object]:
        system = empty_system(spec, device)
        system.unet.to(getattr(torch, config.system.get("dtype", "float32")))
        x, t, cond = inputs(system, form.latent(spec), count)

        @torch.no_grad()
        def step() -> None:
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                system.denoise(x, t, cond)
            wait(device)
            denoised = time.perf_counter()
            system.decode(x[:1])
            wait(device)
            decoding.append(time.perf_counter() - denoised)

        return step

    decoding: list[float] = []
    seconds = measured_seconds(device, count * cost.flop, prepare)
    if isinstance(seconds, str):
        return seconds
    step = seconds - decoding[-1]
    total = clips * (work.forwards * step / count + decoding[-1])
    forwards = f"{work.forwards:g} forwards of {step:.3g} s for {count} clips"
    return f"{span(total)}: {forwards}, {decoding[-1]:.2g} s to decode each"


def print_training_plan(values: Mapping[str, Any]) -> None:
    """Print what a training would move, its memory per process, and how long a step takes."""
    config = read(TrainConfig, given(values))
    if config.trained is None:
        raise UserError("plan=true reckons with the denoiser; the autoencoder of the embedded world trains in minutes")
    check_division(config.stages, config.plan_processes, config.loop.accumulation)
    spec = training_architecture(config)
    system = empty_system(spec)
    names = trained_names(system, config.trained)
    memory = state_memory(config, system, names)
    alike = "each with all weights" if config.loop.sharding == "none" else "sharded (FSDP2)"
    lines = {
        "training": f"{config.recipe} of {spec.name}: {config.trained.describe()}",
        "parameters": f"{_count(system, names):,} trained of {size(system.unet):,} in the network",
        "processes": f"{config.plan_processes}, {alike}",
        **{f"memory: {name}": _gib(size) for name, size in memory.items()},
        "memory: together": f"{_gib(sum(memory.values()))} per process, before activations",
    }
    for number, stage in enumerate(config.stages, 1):
        lines |= _stage_lines(config, f"stage {number}", stage, system, sum(memory.values()))
    _print(lines, config.device)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a training with something in place of the paths that a plan does not need."""
    data = {k: {"_target_": MISSING_VALUE} if v == MISSING_VALUE else v for k, v in values["data"].items()}
    return {**values, "init": values["init"] or MISSING_VALUE, "data": data}


def trained_names(system: VideoSystem, trained: Trained) -> list[str]:
    """``component.name`` of what is trained, made trainable; low-rank factors are attached."""
    if trained.lora is not None:
        return Adapter(system, trained, seed=0).names()
    parameters = trained_parameters(system, trained)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    return list(parameters)


def state_memory(config: TrainConfig, system: VideoSystem, names: list[str]) -> dict[str, float]:
    """Bytes in one process: weights, gradients, optimiser, average, frozen encoders (never sharded), gathered.

    ``gathered``: whole weights of the two largest blocks, which FSDP2 has in memory while one computes.
    """
    sharded = config.loop.sharding == "fsdp"
    encoders, trained = size(system.vae), _count(system, names)
    text_trained = config.trained is not None and config.trained.text_encoder
    whole = size(system.unet) + (size(system.text_encoder) if text_trained else 0)
    numbers = {name: whole if name == "weights" else trained for name in STATE_BYTES}
    blocks = sorted(size(module) for name, module in system.unet.named_modules() if name and _is_block(module))
    return {
        **{name: STATE_BYTES[name] * n / (config.plan_processes if sharded else 1) for name, n in numbers.items()},
        "encoders": 4 * (encoders + (0 if text_trained else size(system.text_encoder))),
        "gathered": BYTES[config.loop.precision] * sum(blocks[-2:]) if sharded else 0,
    }


def _is_block(module: nn.Module) -> bool:
    return type(module).__name__ in BLOCKS


def stage_shape(config: TrainConfig, spec: ModelSpec, stage: StageConfig) -> Shape:
    """One clip of the stage as a latent; stills alone are one frame."""
    moving = config.data.video is not None or (config.data.world is not None and config.data.world.kind == "clips")
    size, f = spec.sampling, spec.downsampling
    frames = stage.frames or size.frames if moving or config.data.as_video == "repeat" else 1
    return spec.vae.latent_channels, frames, (stage.height or size.height) // f, (stage.width or size.width) // f


def _stage_lines(
    config: TrainConfig, name: str, stage: StageConfig, system: VideoSystem, memory: float
) -> dict[str, str]:
    loop, shape = config.loop, stage_shape(config, system.spec, stage)
    micro = stage.batch_size // (config.plan_processes * loop.accumulation)
    costs = {flag: gradient_cost(system, shape, checkpointing=flag) for flag in (False, True)}
    without, with_ = (micro * costs[flag].kept * BYTES[loop.precision] / 4 for flag in (False, True))
    trained, on = config.trained, loop.gradient_checkpointing
    assert trained is not None
    seconds = step_seconds(
        system.spec,
        pick_device(config.device),
        shape,
        micro,
        flop=costs[on].flop,
        how=loop,
        train=lambda fresh: _parameters(fresh, trained_names(fresh, trained)),
    )
    spent = _spent(stage.steps, seconds if isinstance(seconds, str) else seconds * loop.accumulation)
    return {
        name: f"{stage.steps:,} steps of {stage.batch_size} ({micro} per process and micro-batch)",
        f"{name}: activations": f"{_gib(without)} kept, with checkpointing {_gib(with_)}",
        f"{name}: memory": f"{_gib(memory + (with_ if on else without))} per process",
        f"{name}: time": spent,
    }


def _spent(steps: int, seconds: float | str) -> str:
    if isinstance(seconds, str):
        return seconds
    return f"{span(steps * seconds)}: {steps:,} steps of {seconds:.3g} s"


def _prompt_count(config: RunConfig) -> int | None:
    path = resolve(str(config.prompts.file))
    return len(config.prompts.load()) if path.is_file() else None


def _parameters(system: VideoSystem, names: list[str]) -> list[nn.Parameter]:
    modules = system.modules()
    split = (name.split(".", 1) for name in names)
    return [modules[component].get_parameter(name) for component, name in split]


def _count(system: VideoSystem, names: list[str]) -> int:
    return sum(parameter.numel() for parameter in _parameters(system, names))


def _gib(size: float) -> str:
    return f"{size / GIB:,.3g} GiB"


def _print(lines: dict[str, str], device: str) -> None:
    if any("time" in name and not text.startswith("not measured") for name, text in lines.items()):
        lines["measured"] = (
            f"one step, on {pick_device(device)} now ({torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} "
            f"on {os.cpu_count()} cores), with random weights; loading, encoding, scoring and saving come on top"
        )
    width = max(map(len, lines)) + 2
    print("\n".join(f"{name:{width}}{text}" for name, text in lines.items()))
