"""The small complete system that ships with the package: VideoCrafter2's topology at a laptop's size.

Same flags as ``t2v_512_v2`` (temporal convolutions, init attention, fps conditioning, latent scale 0.7, f = 8 KL
autoencoder with 4 latent channels, penultimate CLIP text tokens); smaller numbers everywhere.
"""

from perturb.models.videocrafter.spec import (
    ModelSpec,
    SamplingDefaults,
    ScheduleSpec,
    TextSpec,
    UNetSpec,
    VAESpec,
)

NANO = ModelSpec(
    name="nano",
    unet=UNetSpec(
        model_channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(2,),
        num_head_channels=8,
        context_dim=64,
        temporal_length=8,
        temporal_conv=True,
        fps_cond=True,
        relative_position=False,
        image_attention=False,
        norm_groups=4,
        text_tokens=16,
    ),
    vae=VAESpec(block_out_channels=(16, 32, 64, 128), layers_per_block=1, norm_groups=2, scale_factor=1.0),
    text=TextSpec(width=64, heads=4, layers=3, vocab_size=30, tokens=16, embed_dim=64, tokenizer="file"),
    schedule=ScheduleSpec(latent_scale=0.7),
    sampling=SamplingDefaults(height=64, width=64, frames=8, fps=8, steps=20, guidance=4.0, eta=0.0),
)
