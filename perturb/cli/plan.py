"""`plan=true`: what a study or a training would make, and what memory and time that takes; nothing is kept.

Memory is reckoned on the meta device: weights, what autograd keeps, the largest results. Time is that of one real step
on the device, measured now with random weights of the same shapes (their values do not change it), or is not given.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from perturb.cli.command import WANTED, path_problems
from perturb.cli.config import RunConfig, empty, partition_of
from perturb.data.prompts import PromptsConfig
from perturb.device import pick_device
from perturb.errors import UserError
from perturb.loop.config import StageConfig, check_division
from perturb.models.base import Batch, VideoModel
from perturb.models.tiling import decode_in_tiles
from perturb.models.videocrafter.checkpoint import empty_system
from perturb.models.videocrafter.system import VideoSystem
from perturb.progress import span
from perturb.store.paths import resolve
from perturb.structured import MISSING_VALUE, build, read
from perturb.study.fit import Objective
from perturb.study.sample import ClipFormat, tile_of
from perturb.study.states import check_probe_steps
from perturb.training.config import TrainConfig
from perturb.training.objective import BLOCKS, DenoisingObjective
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
CPU_FLOP = 5e12
"""Largest step that is tried on a CPU: a minute at 80 GFLOP/s, which one server core reaches."""
META = "meta"

Shape = tuple[int, int, int, int]
"""c t h w of a latent."""
Moving = tuple[Callable[[], Tensor], list[nn.Parameter]]
"""A loss, one value per sample, and the parameters that it moves."""


@dataclass(frozen=True)
class Cost:
    """Of one sample: operations, bytes kept for the backward pass, bytes of the largest layer's output.

    ``kept``: with checkpointing what the largest block keeps while it is computed again is included.
    """

    flop: float
    kept: float = 0.0
    largest: float = 0.0


# studies --------------------------------------------------------------------------------------------------------------


def print_plan(values: Mapping[str, Any]) -> None:
    """Print the parameters of each group, the perturbation's size, the clips, memory and time of a study."""
    config = read(RunConfig, values)
    model = empty(config.system, META)
    partition, form, fit = partition_of(config, model), ClipFormat.of(config.sample, model), config.fit
    latent, usual = form.latent(model), model.sampling
    alone = (config.images or {}).get("as_video", "single_frame") == "single_frame"
    still = model.latent_shape(
        1 if alone else fit.frames or usual.frames, fit.height or usual.height, fit.width or usual.width
    )
    single = batch_of(model, latent, 1, form.fps)
    forward = forward_cost(model, lambda: model.denoise(single.x0, single.t, single.cond))
    tile = tile_of(config.sample, model)
    decode = forward_cost(model, lambda: decode_in_tiles(model.decode, single.x0, tile))
    weights = sum(p.numel() * p.element_size() for part in model.modules().values() for p in part.parameters())
    perturbation = build("perturbation", config.perturbation)
    perturbation.attach(model.network, partition, config.group, fit.seed)
    described = perturbation.describe()
    trained = sum(parameter.numel() for parameter in perturbation.parameters())
    check_probe_steps(perturbation, config.probe_steps)
    states = len(config.probe_steps or perturbation.states())
    steps = described.get("fit_steps", config.probe_steps[-1] if config.probe_steps else 0)
    work = build("sampler", config.sampler).resolved(model.sampling).work(form.frames)
    prompts = resolve(str(config.prompts.file))
    count, seeds = len(config.prompts.load()) if prompts.is_file() else None, len(config.sample.seeds)
    clips, unknown = (count or 1) * seeds * states, "" if count else " per prompt"
    layers, size = len(described["layers"]), described["parameters"]
    lines = {"study": f"{config.name}: the {config.group} group of {model.name}, trained {config.training}"}
    lines |= {f"θ {group}": f"{number:,} parameters" for group, number in partition.counts().items() if number}
    lines |= {
        "perturbation": f"{size:,} parameters in {layers} layers, {size * 4 / 1e6:.1f} MB each",
        "fit": f"{steps:,} steps of {fit.batch_size} images" if steps else "nothing: this perturbation is not fitted",
        "clips": f"{clips:,}{unknown}: {count or '?'} prompts × {seeds} noise{'s' * (seeds != 1)} × {states} states, "
        f"each {form.frames} frames of {form.height}×{form.width}",
    }
    live = work.at_once * config.sample.batch_size * forward.largest * BYTES[config.sample.precision] / 4
    twice = sum(_weight(model.network, name).nbytes for name in described["layers"])  # θ + Δ beside θ
    memory = f"{_gib(weights + twice + LIVE * max(live, decode.largest))} to sample (estimate)"
    if trained:
        cost = gradient_cost(model, still, fps=form.fps, checkpointing=fit.gradient_checkpointing)
        kept = fit.batch_size * cost.kept * BYTES[fit.precision] / 4
        memory = f"{_gib(weights + TRAINED_BYTES * trained + kept)} to fit, {memory}"
        lines["time to fit"] = _fitting_time(config, still, cost.flop, steps)
    lines["memory"] = f"about {memory}"
    lines["time to sample"] = _sampling_time(config, form, forward.flop, work.forwards, clips)
    lines |= {f"needed {i + 1}": problem for i, problem in enumerate(needed(values, takes_image=model.takes_image))}
    _print(lines, config.system.get("device", "auto"))


