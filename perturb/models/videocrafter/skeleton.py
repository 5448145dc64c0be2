"""The parts of a model without their weights: on the meta device even the largest costs no memory."""

from __future__ import annotations

import torch
from torch import nn

from perturb.models.videocrafter.encoders import (
    build_image_encoder,
    build_image_projector,
    build_text_encoder,
    build_vae,
)
from perturb.models.videocrafter.spec import ModelSpec


def skeleton(spec: ModelSpec, device: str = "meta") -> dict[str, nn.Module]:
    """Every component that ``spec`` has, by name, with fresh parameters and buffers on ``device``."""
    with torch.device(device):
        modules: dict[str, nn.Module] = {
            "unet": spec.build_unet(),
            "vae": build_vae(spec.vae),
            "text_encoder": build_text_encoder(spec.text),
        }
        if spec.image is not None:
            modules["image_encoder"] = build_image_encoder(spec.image)
            modules["image_projector"] = build_image_projector(spec.image)
    return modules
