"""What the Stable Diffusion tests share: a small image model in diffusers' own classes, and in both formats on disk."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from perturb.models.videocrafter.keymap import component_rules
from perturb.models.videocrafter.keymap.diffusion import diffusion_buffers
from perturb.models.videocrafter.keymap.encoders import convert_to_official, text_leftovers
from perturb.models.videocrafter.spec import ModelSpec, TextSpec, UNetSpec, VAESpec


def small_spec(tiny_spec: ModelSpec, **flags: bool) -> ModelSpec:
    """The topology of the published models at toy size: the deepest of three levels does not attend."""
    unet = replace(tiny_spec.unet, channel_mult=(1, 2, 2), attention_resolutions=(2, 1), **flags)
    return replace(tiny_spec, name="small", unet=unet)


def image_unet(spec: UNetSpec) -> UNet2DConditionModel:
    """Diffusers' network of the same sizes, written down as Stable Diffusion's config does."""
    attends = [2**level in spec.attention_resolutions for level in range(len(spec.channel_mult))]
    down = tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends)
    up = tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends))
    widths = tuple(mult * spec.model_channels for mult in spec.channel_mult)
    settings: dict[str, Any] = {
        "attention_head_dim": list(spec.heads),
        "block_out_channels": widths,
        "cross_attention_dim": spec.context_dim,
        "down_block_types": down,
        "up_block_types": up,
        "layers_per_block": spec.num_res_blocks,
        "norm_num_groups": spec.norm_groups,
        "use_linear_projection": spec.num_heads is None,  # which Stable Diffusion 1 is told by
    }
    return UNet2DConditionModel(**settings)


def autoencoder(spec: VAESpec) -> AutoencoderKL:
    levels = len(spec.block_out_channels)
    settings: dict[str, Any] = {
        "block_out_channels": spec.block_out_channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": spec.layers_per_block,
        "latent_channels": spec.latent_channels,
        "norm_num_groups": spec.norm_groups,
    }
    return AutoencoderKL(**settings)


def text_model(spec: TextSpec) -> CLIPTextModel:
    """As Stable Diffusion has it in a folder, without the blocks that are not read."""
    config = CLIPTextConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.width,
        intermediate_size=4 * spec.width,
        num_hidden_layers=spec.layers - spec.skip_last,
        num_attention_heads=spec.heads,
        max_position_embeddings=spec.tokens,
        projection_dim=spec.embed_dim,
        hidden_act=spec.activation,
        bos_token_id=0,
        eos_token_id=1,
    )
    return CLIPTextModel(config)


@dataclass(frozen=True)
class ImageModel:
    """A small Stable Diffusion in its authors' own classes, with weights of which every one matters."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text: CLIPTextModel

    @staticmethod
    def random(spec: ModelSpec) -> "ImageModel":
        model = ImageModel(image_unet(spec.unet).eval(), autoencoder(spec.vae).eval(), text_model(spec.text).eval())
        for part in (model.unet, model.vae, model.text):
            randomise(part)
        return model

    def save(self, folder: Path, *, old_names: bool = False, **scheduler: object) -> Path:
        """Diffusers' folder; ``old_names`` as it was published in 2022, before two libraries renamed their layers."""
        self.unet.save_pretrained(folder / "unet")
        self.vae.save_pretrained(folder / "vae")
        self.text.save_pretrained(folder / "text_encoder")
        if old_names:
            vae = {_old(key): tensor for key, tensor in self.vae.state_dict().items()}
            save_file(vae, folder / "vae" / "diffusion_pytorch_model.safetensors")
            text = {f"text_model.{key}": tensor for key, tensor in self.text.state_dict().items()}
            text["text_model.embeddings.position_ids"] = torch.arange(16)[None]
            save_file(text, folder / "text_encoder" / "model.safetensors")
        if scheduler:
            (folder / "scheduler").mkdir()
            (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
        return folder


def ldm_state(spec: ModelSpec, unet: dict[str, Tensor]) -> dict[str, Tensor]:
    """An LDM checkpoint: the given network (prefixed), random encoders, the tables and leftovers of the real file."""
    rules = component_rules(spec)
    vae, text = autoencoder(spec.vae), text_model(replace(spec.text, skip_last=0))
    for part in (vae, text):
        randomise(part)
    ours = {f"transformer.{key}": tensor for key, tensor in text.state_dict().items()}
    state = dict(unet)
    official = convert_to_official(vae.state_dict(), rules["vae"])
    state |= {f"first_stage_model.{key}": tensor for key, tensor in official.items()}
    official = convert_to_official(ours, rules["text_encoder"])
    state |= {f"cond_stage_model.{key}": tensor for key, tensor in official.items()}
    state |= {f"cond_stage_model.{key}": torch.randn(shape) for key, shape in text_leftovers(spec.text).items()}
    schedule = replace(spec.schedule, beta_schedule="scaled_linear")
    state |= {key: table for key, table in diffusion_buffers(schedule).items() if key != "scale_arr"}
    state["model_ema.decay"] = torch.tensor(0.9999)
    state["model_ema.num_updates"] = torch.tensor(5)
    state["logvar"] = torch.zeros(spec.schedule.timesteps)
    return state


@torch.no_grad()
def randomise(network: nn.Module) -> None:
    """Random weights at the size of a trained network's: matrices by their fan-in, norms near 1, all biases alive."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter.normal_(std=0.2).add_(1.0 if "norm" in name and name.endswith("weight") else 0.0)


def _old(key: str) -> str:
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    return next((key.replace(f".{new}.", f".{old}.") for new, old in names.items() if f".{new}." in key), key)