def needed(values: Mapping[str, Any], *, takes_image: bool) -> list[str]:
    """One line for everything that the study lacks: paths, and the image of an image-to-video model."""
    problems = path_problems(values)
    if takes_image and values["image"] is None:
        prompts = read(PromptsConfig, values["prompts"])
        if not (resolve(str(prompts.file)).is_file() and all(prompt.images for prompt in prompts.load())):
            problems.append(f"image=…  is not given: {WANTED['image']}")
    return problems


def _fitting_time(config: RunConfig, shape: Shape, flop: float, steps: int) -> str:
    fit, device = config.fit, pick_device(config.system.get("device", "auto"))

    def make() -> Moving:
        model = empty(config.system, device)
        perturbation = build("perturbation", config.perturbation)
        perturbation.attach(model.network, partition_of(config, model), config.group, fit.seed)
        perturbation.train(True)
        model.gradient_checkpointing = fit.gradient_checkpointing
        objective, batch = Objective(model), batch_of(model, shape, fit.batch_size, fit.fps or model.sampling.fps)
        return (lambda: objective(batch)), list(perturbation.parameters())

    return training_time(make, device, fit.precision, flop=fit.batch_size * flop, steps=steps)


def _sampling_time(config: RunConfig, form: ClipFormat, flop: float, forwards: float, clips: int) -> str:
    """Of ``clips`` clips, from one forward of a batch of them and from decoding one."""
    device, count = pick_device(config.system.get("device", "auto")), min(config.sample.batch_size, clips)
    decoding: list[float] = []

    def prepare() -> Callable[[], object]:
        model = empty(config.system, device)
        batch = batch_of(model, form.latent(model), count, form.fps)

        @torch.no_grad()
        def step() -> None:
            with torch.autocast(device, torch.bfloat16, enabled=config.sample.precision == "bfloat16"):
                model.denoise(batch.x0, batch.t, batch.cond)
            _wait(device)
            denoised = time.perf_counter()
            decode_in_tiles(model.decode, batch.x0[:1], tile_of(config.sample, model))
            _wait(device)
            decoding.append(time.perf_counter() - denoised)

        return step

    seconds = measured_seconds(device, count * flop, prepare)
    if isinstance(seconds, str):
        return seconds
    step = seconds - decoding[-1]
    total = clips * (forwards * step / count + decoding[-1])
    of = f"{forwards:g} forwards of {step:.3g} s for {count} clips"
    return f"{span(total)}: {of}, {decoding[-1]:.2g} s to decode each"


# trainings ------------------------------------------------------------------------------------------------------------


