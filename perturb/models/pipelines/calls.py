"""What a pipeline is asked for one sample, and what it then tells its network. Axes: c channels, t frames, h w.

A pipeline knows best how its network wants to be called: which tokens, masks, rotary tables, image latents, rates. So
the arguments are not made here again but overheard: the pipeline runs up to its first call of the network.
"""

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
    """One sample: prompt, frames per second, image 3 h w in [−1, 1]; with ``negative``: the other side of guidance, of
    this text. ``calls``: what was overheard already, by the shape of the latent.
    """

    prompt: str
    fps: int
    image: Tensor | None
    negative: str | None = None
    calls: dict[tuple[int, ...], Call] = field(default_factory=dict, repr=False, compare=False)

    def beside(self, other: "Request") -> "Request":
        """The other side of ``other``."""
        return Request(other.prompt, self.fps, other.image, self.negative)


class _Called(Exception):
    """Ends a pipeline at the first call of its network."""


@contextmanager
def answering(network: nn.Module, answer: Callable[..., Any]) -> Iterator[None]:
    """While this lasts, ``answer`` is called instead of ``network.forward``."""
    before = vars(network).get("forward")  # an answer within an answer, or what somebody put there
    network.forward = answer
    try:
        yield
    finally:
        if before is None:
            del network.forward
        else:
            network.forward = before


def overhear(network: nn.Module, run: Callable[[], object], latents: Tensor, axis: int, side: int) -> Call | None:
    """The first call of ``network`` that ``run()`` makes, from ``latents`` (1 …), for one side of guidance.

    ``side`` −1: conditional, 0: the other. A pipeline joins the two, the unconditional one first, or calls with each by
    itself, the conditional one first: then there is None for the other. Raises UserError where what the network is to
    see does not begin with the latents.
    """
    heard: dict[str, Any] = {}
    signature = inspect.signature(type(network).forward)

    def listen(*arguments: Any, **named: Any) -> Any:
        heard.update(signature.bind(network, *arguments, **named).arguments)
        raise _Called

    with answering(network, listen), suppress(_Called):
        run()
    _, x, *_ = signature.parameters
    heard.pop("self")
    rows, seen, expected = len(heard[x]), list(heard[x].shape), list(latents.shape)
    expected[0], expected[axis] = rows, max(seen[axis], expected[axis])
    if seen != expected:
        raise UserError(
            f"{type(network).__name__} sees {seen} where latents of {list(latents.shape)} were given: this pipeline "
            "orders them in a way that is not known here"
        )
    if rows == 1 and side == 0:
        return None

    def kept(tensor: Tensor) -> Tensor:
        return (tensor[side:][:1] if tensor.ndim and len(tensor) == rows else tensor).cpu()

    channels = latents.shape[axis]
    heard[x] = heard[x].narrow(axis, channels, seen[axis] - channels)
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
