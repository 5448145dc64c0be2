"""A small AnimateDiff in its authors' own classes and names: Stable Diffusion 1.5 and a motion adapter of diffusers."""

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import MotionAdapter, UNetMotionModel
from torch import Tensor

from perturb.models.animatediff.spec import SPECS
from perturb.models.videocrafter.spec import ModelSpec, SamplingDefaults, TextSpec, VAESpec
from perturb.nn import frame_sinusoid
from tests.unit.sd_models import ImageModel, randomise

SCHEDULER = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def small(name: str) -> ModelSpec:
    """The published one of this name at toy size: the deeper of two levels moves, but does not attend."""
    spec = SPECS[name]
    unet = replace(
        spec.unet,
        model_channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(1,),
        num_heads=2,
        context_dim=32,
        norm_groups=16,
    )
    text = TextSpec(
        width=32, heads=2, layers=2, vocab_size=49408, embed_dim=32, skip_last=0, tokenizer="clip", origin="openai"
    )
    vae = VAESpec(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_groups=4)
    sampling = SamplingDefaults(height=32, width=32, frames=4, fps=8, steps=2, guidance=7.5, eta=0.0)
    return replace(spec, unet=unet, text=text, vae=vae, sampling=sampling)


def adapter(spec: ModelSpec) -> MotionAdapter:
    """With weights of which every one matters."""
    unet = spec.unet
    widths = tuple(mult * unet.model_channels for mult in unet.channel_mult)
    made = MotionAdapter(
        block_out_channels=widths,
        motion_layers_per_block=unet.num_res_blocks,
        motion_num_attention_heads=unet.num_heads or 8,
        motion_norm_num_groups=unet.norm_groups,
        motion_max_seq_length=unet.motion_length or 32,
        use_motion_mid_block=unet.motion_middle,
    ).eval()
    randomise(made)
    return made


def joined(image: ImageModel, motion: MotionAdapter) -> UNetMotionModel:
    """What diffusers makes of the two."""
    made = UNetMotionModel.from_unet2d(image.unet, motion)
    assert isinstance(made, UNetMotionModel)
    return made.eval()


def published(motion: MotionAdapter, spec: ModelSpec) -> dict[str, Tensor]:
    """The same weights under the names of the official files."""
    state = {}
    for key, tensor in motion.state_dict().items():
        if key.endswith("pos_embed.pe"):
            continue
        block, index, rest = _split(key)
        for theirs, official in (
            ("attn1.", "attention_blocks.0."),
            ("attn2.", "attention_blocks.1."),
            ("norm1.", "norms.0."),
            ("norm2.", "norms.1."),
            ("norm3.", "ff_norm."),
        ):
            rest = rest.replace(f"blocks.0.{theirs}", f"blocks.0.{official}")
        state[f"{block}.motion_modules.{index}.temporal_transformer.{rest}"] = tensor
    for key in [key for key in state if key.endswith("to_q.weight")]:
        position = frame_sinusoid(spec.unet.motion_length or 32, state[key].shape[1], "cpu")
        state[key.replace("to_q.weight", "pos_encoder.pe")] = position[None]
    return state


def _split(key: str) -> tuple[str, str, str]:
    block, _, rest = key.partition(".motion_modules.")
    index, _, rest = rest.partition(".")
    return block, index, rest


def write(folder: Path, spec: ModelSpec) -> tuple[Path, Path]:
    """Stable Diffusion as diffusers' folder, and an official motion module, of random weights."""
    torch.manual_seed(7)
    image = ImageModel.random(spec).save(folder / "sd", **SCHEDULER)
    torch.save({"state_dict": published(adapter(spec), spec)}, folder / "motion.ckpt")
    return image, folder / "motion.ckpt"