def print_training_plan(values: Mapping[str, Any]) -> None:
    """Print what a training would move, its memory per process, and how long a step takes."""
    config = read(TrainConfig, given(values))
    if config.trained is None:
        raise UserError("plan=true reckons with the denoiser; the autoencoder of the embedded world trains in minutes")
    check_division(config.stages, config.plan_processes, config.loop.accumulation)
    system = _untrained(config, META)
    names = trained_names(system, config.trained)
    memory = state_memory(config, system, names)
    alike = "each with all weights" if config.loop.sharding == "none" else "sharded (FSDP2)"
    lines = {
        "training": f"{config.recipe} of {system.name}: {config.trained.describe()}",
        "parameters": f"{_count(system, names):,} trained of {_size(system.unet):,} in the network",
        "processes": f"{config.plan_processes}, {alike}",
        **{f"memory: {name}": _gib(size) for name, size in memory.items()},
        "memory: together": f"{_gib(sum(memory.values()))} per process, before activations",
    }
    for number, stage in enumerate(config.stages, 1):
        said = _stage_lines(config, config.trained, stage, system, sum(memory.values()))
        lines |= {f"stage {number}{name}": text for name, text in said.items()}
    _print(lines, config.device)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a training with something in place of the paths that a plan does not need."""
    data = {k: {"_target_": MISSING_VALUE} if v == MISSING_VALUE else v for k, v in values["data"].items()}
    return {**values, "init": values["init"] or MISSING_VALUE, "data": data}


def _untrained(config: TrainConfig, device: str) -> VideoSystem:
    """The model to be trained, without its weights."""
    init = None if config.init == MISSING_VALUE else str(config.init)
    if config.init_kind == "autoencoder":  # an autoencoder says nothing of the denoiser: it becomes the embedded one
        init = "package:weights/nano/image"
    return empty_system(init, config.init_spec, device=device, keys=("init", "init_spec"))


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
    encoders, trained = _size(system.vae), _count(system, names)
    text_trained = config.trained is not None and config.trained.text_encoder
    whole = _size(system.unet) + (_size(system.text_encoder) if text_trained else 0)
    numbers = {name: whole if name == "weights" else trained for name in STATE_BYTES}
    blocks = sorted(_size(m) for name, m in system.unet.named_modules() if name and type(m).__name__ in BLOCKS)
    return {
        **{name: STATE_BYTES[name] * n / (config.plan_processes if sharded else 1) for name, n in numbers.items()},
        "encoders": 4 * (encoders + (0 if text_trained else _size(system.text_encoder))),
        "gathered": BYTES[config.loop.precision] * sum(blocks[-2:]) if sharded else 0,
    }


def stage_shape(config: TrainConfig, system: VideoSystem, stage: StageConfig) -> Shape:
    """One clip of the stage as a latent; stills alone are one frame."""
    moving = config.data.video is not None or (config.data.world is not None and config.data.world.kind == "clips")
    size = system.sampling
    frames = stage.frames or size.frames if moving or config.data.as_video == "repeat" else 1
    return system.latent_shape(frames, stage.height or size.height, stage.width or size.width)


def _stage_lines(
    config: TrainConfig, trained: Trained, stage: StageConfig, system: VideoSystem, memory: float
) -> dict[str, str]:
    loop, shape, fps = config.loop, stage_shape(config, system, stage), system.sampling.fps
    micro = stage.batch_size // (config.plan_processes * loop.accumulation)
    costs = {flag: gradient_cost(system, shape, fps=fps, checkpointing=flag) for flag in (False, True)}
    without, with_ = (micro * costs[flag].kept * BYTES[loop.precision] / 4 for flag in (False, True))
    on, device = loop.gradient_checkpointing, pick_device(config.device)

    def make() -> Moving:
        fresh = _untrained(config, device)
        moved = _parameters(fresh, trained_names(fresh, trained))
        fresh.gradient_checkpointing = on
        batch = batch_of(fresh, shape, micro, fps)
        if not trained.text_encoder:
            return (lambda: fresh.loss(batch)), moved
        ids = torch.zeros(micro, system.spec.text.tokens, dtype=torch.long, device=device)
        objective = DenoisingObjective(fresh, text_encoder=True)
        return (lambda: objective(batch.x0, batch.t, batch.noise, ids, batch.cond.fps)), moved

    cost = {"flop": micro * costs[on].flop, "steps": stage.steps, "micro_batches": loop.accumulation}
    return {
        "": f"{stage.steps:,} steps of {stage.batch_size} ({micro} per process and micro-batch)",
        ": activations": f"{_gib(without)} kept, with checkpointing {_gib(with_)}",
        ": memory": f"{_gib(memory + (with_ if on else without))} per process",
        ": time": training_time(make, device, loop.precision, **cost),
    }


# costs ----------------------------------------------------------------------------------------------------------------


def batch_of(model: VideoModel, shape: Shape, count: int, fps: int) -> Batch:
    """``count`` random latents told nothing, on the model's device."""
    usual = model.sampling
    factor = usual.height // model.latent_shape(usual.frames, usual.height, usual.width)[2]
    image = torch.zeros(1, 3, shape[2] * factor, shape[3] * factor) if model.takes_image else None
    cond = model.conditioning([""] * count, fps, image)
    with torch.device(model.device):
        x0, t = torch.randn(count, *shape), torch.zeros(count, dtype=torch.long)
    return Batch(x0, t, x0, cond)


