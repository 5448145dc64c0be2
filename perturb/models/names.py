"""What others call the parameters of a network: its published checkpoints, and diffusers.

A family of models registers its network's class with `vocabularies`; adapters of others and lists of names for others
are translated through it.
"""

import functools
from collections.abc import Collection, Sequence

from torch import Tensor, nn

from perturb.errors import UserError

OFFICIAL, DIFFUSERS = "official", "diffusers"
Factors = dict[str, tuple[Tensor, Tensor]]
"""Layer → A (r i …) and B (o r …) of a LoRA, Δ = B A up to a factor."""


@functools.singledispatch
def vocabularies(network: nn.Module) -> dict[str, dict[str, str]]:
    """Vocabulary → their name → our name of every parameter that has both; none for a class that is not registered.

    ``OFFICIAL`` is in the order in which the published code registers its modules. Call it before an adapter is
    attached.
    """
    del network
    return {}


def layer_names(names: dict[str, str]) -> dict[str, str]:
    """Of a vocabulary of parameters that of layers: what has a weight, without ``.weight``."""
    ends = ".weight"
    return {theirs.removesuffix(ends): ours.removesuffix(ends) for theirs, ours in names.items() if ours.endswith(ends)}


def names_in(keys: Collection[str], network: nn.Module) -> dict[str, str]:
    """Our name → key of every parameter in a file with these ``keys``, whatever stands before all of them.

    In our own names or in those of a vocabulary. Raises UserError where none has all parameters in the file.
    """
    own, known = {name: name for name, _ in network.named_parameters()}, set(keys)
    for book in (own, *vocabularies(network).values()):
        if own.keys() - set(book.values()):
            continue
        first = next(iter(book))
        for prefix in sorted(key.removesuffix(first) for key in known if key.endswith(first)):
            if all(prefix + theirs in known for theirs in book):
                return {ours: prefix + theirs for theirs, ours in book.items()}
    others = ", ".join(f"names={name}" for name in ("ours", *vocabularies(network)))
    raise UserError(
        f"the checkpoint has {len(known)} keys, and no known names of this network are among them: {others}"
    )


def listed_factors(tensors: object, network: nn.Module, source: object) -> Factors:
    """A and B of every layer from a list without names: B_0, A_0, B_1, A_1, …, as T2V-Turbo's ``unet_lora.pt`` has it.

    The layers are all Linear, Conv2d and Conv3d in the order of the official modules, Δ = B A with no further factor.
    Each pair is held against its layer. Raises UserError, naming ``source``, for a list that does not fit ``network``.
    Source: T2V-Turbo's ``utils/lora.py`` (after cloneofsimo's lora).
    """
    layers = listed_layers(network)
    if not isinstance(tensors, Sequence) or not all(isinstance(each, Tensor) for each in tensors):
        raise UserError(f"{source} holds a {type(tensors).__name__}, not a list of tensors up, down, up, down, …")
    if len(tensors) != 2 * len(layers):
        raise UserError(
            f"{source} is a list of {len(tensors) / 2:g} pairs up, down; this network has {len(layers)} layers for "
            "them (Linear, Conv2d, Conv3d), and without names no other number fits. T2V-Turbo's list of 575 is for its "
            "first version: VideoCrafter2's network with a guidance scale, without motion guidance"
        )
    found = {}
    for place, (theirs, ours) in enumerate(layers.items()):
        up, down = tensors[2 * place], tensors[2 * place + 1]
        _check_pair(up, down, network.get_submodule(ours), f"{source}: pair {place}, {theirs}")
        found[ours] = down, up
    return found


def listed_layers(network: nn.Module) -> dict[str, str]:
    """Official name → ours of every layer that such a list has a pair for, in its order."""
    own = {name: name for name, _ in network.named_parameters()}
    names = layer_names(vocabularies(network).get(OFFICIAL, own))
    paired = (nn.Linear, nn.Conv2d, nn.Conv3d)
    return {theirs: ours for theirs, ours in names.items() if isinstance(network.get_submodule(ours), paired)}


def _check_pair(up: Tensor, down: Tensor, layer: nn.Module, where: str) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    (o, i, *kernel), ones = weight.shape, [1] * (weight.ndim - 2)
    rank = down.shape[0] if down.ndim else 0
    if [*up.shape] != [o, rank, *ones] or [*down.shape] != [rank, i, *kernel]:
        raise UserError(
            f"{where}: up is {[*up.shape]} and down {[*down.shape]}; of rank r wanted {[o, 'r', *ones]} and "
            f"{['r', i, *kernel]}: the list was made for another network"
        )
