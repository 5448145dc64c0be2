"""T2V-Turbo: VideoCrafter2 distilled from its guidance, whose files hold the UNet alone, or LoRA factors of it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from perturb.errors import UserError
from perturb.models.names import listed_factors
from perturb.models.videocrafter.files import read_tensors
from perturb.models.videocrafter.keymap import part_rules
from perturb.models.videocrafter.keymap.encoders import convert_to_ours
from perturb.models.videocrafter.spec import ModelSpec, UNetSpec
from perturb.models.videocrafter.strict import differences, shapes_of
from perturb.nn import VideoUNet

GUIDANCE = "guidance_embedding.guidance.weight"


def distilled_unet(
    base: Mapping[str, Tensor], path: Path, spec: ModelSpec, seed: int | None
) -> tuple[dict[str, Tensor], str]:
    """The UNet of ``spec`` from the file at ``path``, and where its guidance projection P_w came from.

    A file of names is the whole UNet. One without is a list of LoRA factors over ``base``, the UNet of VideoCrafter2,
    and over a P_w that was never published: zeros, or what the published code would have drawn from ``seed``.
    Raises UserError for what does not fit, naming the layer.
    """
    content = read_tensors(path)
    with torch.device("meta"):
        unet = spec.build_unet()
    if isinstance(content, Mapping):
        rules = part_rules("unet", spec.unet)
        official = {rule.official: tuple(unet.get_parameter(rule.ours[0]).shape) for rule in rules}
        if listing := differences(shapes_of(content), official):
            raise UserError(f"{path} does not fit the UNet of {spec.name}:\n{listing}")
        return convert_to_ours(content, rules), "the file"
    if spec.unet.guidance_dim is None or spec.unet.motion_cond:
        raise UserError(f"{path} is a list of LoRA factors without names: they are of t2v_turbo_v1, not of {spec.name}")
    start = initial_guidance(spec.unet, seed)
    merged = merged_list(dict(base) | {GUIDANCE: start}, content, unet, path)
    return merged, "LoRA over " + ("zeros" if seed is None else f"the draw of seed {seed}")


def initial_guidance(spec: UNetSpec, seed: int | None) -> Tensor:
    """P_w before its LoRA, d e: zeros, or PyTorch's initialisation of a linear layer, U(−1/√e, 1/√e), from ``seed``."""
    assert spec.guidance_dim is not None
    weight = torch.zeros(spec.model_channels, spec.guidance_dim)
    if seed is None:
        return weight
    bound = spec.guidance_dim**-0.5
    return weight.uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))


def merged_list(state: Mapping[str, Tensor], factors: object, unet: VideoUNet, path: Path) -> dict[str, Tensor]:
    """``state`` with W + up · down for every layer that the list of ``factors`` has a pair for; float32 sums."""
    merged = dict(state)
    for layer, (down, up) in listed_factors(factors, unet, path).items():
        weight = state[f"{layer}.weight"]
        delta = (up.float().flatten(1) @ down.float().flatten(1)).reshape(weight.shape)
        merged[f"{layer}.weight"] = (weight.float() + delta).to(weight.dtype)
    return merged


def undistilled(spec: ModelSpec) -> UNetSpec:
    """The UNet that a distilled one began as."""
    return replace(spec.unet, guidance_dim=None, motion_cond=False)