def forward_cost(model: VideoModel, forward: Callable[[], object]) -> Cost:
    """Of what ``forward`` does with the parts of the model."""
    outputs: list[int] = []
    with (
        torch.no_grad(),
        FlopCounterMode(display=False) as counter,
        register_module_forward_hook(lambda _module, _given, output: outputs.append(getattr(output, "nbytes", 0))),
    ):
        forward()
    return Cost(flop=counter.get_total_flops(), largest=max(outputs))


class _Kept(saved_tensors_hooks):
    """While entered, remembers what autograd keeps, other than the weights of ``network``."""

    def __init__(self, network: nn.Module) -> None:
        self._tensors: dict[int, Tensor] = {}
        # by storage: a linear layer keeps a transposed view of its weight
        weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            if (storage := tensor.untyped_storage()._cdata) not in weights:
                self._tensors[storage] = tensor
            return tensor

        super().__init__(keep, lambda tensor: tensor)

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._tensors.values())


def gradient_cost(model: VideoModel, shape: Shape, *, fps: int, checkpointing: bool) -> Cost:
    """Forward and backward pass of one latent through a network on the meta device."""
    batch, kept = batch_of(model, shape, 1, fps), _Kept(model.network)
    model.gradient_checkpointing = checkpointing
    with FlopCounterMode(display=False) as counter:
        with kept:
            loss = model.loss(batch)
        loss.sum().backward()
    again = _largest_block(model, batch) if checkpointing else 0
    model.gradient_checkpointing = False
    return Cost(flop=counter.get_total_flops(), kept=kept.size + again)


def _largest_block(model: VideoModel, batch: Batch) -> int:
    """Bytes that autograd keeps within the block that has the most: blocks are what the network has in lists."""
    model.gradient_checkpointing = False
    kept, before, within = _Kept(model.network), {}, [0]
    blocks = {b for blocks in model.network.modules() if isinstance(blocks, nn.ModuleList) for b in blocks}

    def enter(module: nn.Module, _given: object) -> None:
        if module in blocks:
            before[module] = kept.size

    def leave(module: nn.Module, _given: object, _output: object) -> None:
        if module in blocks:
            within.append(kept.size - before[module])

    with kept, register_module_forward_pre_hook(enter), register_module_forward_hook(leave):
        model.loss(batch)
    return max(within)


def training_time(
    make: Callable[[], Moving], device: str, precision: str, *, flop: float, steps: int, micro_batches: int = 1
) -> str:
    """Of ``steps`` steps of AdamW, of ``micro_batches`` each: ``make`` gives the loss and the parameters that move."""

    def prepare() -> Callable[[], object]:
        loss, moved = make()
        optimiser = torch.optim.AdamW(moved)

        def step() -> None:
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(device, getattr(torch, precision), enabled=precision != "float32"):
                value = loss().mean()
            value.backward()
            optimiser.step()

        return step

    seconds = measured_seconds(device, flop, prepare)
    if isinstance(seconds, str):
        return seconds
    seconds *= micro_batches
    return f"{span(steps * seconds)}: {steps:,} steps of {seconds:.3g} s"


def measured_seconds(device: str, flop: float, prepare: Callable[[], Callable[[], object]]) -> float | str:
    """Seconds of one call of what ``prepare`` returns, after one that warms up; or why it is not measured."""
    if device == "cpu" and flop > CPU_FLOP:
        return f"not measured: one step is {flop / 1e12:,.3g} TFLOP, minutes on a CPU"
    try:
        step = prepare()
        step()
        _wait(device)
        started = time.perf_counter()
        step()
        _wait(device)
        return time.perf_counter() - started
    except torch.OutOfMemoryError:
        return f"not measured: one step does not fit into the memory of this {device}"


def _wait(device: str) -> None:
    """Until a GPU has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _parameters(system: VideoSystem, names: list[str]) -> list[nn.Parameter]:
    modules = system.modules()
    split = (name.split(".", 1) for name in names)
    return [modules[component].get_parameter(name) for component, name in split]


def _count(system: VideoSystem, names: list[str]) -> int:
    return sum(parameter.numel() for parameter in _parameters(system, names))


def _weight(network: nn.Module, name: str) -> Tensor:
    """What a perturbation moves under that name: the weight of a layer, or a parameter."""
    owner, _, leaf = name.rpartition(".")
    part = getattr(network.get_submodule(owner), leaf)
    return part if isinstance(part, Tensor) else part.weight


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


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
