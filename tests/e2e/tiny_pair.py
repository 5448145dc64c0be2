"""`perturb.run` with ModelScope and AnimateDiff at toy size under their published names, and their files.

A module that the worker of these tests runs like a command; see conftest.py.
"""

from dataclasses import replace
from pathlib import Path

import torch

from perturb import run
from perturb.models.animatediff.spec import SPECS as ANIMATEDIFF
from perturb.models.videocrafter.diffusers_folder import write_diffusers
from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.skeleton import skeleton
from perturb.models.videocrafter.spec import ModelSpec
from tests.unit.animatediff_parts import small, write
from tests.unit.sd_models import randomise

PARTIAL = "animatediff_v3"


def full() -> ModelSpec:
    """ModelScope with one level, and the text encoder and autoencoder of the small AnimateDiff."""
    spec, other = SPECS["modelscope"], small(PARTIAL)
    unet = replace(
        spec.unet,
        model_channels=32,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_resolutions=(1,),
        num_head_channels=16,
        context_dim=32,
        norm_groups=16,
    )
    text = replace(other.text, origin="open_clip", layers=1)
    return replace(spec, unet=unet, vae=other.vae, text=text, sampling=other.sampling)


def weights(folder: Path) -> list[str]:
    """Random weights of both, and the overrides that name them."""
    spec = full()
    torch.manual_seed(1)
    parts = skeleton(spec, "cpu")
    for part in parts.values():
        randomise(part)
    write_diffusers(folder / "modelscope", spec, {name: part.state_dict() for name, part in parts.items()}, None)
    image, motion = write(folder, small(PARTIAL))
    paths = {"modelscope": folder / "modelscope", "stable_diffusion": image, "motion": motion}
    return [f"weights.{name}={path}" for name, path in paths.items()]


def main() -> None:
    """The command; of its reports only the last one, of all runs."""
    SPECS["modelscope"], ANIMATEDIFF[PARTIAL] = full(), small(PARTIAL)
    run.show = lambda _: None
    run.main()
