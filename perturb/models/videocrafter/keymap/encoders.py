"""Official keys of the autoencoder and the CLIP encoders ↔ ours (the key names of diffusers and transformers).

A ``Rule`` says how one official tensor becomes ours: as it is, as a linear layer instead of a 1×1 convolution, or
split in three (OpenCLIP's joint query-key-value projection). To ours are views only; the way back is exact.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from perturb.errors import UserError
from perturb.models.videocrafter.encoders import TextEncoder
from perturb.models.videocrafter.spec import ImageSpec, TextSpec, VAESpec

VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model."
IMAGE_PREFIX = "embedder."

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Rule:
    """One official key (without the component's prefix) and our keys for it: three for ``split``, else one."""

    official: str
    ours: tuple[str, ...]
    kind: Literal["same", "linear", "split"] = "same"

    def to_ours(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Our tensors, views of the official one."""
        if self.kind == "linear":
            return (rearrange(tensor, "o i 1 1 -> o i"),)
        return tensor.chunk(3) if self.kind == "split" else (tensor,)

    def to_official(self, tensors: Sequence[Tensor]) -> Tensor:
        """The official tensor, bit for bit the one that ``to_ours`` was given."""
        if self.kind == "linear":
            return rearrange(tensors[0], "o i -> o i 1 1")
        return torch.cat(list(tensors)) if self.kind == "split" else tensors[0]


def convert_to_ours(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Our state dict from the official keys named by ``rules``; keys of ``state`` without a rule are left out."""
    missing = [rule.official for rule in rules if rule.official not in state]
    if missing:
        raise UserError(f"{len(missing)} keys are missing, the first: {', '.join(missing[:3])}; is the spec right?")
    return {
        key: tensor for rule in rules for key, tensor in zip(rule.ours, rule.to_ours(state[rule.official]), strict=True)
    }


def convert_to_official(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """The official keys named by ``rules`` from our state dict; the inverse of ``convert_to_ours``."""
    return {rule.official: rule.to_official([state[key] for key in rule.ours]) for rule in rules}


def vae_rules(spec: VAESpec) -> tuple[Rule, ...]:
    """Latent diffusion's autoencoder → ``diffusers.AutoencoderKL``."""
    return tuple(_vae_rules(spec))


def text_rules(spec: TextSpec) -> tuple[Rule, ...]:
    """The text transformer of OpenCLIP, or of transformers in Stable Diffusion 1 → ``TextEncoder``."""
    if spec.origin == "openai":
        with torch.device("meta"):
            names = TextEncoder(spec).state_dict()
        return tuple(Rule(name.replace(".", ".text_model.", 1), (name,)) for name in names)
    return (
        Rule("model.token_embedding.weight", ("transformer.embeddings.token_embedding.weight",)),
        Rule("model.positional_embedding", ("transformer.embeddings.position_embedding.weight",)),
        *_clip_blocks("model.transformer.resblocks", spec.layers),
        *_both("model.ln_final", "transformer.final_layer_norm"),
    )


def image_rules(spec: ImageSpec) -> tuple[Rule, ...]:
    """OpenCLIP's vision transformer → ``ImageEncoder``."""
    ours = "transformer.embeddings"
    return (
        Rule("model.visual.class_embedding", (f"{ours}.class_embedding",)),
        Rule("model.visual.positional_embedding", (f"{ours}.position_embedding.weight",)),
        Rule("model.visual.conv1.weight", (f"{ours}.patch_embedding.weight",)),
        *_both("model.visual.ln_pre", "transformer.pre_layrnorm"),
        *_clip_blocks("model.visual.transformer.resblocks", spec.layers),
        *_both("model.visual.ln_post", "transformer.post_layernorm"),
    )


def text_leftovers(spec: TextSpec) -> Shapes:
    """Official keys (with shapes) of the text encoder that the model never reads."""
    if spec.origin == "openai":
        return {"transformer.text_model.embeddings.position_ids": (1, spec.tokens)}
    return {"model.text_projection": (spec.width, spec.embed_dim), "model.logit_scale": ()}


def image_leftovers(spec: ImageSpec) -> Shapes:
    """Official keys (with shapes) of the image encoder that the model never reads, its text half above all."""
    return {
        "model.positional_embedding": (spec.text_tokens, spec.text_width),
        "model.text_projection": (spec.text_width, spec.embed_dim),
        "model.logit_scale": (),
        "model.visual.proj": (spec.width, spec.embed_dim),
        "model.token_embedding.weight": (spec.vocab_size, spec.text_width),
        "model.ln_final.weight": (spec.text_width,),
        "model.ln_final.bias": (spec.text_width,),
    }


def _both(official: str, ours: str, kind: Literal["same", "linear"] = "same") -> Iterator[Rule]:
    """The rules for a layer's weight and bias; a bias has no kernel axes to drop."""
    yield Rule(f"{official}.weight", (f"{ours}.weight",), kind)
    yield Rule(f"{official}.bias", (f"{ours}.bias",))


def _clip_blocks(official: str, layers: int) -> Iterator[Rule]:
    for i in range(layers):
        block, ours = f"{official}.{i}", f"transformer.encoder.layers.{i}"
        for end in ("weight", "bias"):
            parts = tuple(f"{ours}.self_attn.{part}_proj.{end}" for part in "qkv")
            yield Rule(f"{block}.attn.in_proj_{end}", parts, "split")
        yield from _both(f"{block}.attn.out_proj", f"{ours}.self_attn.out_proj")
        yield from _both(f"{block}.ln_1", f"{ours}.layer_norm1")
        yield from _both(f"{block}.ln_2", f"{ours}.layer_norm2")
        yield from _both(f"{block}.mlp.c_fc", f"{ours}.mlp.fc1")
        yield from _both(f"{block}.mlp.c_proj", f"{ours}.mlp.fc2")


def _vae_rules(spec: VAESpec) -> Iterator[Rule]:
    widths, last = spec.block_out_channels, len(spec.block_out_channels) - 1
    for half in ("encoder", "decoder"):
        yield from _both(f"{half}.conv_in", f"{half}.conv_in")
        yield from _vae_middle(half)
        yield from _both(f"{half}.norm_out", f"{half}.conv_norm_out")
        yield from _both(f"{half}.conv_out", f"{half}.conv_out")
    for level, width in enumerate(widths):
        before = widths[max(level - 1, 0)]
        for j in range(spec.layers_per_block):
            block = f"encoder.down.{level}.block.{j}", f"encoder.down_blocks.{level}.resnets.{j}"
            yield from _vae_resblock(*block, shortcut=j == 0 and before != width)
        if level < last:
            stem = f"encoder.down.{level}.downsample.conv"
            yield from _both(stem, f"encoder.down_blocks.{level}.downsamplers.0.conv")
    for level, width in enumerate(widths):
        # Officially the decoder's levels count from the finest, in diffusers from the coarsest.
        before, ours = widths[min(level + 1, last)], f"decoder.up_blocks.{last - level}"
        for j in range(spec.layers_per_block + 1):
            block = f"decoder.up.{level}.block.{j}", f"{ours}.resnets.{j}"
            yield from _vae_resblock(*block, shortcut=j == 0 and before != width)
        if level > 0:
            yield from _both(f"decoder.up.{level}.upsample.conv", f"{ours}.upsamplers.0.conv")
    yield from _both("quant_conv", "quant_conv")
    yield from _both("post_quant_conv", "post_quant_conv")


def _vae_resblock(official: str, ours: str, *, shortcut: bool) -> Iterator[Rule]:
    for name in ("norm1", "conv1", "norm2", "conv2"):
        yield from _both(f"{official}.{name}", f"{ours}.{name}")
    if shortcut:
        yield from _both(f"{official}.nin_shortcut", f"{ours}.conv_shortcut")


def _vae_middle(half: str) -> Iterator[Rule]:
    official, ours = f"{half}.mid", f"{half}.mid_block"
    yield from _vae_resblock(f"{official}.block_1", f"{ours}.resnets.0", shortcut=False)
    yield from _vae_resblock(f"{official}.block_2", f"{ours}.resnets.1", shortcut=False)
    yield from _both(f"{official}.attn_1.norm", f"{ours}.attentions.0.group_norm")
    for name, part in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        yield from _both(f"{official}.attn_1.{name}", f"{ours}.attentions.0.{part}", "linear")
