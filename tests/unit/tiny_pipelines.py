"""Video pipelines of diffusers at toy size with random weights, written into a folder as save_pretrained does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers as published
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from perturb.world.scenes import WORDS

diffusers: Any = published  # whose annotations are narrower than what it takes
TEXT = 16  # features of a token


def tokenizer(length: int = 16) -> PreTrainedTokenizerFast:
    """One id per word."""
    words = ["<pad>", "<end>", "<unk>", *dict.fromkeys(word.lower() for word in WORDS)]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    inner.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="$A <end>", special_tokens=[("<end>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", model_max_length=length
    )


def t5(kind: Any = T5EncoderModel, config: Any = T5Config) -> Any:
    return kind(
        config(vocab_size=64, d_model=TEXT, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu")
    )


def clip_text() -> Any:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=64,
            hidden_size=TEXT,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            eos_token_id=1,
            pad_token_id=0,
            bos_token_id=2,
        )
    )


def clip_image() -> Any:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            projection_dim=TEXT,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=224,
            patch_size=32,
        )
    )


VAE: dict[str, Any] = {"block_out_channels": (8, 8), "layers_per_block": 1, "latent_channels": 4}
ENCODER = {"down_block_types": ("DownEncoderBlock2D",) * 2}


def image_vae() -> Any:
    up = ("UpDecoderBlock2D",) * 2
    return diffusers.AutoencoderKL(**VAE, **ENCODER, up_block_types=up, norm_num_groups=4, scaling_factor=0.5)


def svd() -> Any:
    """Image to video; EDM with v."""
    return diffusers.StableVideoDiffusionPipeline(
        vae=diffusers.AutoencoderKLTemporalDecoder(**VAE | {"block_out_channels": (32, 32)}, **ENCODER),
        image_encoder=clip_image(),
        unet=diffusers.UNetSpatioTemporalConditionModel(
            block_out_channels=(32, 32),
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            layers_per_block=1,
            num_attention_heads=2,
            cross_attention_dim=TEXT,
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24,
            num_frames=4,
            sample_size=8,
        ),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            sigma_min=0.002,
            sigma_max=700.0,
            steps_offset=1,
            timestep_spacing="leading",
            timestep_type="continuous",
            use_karras_sigmas=True,
        ),
        feature_extractor=CLIPImageProcessor(crop_size=224, size=224),
    )


def latte() -> Any:
    """Text to video; ε, with a variance behind it."""
    return diffusers.LattePipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(),
        vae=image_vae(),
        transformer=diffusers.LatteTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            cross_attention_dim=16,
            caption_channels=TEXT,
            sample_size=8,
            patch_size=2,
            video_length=4,
            attention_bias=True,
            activation_fn="gelu-approximate",
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
        ),
        scheduler=diffusers.DDIMScheduler(clip_sample=False),
    )


def i2vgen() -> Any:
    """Image and text to video; v, with zero terminal SNR."""
    return diffusers.I2VGenXLPipeline(
        tokenizer=tokenizer(),
        text_encoder=clip_text(),
        image_encoder=clip_image(),
        feature_extractor=CLIPImageProcessor(crop_size=224, size=224),
        vae=image_vae(),
        unet=diffusers.I2VGenXLUNet(
            block_out_channels=(8, 8),
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=TEXT,
            attention_head_dim=4,
            num_attention_heads=None,
            sample_size=8,
        ),
        scheduler=diffusers.DDIMScheduler(
            clip_sample=False,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            set_alpha_to_one=False,
            timestep_spacing="trailing",
        ),
    )


def wan() -> Any:
    """Text to video; flow matching; an autoencoder that also compresses time."""
    return diffusers.WanPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(UMT5EncoderModel, UMT5Config),
        vae=diffusers.AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.5, 2.0, 1.0],
        ),
        transformer=diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=TEXT,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            rope_max_seq_len=32,
        ),
        scheduler=diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def cogvideox(**network: Any) -> Any:
    """Text to video; v; latents with time before channels, rotary positions."""
    return diffusers.CogVideoXPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(),
        vae=diffusers.AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(4, 4, 4, 4),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
            scaling_factor=0.7,
        ),
        transformer=diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=TEXT,
            num_layers=1,
            sample_width=8,
            sample_height=8,
            sample_frames=5,
            patch_size=2,
            temporal_compression_ratio=4,
            max_text_seq_length=226,
            use_rotary_positional_embeddings=True,
            **network,
        ),
        scheduler=diffusers.CogVideoXDDIMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            snr_shift_scale=1.0,
        ),
    )


def cogvideox15() -> Any:
    """The same, two latents at once."""
    return cogvideox(patch_size_t=2, patch_bias=False)


FAMILIES: dict[str, Callable[..., Any]] = {f.__name__: f for f in (svd, latte, i2vgen, wan, cogvideox, cogvideox15)}
SIZE = {
    "svd": (16, 4),
    "latte": (16, 4),
    "i2vgen": (16, 4),
    "wan": (32, 5),
    "cogvideox": (32, 9),
    "cogvideox15": (32, 9),
}
"""Height and width in pixels, and frames."""


def save(name: str, folder: Path) -> Path:
    """The pipeline of a family; weights of seed 0, with what begins at zero made small, so that all parts matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = FAMILIES[name]()
        network = getattr(pipeline, "unet", None) or pipeline.transformer
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1 and not parameter.any():
                    parameter.normal_(std=0.02)
    pipeline.save_pretrained(folder / name)
    return folder / name
