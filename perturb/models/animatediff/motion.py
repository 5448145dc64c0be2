"""Files of a motion module and of the LoRAs that go with it. Axes: t frames, d features."""

import difflib
from collections.abc import MutableMapping
from pathlib import Path

import torch
from torch import Tensor

from perturb.errors import UserError
from perturb.models.animatediff.keys import POSITIONS, diffusers_name, lora_layers, lora_target, motion_keys
from perturb.models.videocrafter.files import read_weights
from perturb.models.videocrafter.keymap.stable_diffusion import meta_unet
from perturb.models.videocrafter.sd import WEIGHTS, check_settings
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.strict import differences, shapes_of
from perturb.nn import frame_sinusoid

CONFIG = "config.json"
ROUNDING = 5e-3
"""How far a sine in bfloat16, of all stored formats the coarsest, may lie from the exact one (2⁻⁸, and a little)."""
VERSIONS = "v1 counts 24 frames and v3 32, without one in the middle; v2 counts 32 and has one there"


def motion_file(path: Path) -> Path:
    """The file with the weights: ``path`` itself, or the one in a folder of diffusers."""
    return path / WEIGHTS["unet"] if path.is_dir() else path


def read_motion(path: Path, spec: ModelSpec) -> dict[str, Tensor]:
    """θ_T of ``spec`` by our names: from a published file, or diffusers' MotionAdapter, a file or a folder.

    Raises UserError unless all of it is there and nothing else, and frames are counted as ``spec`` says.
    """
    if path.is_dir():
        check_settings(path, _settings(spec), f"the motion module of {spec.name}")
    state = {diffusers_name(key): tensor for key, tensor in read_weights(motion_file(path)).items()}
    keys, unet = motion_keys(spec.unet), meta_unet(spec.unet).state_dict()
    given = {key: tensor for key, tensor in state.items() if not key.endswith(POSITIONS)}
    if listing := differences(shapes_of(given), shapes_of({key: unet[name] for key, name in keys.items()})):
        raise UserError(
            f"{path} is not the motion module of {spec.name}:\n{listing}\nIf it is of another version, name that, with "
            f"system.spec=animatediff_v1, v2 or v3: {VERSIONS}"
        )
    for key in state.keys() - given.keys():
        _check_positions(key, state[key], path, spec)
    return {name: given[key] for key, name in keys.items()}


def merge(unet: MutableMapping[str, Tensor], path: Path, scale: float, spec: ModelSpec, part: str) -> list[str]:
    """W ← W + scale · up @ down in every layer that the LoRA at ``path`` has; returns the names of the weights.

    ``part``: domain_adapter, which belongs to θ_S, or motion_lora, which belongs to θ_T. Raises UserError, having
    changed nothing, for a layer that does not exist or is of the other group, and for a factor that is missing or does
    not fit. Source: AnimateDiff's code.
    """
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_weights(path).items():
        layer, factor = lora_target(key)
        factors.setdefault(layer, {})[factor] = tensor.float()
    names = lora_layers(spec.unet, temporal=part == "motion_lora")
    if strange := [layer for layer in factors if layer not in names]:
        near = difflib.get_close_matches(strange[0], names, n=1, cutoff=0)
        raise UserError(
            f"{part}={path}: {len(strange)} of its {len(factors)} layers are none of {spec.name}'s that it may change, "
            f"the first: {strange[0]} (nearest: {near[0]}). A domain_adapter changes Stable Diffusion, a motion_lora "
            "the motion module"
        )
    weights = {f"{names[layer]}.weight": pair for layer, pair in factors.items()}
    for name, pair in weights.items():
        shape = tuple(unet[name].shape)
        sides = {factor: tuple(tensor.shape) for factor, tensor in pair.items()}
        up, down = sides.get("up", ()), sides.get("down", ())
        if len(sides) != 2 or (*up[:1], *down[1:]) != shape or up[1:] != down[:1]:
            raise UserError(f"{part}={path}: {name} is {list(shape)}; given {sides}, wanted up [o, r] and down [r, i]")
    for name, pair in weights.items():
        unet[name] = unet[name].float() + scale * pair["up"] @ pair["down"]
    return list(weights)


def _settings(spec: ModelSpec) -> dict[str, dict[str, tuple[object, object]]]:
    """As `diffusers_settings`, of a MotionAdapter."""
    unet = spec.unet
    return {
        CONFIG: {
            "motion_num_attention_heads": (unet.num_heads, 8),
            "motion_norm_num_groups": (unet.norm_groups, 32),
            "motion_max_seq_length": (unet.motion_length, 32),
            "use_motion_mid_block": (unet.motion_middle, True),
            "conv_in_channels": (None, None),
        }
    }


def _check_positions(key: str, positions: Tensor, path: Path, spec: ModelSpec) -> None:
    *_, t, d = positions.shape
    if t != spec.unet.motion_length:
        raise UserError(
            f"{path} counts {t} frames and {spec.name} {spec.unet.motion_length}: name its version, with "
            f"system.spec=animatediff_v1, v2 or v3: {VERSIONS}"
        )
    if not torch.allclose(positions.float().reshape(t, d), frame_sinusoid(t, d, "cpu"), rtol=0, atol=ROUNDING):
        raise UserError(f"{path}: {key} is not the sinusoid by which AnimateDiff counts frames")
