"""The frozen encoders of VideoCrafter, built from diffusers and transformers.

Axes: b batch, c channels, h w pixels, l text tokens, m image tokens, d features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from perturb.errors import UserError
from perturb.models.videocrafter.preprocess import preprocess_image
from perturb.models.videocrafter.spec import ImageSpec, TextSpec, VAESpec
from perturb.nn import Resampler

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def build_vae(spec: VAESpec) -> AutoencoderKL:
    """The KL autoencoder b 3 h w ↔ b 4 h/f w/f with f = 2^(levels − 1), fresh weights, in eval mode.

    Source: Rombach et al. 2022 (arXiv 2112.10752); ``scale_factor`` is applied by ``VideoSystem``, not in here.
    """
    from diffusers import AutoencoderKL

    levels = len(spec.block_out_channels)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        block_out_channels=spec.block_out_channels,  # pyright: ignore[reportArgumentType]
        layers_per_block=spec.layers_per_block,
        latent_channels=spec.latent_channels,
        norm_num_groups=spec.norm_groups,
        scaling_factor=spec.scale_factor,
    )
    return vae.eval()


class TextEncoder(nn.Module):
    """CLIP text transformer read before its last ``skip_last`` blocks, then the final layer norm; no projection.

    ids b l (int64) → tokens b l d. Causal, padding is not masked (as OpenCLIP has it). Source: OpenCLIP ViT-H/14.
    """

    def __init__(self, spec: TextSpec) -> None:
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel

        config = CLIPTextConfig(
            vocab_size=spec.vocab_size,
            hidden_size=spec.width,
            intermediate_size=4 * spec.width,
            projection_dim=spec.embed_dim,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            max_position_embeddings=spec.tokens,
            hidden_act=spec.activation,
            # Only for the pooled output, which is not read; CLIP's own defaults lie outside a small vocabulary.
            bos_token_id=spec.vocab_size - 2,
            eos_token_id=spec.vocab_size - 1,
        )
        self.skip_last = spec.skip_last
        self.tokens = spec.tokens
        model = CLIPTextModel(config)
        # transformers 4 wraps the transformer once more than transformers 5; our key names must not depend on that.
        self.transformer: nn.Module = getattr(model, "text_model", model)

    def forward(self, ids: Tensor) -> Tensor:
        if ids.shape[-1] != self.tokens:
            raise UserError(f"the text encoder reads exactly {self.tokens} tokens, given {ids.shape[-1]}")
        hidden = self.transformer(input_ids=ids, output_hidden_states=True).hidden_states
        norm: nn.Module = self.transformer.final_layer_norm  # pyright: ignore[reportAssignmentType]
        return norm(hidden[-1 - self.skip_last])


class ImageEncoder(nn.Module):
    """CLIP vision transformer: class and patch tokens after the last block, without the final norm and projection.

    image b 3 h w in [−1, 1], any size → tokens b m d with m = 1 + (image_size / patch_size)²; the published
    preprocessing is part of it. Source: OpenCLIP ViT-H/14 as VideoCrafter1's image-to-video model reads it.
    """

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModel

        config = CLIPVisionConfig(
            hidden_size=spec.width,
            intermediate_size=int(spec.mlp_ratio * spec.width),
            projection_dim=spec.embed_dim,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.width // spec.head_width,
            image_size=spec.image_size,
            patch_size=spec.patch_size,
            hidden_act="gelu",
        )
        self.image_size = spec.image_size
        model = CLIPVisionModel(config)
        self.transformer: nn.Module = getattr(model, "vision_model", model)

    def forward(self, image: Tensor) -> Tensor:
        return self.tokens(preprocess_image(image, self.image_size))

    def tokens(self, pixels: Tensor) -> Tensor:
        """Tokens b m d of an image that is already preprocessed (b 3 image_size image_size)."""
        return self.transformer(pixel_values=pixels).last_hidden_state


def build_text_encoder(spec: TextSpec) -> TextEncoder:
    """The text encoder with fresh weights, in eval mode."""
    return TextEncoder(spec).eval()


def build_image_encoder(spec: ImageSpec) -> ImageEncoder:
    """The image encoder with fresh weights, in eval mode."""
    return ImageEncoder(spec).eval()


def build_image_projector(spec: ImageSpec) -> Resampler:
    """The projection of image features to image tokens, with fresh weights, in eval mode."""
    return Resampler(spec.projector).eval()


def fresh_position_ids(module: nn.Module) -> None:
    """Fills the position indices that transformers keeps as unsaved buffers; needed after a build on ``meta``."""
    for part in module.modules():
        ids = getattr(part, "position_ids", None)
        if isinstance(ids, Tensor):
            device = next(part.parameters()).device
            part.position_ids = torch.arange(ids.shape[-1], device=device)[None]
