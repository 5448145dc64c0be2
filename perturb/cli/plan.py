"""`plan=true`: what a study would do and cost, from the architecture alone; nothing is loaded and nothing is run.

Networks are built on the meta device: operations are counted exactly, memory is what autograd would keep. Time is an
estimate: operations over the measured speed of one convolution of the network's own size on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from perturb.cli.command import WANTED, path_problems
from perturb.cli.config import RunConfig, pick_device
from perturb.data.prompts import load_prompts
from perturb.errors import UserError
from perturb.models.videocrafter.files import read_json
from perturb.models.videocrafter.folder import SPEC_FILE, is_folder
from perturb.models.videocrafter.skeleton import skeleton
from perturb.models.videocrafter.spec import ModelSpec, get_spec
from perturb.nn import VideoUNet
from perturb.perturbation.partition import Partition
from perturb.store.paths import resolve
from perturb.structured import build, read
from perturb.study.sample import ClipFormat

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
GIB = 2**30
TRAINED_BYTES = 16  # float32: weight (of an adapter, or the copy of a moved one), gradient and AdamW's two averages
DECODED = 8  # frames at a time
LIVE = 4  # intermediate results of the largest layer's size that are alive at once without autograd


@dataclass(frozen=True)
class Cost:
    """Of one sample of batch 1: operations, bytes alive in the backward pass, bytes of the largest layer's output.

    ``kept``: by autograd; with checkpointing what the largest block keeps while it is computed again is on top.
    """

    flops: float
    kept: float = 0.0
    largest: float = 0.0


def print_plan(values: Mapping[str, Any]) -> None:
    """Print parameters per group, size of the perturbation, number of clips, and estimates of memory and time."""
    config = read(RunConfig, values)
    spec = architecture(config)
    parts = skeleton(spec)
    unet = parts["unet"]
    partition = Partition.of(unet)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    forward = sampling_cost(unet, spec, ClipFormat.of(config.sample, spec))
    decode = decoding_cost(parts["vae"], spec, ClipFormat.of(config.sample, spec))
    perturbation = build("perturbation", config.perturbation)
    perturbation.attach(unet, partition, config.group, config.fit.seed)
    described = perturbation.describe()
    trained = sum(parameter.numel() for parameter in perturbation.parameters())
    fit_steps = described.get("fit_steps", config.probe_steps[-1] if trained else 0)
    still = fitting_cost(unet, spec, config) if trained else Cost(flops=0)

    lines = {"study": f"{config.name}: the {config.group} group of {spec.name}, trained {config.training}"}
    lines |= {f"θ {group}": f"{count:,} parameters" for group, count in partition.counts().items() if count}
    size = described["parameters"]
    lines["perturbation"] = f"{size:,} parameters in {len(described['layers'])} layers, {size * 4 / 1e6:.1f} MB each"
    lines |= _work(config, spec, fit_steps)
    lines |= _estimates(
        config, spec, sizes, trained=trained, fit_steps=fit_steps, forward=forward, decode=decode, still=still
    )
    lines |= {f"needed {i + 1}": problem for i, problem in enumerate(needed(values, spec))}
    width = max(map(len, lines)) + 2
    print("\n".join(f"{name:{width}}{text}" for name, text in lines.items()))


def needed(values: Mapping[str, Any], spec: ModelSpec) -> list[str]:
    """One line for everything that the study lacks: paths, and the image of an image-to-video model."""
    image = [f"image=…  is not given: {WANTED['image']}"] if spec.image is not None and values["image"] is None else []
    return path_problems(values) + image


def architecture(config: RunConfig) -> ModelSpec:
    """The spec that the system's configuration names, or the one in its checkpoint folder."""
    if "spec" in config.system:
        return get_spec(config.system["spec"])
    folder = resolve(config.system.get("checkpoint", ""))
    if not is_folder(folder):
        raise UserError(
            f"system.checkpoint={folder} is no folder with {SPEC_FILE}, so its architecture is unknown: "
            "give such a folder, or +system.spec=t2v_512_v2 or another published name"
        )
    return ModelSpec.from_dict(read_json(folder / SPEC_FILE)["spec"])


def sampling_cost(unet: nn.Module, spec: ModelSpec, form: ClipFormat) -> Cost:
    """One forward pass of one clip."""
    return _measured(unet, lambda: _forward(unet, spec, form.latent(spec)))


def decoding_cost(vae: Any, spec: ModelSpec, form: ClipFormat) -> Cost:
    """Decoding one clip; memory is that of the frames that `VideoSystem.decode` takes at a time."""
    c, t, h, w = form.latent(spec)
    frame = _measured(vae, lambda: vae.decode(torch.empty(1, c, h, w, device="meta")))
    return Cost(flops=frame.flops * t, largest=frame.largest * DECODED)


def _measured(network: nn.Module, forward: Callable[[], object]) -> Cost:
    outputs: list[int] = []
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: outputs.append(_bytes(output)))
        for module in network.modules()
    ]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    for handle in handles:
        handle.remove()
    return Cost(flops=counter.get_total_flops(), largest=max(outputs))


