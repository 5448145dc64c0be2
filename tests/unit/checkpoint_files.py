"""Official files of the tiny model, for the tests of loading and saving."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from perturb.models.videocrafter.keymap import expected_keys, to_official
from perturb.models.videocrafter.keymap.diffusion import diffusion_buffers
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem


def as_published(tiny_spec: ModelSpec) -> ModelSpec:
    """The tiny model as an official one: CLIP's tokenizer, the scale table of published length."""
    text = dataclasses.replace(tiny_spec.text, tokenizer="clip")
    schedule = dataclasses.replace(tiny_spec.schedule, scale_table_length=1400)
    return dataclasses.replace(tiny_spec, name="tiny_v2", text=text, schedule=schedule)


def as_first_published(spec: ModelSpec) -> ModelSpec:
    """The same widths with the flags of t2v_512_v1."""
    unet = dataclasses.replace(spec.unet, temporal_conv=False, fps_cond=False, relative_position=True)
    schedule = dataclasses.replace(spec.schedule, latent_scale=None, scale_table_length=None)
    return dataclasses.replace(spec, name="tiny_v1", unet=unet, schedule=schedule)


def random_state(spec: ModelSpec, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """An official state dict: random weights, true diffusion buffers."""
    state = {key: (0.1 * torch.randn(shape)).to(dtype) for key, shape in expected_keys(spec).items()}
    return state | {key: table.to(dtype) for key, table in diffusion_buffers(spec.schedule).items()}


def official(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save({"state_dict": state, "epoch": 1}, path)
    return path


def written_back(system: VideoSystem) -> dict[str, Tensor]:
    components = {name: dict(module.state_dict()) for name, module in system.modules().items()}
    return to_official(components | {"extra": system.extra}, system.spec)


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(x, right[key]) for key, x in left.items())
