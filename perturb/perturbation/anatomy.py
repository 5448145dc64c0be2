"""Where in the network a layer lies, and what it does there: by the classes above it, as the partition is made."""

from dataclasses import dataclass

from torch import nn

from perturb.errors import UserError
from perturb.models.partition import LAYERS
from perturb.nn.attention import Attention, ImageProjections
from perturb.nn.resblock import ResBlock
from perturb.nn.transformer import FeedForward, SpatialTransformer, TemporalTransformer
from perturb.nn.unet import VideoUNet

BLOCKS = ("outer", "down", "middle", "up")
"""``outer``: before the first level and behind the last one."""
ATTENTION = ("query", "key", "value", "out")
ROLES = ("convolution", *ATTENTION, "feed_forward", "projection", "embedding")
"""``projection``: in and out of a transformer; ``embedding``: of the timestep, the frame rate, or both into a block."""


@dataclass(frozen=True)
class Place:
    """``block`` of `BLOCKS`, ``level`` within it (down.0 and up.0 are the finest), ``role`` of `ROLES`."""

    block: str
    level: str
    role: str

    @property
    def kind(self) -> str:
        """The role more coarsely: convolution, attention, feed_forward, other."""
        if self.role in ATTENTION:
            return "attention"
        return self.role if self.role in ("convolution", "feed_forward") else "other"

    @property
    def names(self) -> set[str]:
        """All that the layer can be called by."""
        return {"all", self.block, self.level, self.kind, self.role}


def anatomy(unet: nn.Module) -> dict[str, Place]:
    """The place of every layer with a weight matrix, in the network's order. Call it before an adapter is attached."""
    if not isinstance(unet, VideoUNet):
        raise UserError(
            f"the parts of {type(unet).__name__} have no names here; allowed: networks of VideoCrafter's kind"
        )
    levels = {unet.middle: ("middle", "middle")}
    for block, modules in (("down", list(unet.down)), ("up", list(unet.up)[::-1])):
        levels |= {level: (block, f"{block}.{i}") for i, level in enumerate(modules)}
    places = {}
    for name, module in unet.named_modules():
        if isinstance(module, LAYERS):
            parents = name.split(".")[:-1]
            above = [unet.get_submodule(".".join(parents[: i + 1])) for i in range(len(parents))]
            block, level = next((levels[each] for each in above if each in levels), ("outer", "outer"))
            places[name] = Place(block, level, _role(name.rpartition(".")[2], module, above[-1] if above else unet))
    return places


def _role(leaf: str, layer: nn.Module, owner: nn.Module) -> str:
    """By the class of the module that has the layer, and by which of its layers it is."""
    match owner:
        case Attention() | ImageProjections():
            return leaf
        case FeedForward():
            return "feed_forward"
        case SpatialTransformer() | TemporalTransformer():
            return "projection"
        case ResBlock() if layer is not owner.embedding:
            return "convolution"
        case _:
            return "embedding" if isinstance(layer, nn.Linear) else "convolution"
