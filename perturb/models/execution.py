"""How a model runs, of whatever family: its kernels' layout, compiled, its parts on the device only while they work."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from perturb.errors import UserError
from perturb.models.base import VideoModel

Quantised = Literal["int8", "float8"]


class Compiled:
    """The forward of a network by torch.compile wherever no gradient is wanted: one graph, anew for every shape.

    On a GPU it is replayed as a CUDA graph, which reads the weights where they lay when it was recorded; torch compares
    the addresses before each replay and records anew where one has changed. What cannot be compiled, and all from the
    ninth shape on (``torch._dynamo.config.recompile_limit``), runs as it is, and the reason goes to stderr.
    """

    def __init__(self, forward: Callable[..., Tensor], *, replayed: bool) -> None:
        self.plain, self.replayed = forward, replayed
        mode = "reduce-overhead" if replayed else "default"
        self.fast: Callable[..., Tensor] | None = torch.compile(forward, fullgraph=True, dynamic=False, mode=mode)

    def __call__(self, *arguments: Any, **named: Any) -> Tensor:
        """What the network gives."""
        if self.fast is None or torch.is_grad_enabled():
            return self.plain(*arguments, **named)
        try:
            output = self.fast(*arguments, **named)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            self.fast = None
            reason = str(error.__cause__ or error).splitlines()[0]
            print(f"warning: system.compile=true is not followed: {reason}", file=sys.stderr)
            return self.plain(*arguments, **named)
        return output.clone() if self.replayed else output  # the next replay writes where this one did


def compile_network(model: VideoModel) -> None:
    """Have the network of a model `Compiled`, in place."""
    network = model.network
    network.forward = Compiled(network.forward, replayed=model.device.type == "cuda")


def channels_last(model: VideoModel) -> None:
    """Lay out the kernels o i h w of 2-D convolutions as o h w i, in place: the same values, nearer to each other."""
    for kernel in model.network.parameters():
        if kernel.ndim == 4:
            kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)


def offload(model: VideoModel) -> None:
    """Keep the parts of a model on the CPU, each on its device from its first call until the next part's.

    An autoencoder that can then takes one frame at a time.
    """
    from accelerate import cpu_offload_with_hook  # takes a second: for those who ask for it

    device, parts = model.device, model.modules()
    before = None
    # in the order in which a clip needs them: what encodes, the network, the autoencoder
    for name in sorted(parts, key=lambda name: (parts[name] is model.network) + 2 * (name == "vae")):
        if isinstance(slicing := getattr(parts[name], "enable_slicing", None), Callable):
            slicing()
        _, before = cpu_offload_with_hook(parts[name], device, before)
        before.offload()


def check_quantised(kind: Quantised | None) -> None:
    """UserError where weights are to be quantised and torchao is missing."""
    if kind is not None and find_spec("torchao") is None:
        raise UserError(
            f"sample.quantise={kind} needs torchao, which is not installed: pip install 'perturb[quantise]', or "
            "sample.quantise=null"
        )


@contextmanager
def quantised(network: nn.Module, kind: Quantised | None) -> Iterator[None]:
    """Inside, the weights W of all Linear layers as W ≈ s Q, Q int8 or float8 (e4m3), s for each output; after it W.

    W waits on the CPU meanwhile and comes back bit for bit. Products are in the dtype of the input. Convolutions, norms
    and biases stay as they are. None: nothing happens.
    """
    if kind is None:
        yield
        return
    torchao = import_module("torchao.quantization")
    settings = {"int8": torchao.Int8WeightOnlyConfig, "float8": torchao.Float8WeightOnlyConfig}
    config = settings[kind](set_inductor_config=False)  # those would be the process's
    kept: list[tuple[nn.Linear, nn.Parameter]] = []
    try:
        for layer in [module for module in network.modules() if isinstance(module, nn.Linear)]:
            weight = layer.get_parameter("weight")
            kept.append((layer, weight))
            torchao.quantize_(layer, config)
            weight.data = weight.data.cpu()
        yield
    finally:
        for layer, weight in kept:
            weight.data = weight.data.to(layer.weight.device)
            layer.weight = weight
            vars(layer).pop("extra_repr", None)  # quantize_ leaves one


def place_of(network: nn.Module) -> torch.device:
    """Where a network computes, though `offload` may keep it elsewhere meanwhile."""
    hook = getattr(network, "_hf_hook", None)
    return next(network.parameters()).device if hook is None else torch.device(hook.execution_device)
