"""Which layers of a group a perturbation touches: exact full names, never suffixes."""

from typing import Literal, get_args

from torch import nn

from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.nn import Attention
from perturb.perturbation.base import parts

Targets = Literal["all", "linear", "convolution", "attention"]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def check_targets(targets: str) -> None:
    """Raises UserError for an unknown name."""
    if targets not in get_args(Targets):
        raise UserError(f"perturbation.targets is {targets!r}; allowed: {', '.join(get_args(Targets))}")


def select_layers(unet: nn.Module, partition: Partition, group: str, targets: Targets) -> tuple[str, ...]:
    """Names of the Linear and convolution layers of ``group`` that ``targets`` selects, in the network's order.

    ``group`` may be "both": first the spatial ones, then the temporal ones. ``attention``: the query, key, value and
    output projections. Raises UserError when there are none, and for a convolution that LoRA cannot follow (grouped,
    dilated, or not padded with zeros).
    """
    names = tuple(name for part in parts(group) for name in partition.layers(part))
    if targets == "attention":
        inside = tuple(f"{name}." for name, module in unet.named_modules() if isinstance(module, Attention))
        names = tuple(name for name in names if name.startswith(inside))
    elif targets != "all":
        kind = nn.Linear if targets == "linear" else CONVOLUTIONS
        names = tuple(name for name in names if isinstance(unet.get_submodule(name), kind))
    if not names:
        raise UserError(f"the group {group!r} of this model has no layers of the kind perturbation.targets={targets}")
    for name in names:
        _check_layer(name, unet.get_submodule(name))
    return names


def _check_layer(name: str, layer: nn.Module) -> None:
    # peft builds its factors with kernel, stride and padding only: anything else would silently be another convolution
    if isinstance(layer, CONVOLUTIONS) and (
        layer.groups != 1 or set(layer.dilation) != {1} or layer.padding_mode != "zeros"
    ):
        raise UserError(f"LoRA cannot follow {name}: {layer}; only ungrouped, undilated, zero-padded convolutions")
