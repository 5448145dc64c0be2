"""Official checkpoint keys ↔ the components of a system. The official names live in this package and nowhere else."""

import functools
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

import perturb.models.videocrafter.keymap.names  # noqa: F401 (registers the vocabularies of the UNet)
from perturb.models.videocrafter.keymap.diffusion import diffusion_buffers
from perturb.models.videocrafter.keymap.encoders import (
    IMAGE_PREFIX,
    TEXT_PREFIX,
    VAE_PREFIX,
    Rule,
    convert_to_official,
    convert_to_ours,
    image_leftovers,
    image_rules,
    text_leftovers,
    text_rules,
    vae_rules,
)
from perturb.models.videocrafter.keymap.unet import (
    PROJECTOR_PREFIX,
    UNET_PREFIX,
    projector_official_to_ours,
    unet_official_to_ours,
)
from perturb.models.videocrafter.skeleton import PartSpec, build_part, part_specs
from perturb.models.videocrafter.spec import ModelSpec, TextSpec, UNetSpec, VAESpec

EXTRA = "extra"
PREFIXES = {
    "unet": UNET_PREFIX,
    "vae": VAE_PREFIX,
    "text_encoder": TEXT_PREFIX,
    "image_encoder": IMAGE_PREFIX,
    "image_projector": PROJECTOR_PREFIX,
}

RENAMED = {"framestride_embed.": "fps_embedding."}
"""How the file of DynamiCrafter's 256 model spells a part of the UNet: its class's own name."""

Named = TypeVar("Named")
Components = dict[str, dict[str, Tensor]]
Shapes = dict[str, tuple[int, ...]]


def component_rules(spec: ModelSpec) -> Mapping[str, tuple[Rule, ...]]:
    """How the official keys of each component (without its prefix) become ours."""
    return {name: part_rules(name, part) for name, part in part_specs(spec).items()}


@functools.lru_cache(maxsize=64)
def part_rules(name: str, spec: PartSpec) -> tuple[Rule, ...]:
    """Those of one component."""
    if isinstance(spec, UNetSpec):
        return _same(unet_official_to_ours(spec), UNET_PREFIX)
    if isinstance(spec, VAESpec):
        return vae_rules(spec)
    if isinstance(spec, TextSpec):
        return text_rules(spec)
    if name == "image_encoder":
        return image_rules(spec)
    return _same(projector_official_to_ours(spec.projector), PROJECTOR_PREFIX)


def renamed(state: Mapping[str, Named]) -> dict[str, Named]:
    """``state`` with every part under the name that its class gives it."""
    names = {UNET_PREFIX + old: UNET_PREFIX + new for old, new in RENAMED.items()}
    olds = {key: old for key in state for old in names if key.startswith(old)}
    return {names[olds[k]] + k.removeprefix(olds[k]) if k in olds else k: tensor for k, tensor in state.items()}


def to_components(state: Mapping[str, Tensor], spec: ModelSpec) -> Components:
    """Our state dict for each component of ``spec``; views of the official tensors, nothing is copied.

    "extra" holds, under its official key, every tensor the components do not use, so that ``to_official`` can give
    the whole back. Raises ``UserError`` when a key of ``spec`` is missing.
    """
    components: Components = {}
    used: set[str] = set()
    for name, rules in component_rules(spec).items():
        prefix = PREFIXES[name]
        part = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        components[name] = convert_to_ours(part, rules)
        used.update(prefix + rule.official for rule in rules)
    components[EXTRA] = {key: tensor for key, tensor in state.items() if key not in used}
    return components


def to_official(components: Mapping[str, Mapping[str, Tensor]], spec: ModelSpec) -> dict[str, Tensor]:
    """The official state dict; the inverse of ``to_components``, bit for bit."""
    state: dict[str, Tensor] = {}
    for name, rules in component_rules(spec).items():
        official = convert_to_official(components[name], rules)
        state |= {PREFIXES[name] + key: tensor for key, tensor in official.items()}
    return state | dict(components.get(EXTRA, {}))


def extra_keys(spec: ModelSpec) -> Shapes:
    """Official keys (with shapes) that no component uses: diffusion buffers, and parts of CLIP nobody reads."""
    shapes = {key: tuple(table.shape) for key, table in diffusion_buffers(spec.schedule).items()}
    shapes |= {TEXT_PREFIX + key: shape for key, shape in text_leftovers(spec.text).items()}
    if spec.image is not None:
        shapes |= {IMAGE_PREFIX + key: shape for key, shape in image_leftovers(spec.image).items()}
    return shapes


def expected_keys(spec: ModelSpec) -> Mapping[str, tuple[int, ...]]:
    """Every key of ``spec``'s official state dict with its shape, read off the modules themselves."""
    parts = [_official_shapes(name, part) for name, part in part_specs(spec).items()]
    return {key: shape for part in parts for key, shape in part.items()} | extra_keys(spec)


@functools.lru_cache(maxsize=64)
def _official_shapes(name: str, spec: PartSpec) -> dict[str, tuple[int, ...]]:
    """Of one component; the published models share most of theirs."""
    official = convert_to_official(build_part(name, spec).state_dict(), part_rules(name, spec))
    return {PREFIXES[name] + key: tuple(tensor.shape) for key, tensor in official.items()}


def _same(keys: Mapping[str, str], prefix: str) -> tuple[Rule, ...]:
    return tuple(Rule(official.removeprefix(prefix), (ours,)) for official, ours in keys.items())