def fitting_cost(unet: nn.Module, spec: ModelSpec, config: RunConfig) -> Cost:
    """Forward and backward pass of one image with the perturbation attached."""
    defaults, fit, f = spec.sampling, config.fit, spec.downsampling
    frames = 1 if config.images.get("as_video", "single_frame") == "single_frame" else fit.frames or defaults.frames
    shape = (spec.vae.latent_channels, frames, (fit.height or defaults.height) // f, (fit.width or defaults.width) // f)
    return gradient_cost(unet, spec, shape, checkpointing=fit.gradient_checkpointing)


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


def gradient_cost(unet: nn.Module, spec: ModelSpec, shape: tuple[int, int, int, int], *, checkpointing: bool) -> Cost:
    """Forward and backward pass of one latent ``c t h w`` through a network on the meta device."""
    assert isinstance(unet, VideoUNet)
    unet.gradient_checkpointing = checkpointing
    kept = _Kept(unet)
    with FlopCounterMode(display=False) as counter:
        with kept:
            output = _forward(unet, spec, shape)
        output.sum().backward()
    again = _largest_block(unet, spec, shape) if checkpointing else 0
    return Cost(flops=counter.get_total_flops(), kept=kept.size + again)


def _largest_block(unet: VideoUNet, spec: ModelSpec, shape: tuple[int, int, int, int]) -> int:
    """Bytes that autograd keeps within the block that has the most."""
    unet.gradient_checkpointing = False
    kept, before, within = _Kept(unet), {}, []
    handles = []
    for block in unet.blocks():
        handles += [
            block.register_forward_pre_hook(lambda module, _inputs: before.update({module: kept.size})),
            block.register_forward_hook(lambda module, _inputs, _output: within.append(kept.size - before[module])),
        ]
    with kept:
        _forward(unet, spec, shape)
    for handle in handles:
        handle.remove()
    return max(within)


def _forward(unet: nn.Module, spec: ModelSpec, latent: tuple[int, int, int, int]) -> Tensor:
    with torch.device("meta"):
        one = torch.zeros(1, dtype=torch.long)
        text = torch.empty(1, spec.text.tokens, spec.unet.context_dim)
        tokens = None if spec.image is None else torch.empty(1, spec.image.projector.num_queries, spec.unet.context_dim)
        return unet(torch.empty(1, *latent), one, text, one, image_context=tokens)


def _bytes(output: object) -> int:
    return output.nbytes if isinstance(output, Tensor) else 0


def _work(config: RunConfig, spec: ModelSpec, fit_steps: int) -> dict[str, str]:
    """What would be made: images seen and clips written."""
    form, steps = ClipFormat.of(config.sample, spec), len(config.probe_steps)
    count = _prompt_count(config)
    per_prompt = len(config.sample.seeds) * steps
    clips = f"{count * per_prompt:,}" if count else f"{per_prompt} per prompt"
    fit = f"{fit_steps:,} steps of {config.fit.batch_size} images"
    return {
        "fit": fit if fit_steps else "nothing: this perturbation is prescribed",
        "clips": f"{clips}: {count or '?'} prompts × {len(config.sample.seeds)} noises × {steps} probe steps, "
        f"each {form.frames} frames of {form.height}×{form.width}",
    }


def _prompt_count(config: RunConfig) -> int | None:
    path = resolve(config.prompts.file)
    return len(load_prompts(path, config.prompts.limit)) if path.is_file() else None


def _estimates(
    config: RunConfig,
    spec: ModelSpec,
    sizes: Mapping[str, int],
    *,
    trained: int,
    fit_steps: int,
    forward: Cost,
    decode: Cost,
    still: Cost,
) -> dict[str, str]:
    """Memory and time, labelled as what they are."""
    fit, sampler = config.fit, build("sampler", config.sampler).resolved(spec.sampling)
    weights = sum(n * (BYTES[config.system.get("dtype", "float32")] if k == "unet" else 4) for k, n in sizes.items())
    share = BYTES[fit.precision] / 4
    work = sampler.work(ClipFormat.of(config.sample, spec).frames)
    guided = work.at_once * config.sample.batch_size * forward.largest * BYTES[config.sample.precision] / 4
    memory = {
        "fit": weights + TRAINED_BYTES * trained + fit.batch_size * still.kept * share,
        "sample": weights + LIVE * max(guided, decode.largest),
    }
    device = pick_device(config.system)
    clip = work.forwards * forward.flops
    clips = (_prompt_count(config) or 1) * len(config.sample.seeds) * len(config.probe_steps)
    fit_time = fit_steps * fit.batch_size * still.flops / speed(spec, device, fit.precision)
    sample_speed, vae_speed = (speed(spec, device, precision) for precision in (config.sample.precision, "float32"))
    sample_time = clips * (clip / sample_speed + decode.flops / vae_speed)
    unknown = "" if _prompt_count(config) else " per prompt"
    return {
        "memory": f"about {memory['fit'] / GIB:.2g} GiB to fit, {memory['sample'] / GIB:.2g} GiB to sample (estimate)",
        "time": f"about {span(fit_time)} to fit, {span(sample_time)} to sample{unknown} on {device} "
        f"(estimate: {still.flops / 1e9:,.3g} GFLOP per image, {clip / 1e9:,.3g} per clip, "
        f"over {sample_speed / 1e9:,.3g} GFLOP/s measured now)",
    }


def speed(spec: ModelSpec, device: str, precision: str) -> float:
    """FLOP/s of a 3×3 convolution at the size of the network's first level, measured for about half a second."""
    c, f, size = spec.unet.model_channels, spec.downsampling, spec.sampling
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    frames = size.frames if device.startswith("cuda") else 1  # one is enough to keep a CPU busy
    x = torch.randn(frames, c, size.height // f, size.width // f, device=device, dtype=dtype)
    kernel = torch.randn(c, c, 3, 3, device=device, dtype=dtype)
    F.conv2d(x, kernel, padding=1)
    _wait(device)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < 0.5:
        F.conv2d(x, kernel, padding=1)
        _wait(device)
        count += 1
    return count * 2 * 9 * c * x.numel() / elapsed


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def span(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> span(30), span(300), span(10_662_480)
    ('30 s', '5 min', '2,961.8 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
