"""What a pipeline is asked for one sample, and what it then tells its network. Axes: c channels, t frames, h w.

A pipeline knows best how its network wants to be called: which tokens, masks, rotary tables, image latents, rates. So
the arguments are not made here again but overheard: the pipeline runs up to its first call of the network.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from perturb.errors import UserError


@dataclass(frozen=True)
class Call:
    """Arguments of a network for one sample, tensors on the CPU. ``x``: the name of that of the noisy latent, which
    holds the channels that are joined to it, along ``axis``.
    """

    x: str
    axis: int
    arguments: Mapping[str, Any]

    def __call__(self, network: nn.Module, x: Tensor, told: Tensor) -> Tensor:
        """What the network says of x (1 …, in its own layout) when it is told this time, float32, like x."""
        given = _each(self.arguments, lambda tensor: tensor.to(x.device))
        joined, time = given[self.x], given["timestep"]
        given |= {self.x: torch.cat([x.to(joined.dtype), joined], self.axis)}
        given |= {"timestep": torch.ones_like(time) * told.to(time.dtype), "return_dict": False}
        # Latte's says a variance behind the noise
        return network(**given)[0].narrow(self.axis, 0, x.shape[self.axis]).float()


@dataclass(frozen=True)
class Request:
    """One sample: prompt, frames per second, image 3 h w in [−1, 1]; not ``conditional``: the other side of guidance.

    ``calls``: what was overheard already, by the shape of the latent.
    """

    prompt: str
    fps: int
    image: Tensor | None
    conditional: bool = True
    calls: dict[tuple[int, ...], Call] = field(default_factory=dict, repr=False, compare=False)

    def beside(self, other: Request) -> Request:
        """This text with the image of ``other``."""
        return Request(self.prompt, self.fps, other.image, self.conditional)


class _Called(Exception):
    """Ends a pipeline at the first call of its network."""


@contextmanager
def answering(network: nn.Module, answer: Callable[..., Any]) -> Iterator[None]:
    """While this lasts, ``answer`` is called instead of ``network.forward``."""
    network.forward = answer
    try:
        yield
    finally:
        del network.forward


def overhear(network: nn.Module, run: Callable[[], object], latents: Tensor, axis: int, conditional: bool) -> Call:
    """The first call that ``run()``, which begins with ``latents`` (1 …), makes of ``network``: one side of guidance.

    A pipeline joins the two sides, the unconditional one first, or calls with each by itself. Raises UserError where
    what the network is to see does not begin with the latents.
    """
    heard: dict[str, Any] = {}
    signature = inspect.signature(network.forward)

    def listen(*arguments: Any, **named: Any) -> Any:
        heard.update(signature.bind(*arguments, **named).arguments)
        raise _Called

    with answering(network, listen), suppress(_Called):
        run()
    x = next(iter(signature.parameters))
    rows, expected = len(heard[x]), list(latents.shape)
    seen = list(heard[x].shape)
    channels = seen[axis] - expected[axis]
    expected[0], expected[axis] = rows, seen[axis]
    if seen != expected or channels < 0:
        raise UserError(
            f"{type(network).__name__} sees {seen} where latents of {list(latents.shape)} were given: this pipeline "
            "orders them in a way that is not known here"
        )
    side = -1 if conditional else 0

    def kept(tensor: Tensor) -> Tensor:
        return (tensor[side:][:1] if tensor.ndim and len(tensor) == rows else tensor).cpu()

    heard[x] = heard[x].narrow(axis, latents.shape[axis], channels)
    return Call(x, axis, _each(heard, kept))


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with every tensor within it changed."""
    match value:
        case Tensor():
            return change(value)
        case dict():
            return {name: _each(item, change) for name, item in value.items()}
        case list() | tuple():
            return type(value)(_each(item, change) for item in value)
        case _:
            return value
