"""What a step costs: memory reckoned on the meta device, time measured on the real one. For `plan=true`."""

from __future__ import annotations

import time
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from perturb.diffusion import Conditioning
from perturb.loop.config import LoopConfig
from perturb.models.base import Batch
from perturb.models.tiling import decode_in_tiles
from perturb.models.videocrafter.image import per_frame
from perturb.models.videocrafter.skeleton import skeleton
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem
from perturb.study.fit import FitConfig
from perturb.study.sample import ClipFormat
from perturb.training.objective import DenoisingObjective

DECODED = 8
"""Frames that `VideoSystem.decode` takes at a time."""
CPU_FLOP = 5e12
"""Largest step that is tried on a CPU: a minute at 80 GFLOP/s, which one server core reaches."""

Shape = tuple[int, int, int, int]
"""c t h w of a latent."""


@dataclass(frozen=True)
class Cost:
    """Of one sample: operations, bytes kept for the backward pass, bytes of the largest layer's output.

    ``kept``: with checkpointing what the largest block keeps while it is computed again is included.
    """

    flop: float
    kept: float = 0.0
    largest: float = 0.0


def empty_system(spec: ModelSpec, device: str = "meta") -> VideoSystem:
    """The system with no weights (meta) or random ones, frozen. It reads no word, so that it needs no tokenizer."""
    parts: dict[str, Any] = skeleton(spec, device)
    for module in parts.values():
        module.requires_grad_(False)
    return VideoSystem(spec=spec, tokenizer=typing.cast(Any, None), **parts).to(device)


def size(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def sampling_cost(system: VideoSystem, form: ClipFormat) -> Cost:
    """One forward pass of one clip."""
    return _measured(system.unet, lambda: system.denoise(*inputs(system, form.latent(system.spec))))


def decoding_cost(system: VideoSystem, form: ClipFormat, tile: int | None = None) -> Cost:
    """Decoding one clip; memory is that of the frames, or tiles of so many latents, that are decoded at a time."""
    c, t, h, w = form.latent(system.spec)
    vae: Any = system.vae
    latent = torch.empty(1, c, h, w, device="meta")
    frame = _measured(vae, lambda: decode_in_tiles(lambda x: vae.decode(x, return_dict=False)[0], latent, tile))
    return Cost(flop=frame.flop * t, largest=frame.largest * DECODED)


def _measured(network: nn.Module, forward: Callable[[], object]) -> Cost:
    outputs: list[int] = []
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: outputs.append(getattr(output, "nbytes", 0)))
        for module in network.modules()
    ]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    for handle in handles:
        handle.remove()
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


def gradient_cost(system: VideoSystem, shape: Shape, *, checkpointing: bool) -> Cost:
    """Forward and backward pass of one latent through a network on the meta device."""
    system.unet.gradient_checkpointing = checkpointing
    kept = _Kept(system.unet)
    with FlopCounterMode(display=False) as counter:
        with kept:
            output = system.denoise(*inputs(system, shape))
        output.sum().backward()
    again = _largest_block(system, shape) if checkpointing else 0
    return Cost(flop=counter.get_total_flops(), kept=kept.size + again)


def _largest_block(system: VideoSystem, shape: Shape) -> int:
    """Bytes that autograd keeps within the block that has the most."""
    system.unet.gradient_checkpointing = False
    kept, before, within = _Kept(system.unet), {}, []
    handles = []
    for block in system.unet.blocks():
        handles += [
            block.register_forward_pre_hook(lambda module, _inputs: before.update({module: kept.size})),
            block.register_forward_hook(lambda module, _inputs, _output: within.append(kept.size - before[module])),
        ]
    with kept:
        system.denoise(*inputs(system, shape))
    for handle in handles:
        handle.remove()
    return max(within)


def inputs(system: VideoSystem, shape: Shape, batch: int = 1) -> tuple[Tensor, Tensor, Conditioning]:
    """x b c t h w, t b, and the conditioning of ``batch`` clips, on the system's device."""
    spec, width = system.spec, system.spec.unet.context_dim
    with torch.device(system.device):
        whole = torch.zeros(batch, dtype=torch.long)
        image = None if spec.image is None else torch.randn(batch, spec.image.projector.num_queries, width)
        tokens = image if image is None or spec.image is None else per_frame(image, spec.image)
        joined = None if spec.unet.in_channels == shape[0] else torch.randn(batch, *shape)
        text = torch.randn(batch, spec.text.tokens, width)
        return torch.randn(batch, *shape), whole, Conditioning(text, whole, tokens, joined)


def step_seconds(
    spec: ModelSpec,
    device: str,
    shape: Shape,
    batch: int,
    *,
    flop: float,
    how: FitConfig | LoopConfig,
    train: Callable[[VideoSystem], Sequence[nn.Parameter]],
) -> float | str:
    """Seconds of one batch forward and backward, and of AdamW on the parameters that ``train`` makes trainable."""

    def prepare() -> Callable[[], object]:
        system = empty_system(spec, device)
        optimiser = torch.optim.AdamW(train(system))
        system.unet.gradient_checkpointing = how.gradient_checkpointing
        text_encoder = any(parameter.requires_grad for parameter in system.text_encoder.parameters())
        objective = DenoisingObjective(system, text_encoder=text_encoder)
        x0, t, cond = inputs(system, shape, batch)
        ids = torch.zeros(batch, spec.text.tokens, dtype=torch.long, device=device)

        def loss() -> Tensor:
            return objective(x0, t, x0, ids, cond.fps) if text_encoder else system.loss(Batch(x0, t, x0, cond))

        def once() -> None:
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(device, getattr(torch, how.precision), enabled=how.precision != "float32"):
                mean = loss().mean()
            mean.backward()
            optimiser.step()

        return once

    return measured_seconds(device, flop * batch, prepare)


def measured_seconds(device: str, flop: float, prepare: Callable[[], Callable[[], object]]) -> float | str:
    """Seconds of one call of what ``prepare`` returns, after one that warms up; or why it is not measured."""
    if device == "cpu" and flop > CPU_FLOP:
        return f"not measured: one step is {flop / 1e12:,.3g} TFLOP, minutes on a CPU"
    try:
        step = prepare()
        step()
        wait(device)
        started = time.perf_counter()
        step()
        wait(device)
        return time.perf_counter() - started
    except torch.OutOfMemoryError:
        return f"not measured: one step does not fit into the memory of this {device}"


def wait(device: str) -> None:
    """Until a GPU has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
