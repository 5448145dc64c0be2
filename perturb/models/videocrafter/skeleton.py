"""The parts of a model without their weights: on the meta device even the largest costs no memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from perturb.models.videocrafter.encoders import (
    build_image_encoder,
    build_image_projector,
    build_text_encoder,
    build_vae,
)
from perturb.models.videocrafter.spec import ImageSpec, ModelSpec, TextSpec, UNetSpec, VAESpec
from perturb.nn import VideoUNet

PartSpec = UNetSpec | VAESpec | TextSpec | ImageSpec
BUILD: dict[str, Callable[[Any], nn.Module]] = {
    "unet": VideoUNet,
    "vae": build_vae,
    "text_encoder": build_text_encoder,
    "image_encoder": build_image_encoder,
    "image_projector": build_image_projector,
}


def part_specs(spec: ModelSpec) -> dict[str, PartSpec]:
    """Component → what it is built from, for every one that ``spec`` has."""
    parts = {"unet": spec.unet, "vae": spec.vae, "text_encoder": spec.text}
    return parts if spec.image is None else {**parts, "image_encoder": spec.image, "image_projector": spec.image}


def build_part(name: str, spec: PartSpec, device: str = "meta") -> nn.Module:
    """One component with fresh parameters and buffers on ``device``."""
    with torch.device(device):
        return BUILD[name](spec)


def skeleton(spec: ModelSpec, device: str = "meta") -> dict[str, nn.Module]:
    """Every component that ``spec`` has, by name, with fresh parameters and buffers on ``device``."""
    return {name: build_part(name, part, device) for name, part in part_specs(spec).items()}
