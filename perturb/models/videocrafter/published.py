"""The published models: VideoCrafter's four, and those that descend from its network or are it under another name.

Sources: VideoCrafter1 (arXiv 2310.19512), VideoCrafter2 (arXiv 2401.09047), ModelScope (arXiv 2308.06571), T2V-Turbo
(arXiv 2405.18750) and its version 2 (arXiv 2410.05677), DynamiCrafter (arXiv 2310.12190), and their configurations.
"""

import difflib
from dataclasses import replace
from functools import partial
from typing import Literal

from perturb.errors import UserError
from perturb.models.videocrafter.spec import (
    ImageSpec,
    ModelSpec,
    ResamplerSpec,
    SamplingDefaults,
    ScheduleSpec,
    TextSpec,
    UNetSpec,
    VAESpec,
)


def _unet(*, temporal_conv: bool, fps_cond: bool, relative_position: bool, image_attention: bool) -> UNetSpec:
    return UNetSpec(
        model_channels=320,
        channel_mult=(1, 2, 4, 4),
        num_res_blocks=2,
        attention_resolutions=(4, 2, 1),
        num_head_channels=64,
        context_dim=1024,
        temporal_length=16,
        temporal_conv=temporal_conv,
        fps_cond=fps_cond,
        relative_position=relative_position,
        image_attention=image_attention,
    )


_VAE = VAESpec(block_out_channels=(128, 256, 512, 512), layers_per_block=2)
_TEXT = TextSpec(width=1024, heads=16, layers=24, vocab_size=49408, embed_dim=1024, tokenizer="clip")
_IMAGE = ImageSpec(
    width=1280,
    layers=32,
    head_width=80,
    patch_size=14,
    embed_dim=1024,
    text_width=1024,
    vocab_size=49408,
    projector=ResamplerSpec(
        dim=1024, depth=4, head_dim=64, heads=12, num_queries=16, embedding_dim=1280, output_dim=1024
    ),
)

_model = partial(ModelSpec, vae=_VAE, text=_TEXT)
_V2 = _unet(temporal_conv=True, fps_cond=True, relative_position=False, image_attention=False)
_PER_FRAME = replace(_IMAGE, frames=16, joins="first", projector=replace(_IMAGE.projector, num_queries=16 * 16))


def _turbo(name: str, *, fps: int, motion_cond: bool = False) -> ModelSpec:
    """A T2V-Turbo: VideoCrafter2 that is told its guidance scale, and has no latent scale."""
    return _model(
        name=name,
        unet=replace(_V2, guidance_dim=256, motion_cond=motion_cond),
        schedule=ScheduleSpec(),
        sampling=SamplingDefaults(height=320, width=512, frames=16, fps=fps, steps=4, guidance=7.5),
    )


def _dynamicrafter(
    name: str,
    *,
    height: int,
    width: int,
    rate: int,
    latent_scale: float | None,
    joins: Literal["first", "ends"] = "first",
) -> ModelSpec:
    """A DynamiCrafter; the one without a latent scale is the first, which predicts ε."""
    first = latent_scale is None
    unet = _unet(temporal_conv=True, fps_cond=True, relative_position=False, image_attention=True)
    return _model(
        name=name,
        unet=replace(unet, in_channels=8, learned_image_scale=first),
        image=replace(_PER_FRAME, joins=joins),
        schedule=ScheduleSpec()
        if first
        else ScheduleSpec(latent_scale=latent_scale, scale_table_length=1400, zero_terminal_snr=True, prediction="v"),
        sampling=SamplingDefaults(
            height=height, width=width, frames=16, fps=rate, rate="stride" if first else "fps", guidance=7.5
        ),
    )


SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        _model(
            name="t2v_512_v1",
            unet=_unet(temporal_conv=False, fps_cond=False, relative_position=True, image_attention=False),
            schedule=ScheduleSpec(),
            sampling=SamplingDefaults(height=320, width=512, frames=16, fps=28),
        ),
        _model(
            name="t2v_1024_v1",
            unet=_unet(temporal_conv=False, fps_cond=True, relative_position=True, image_attention=False),
            schedule=ScheduleSpec(latent_scale=0.3, scale_table_length=1000),
            sampling=SamplingDefaults(height=576, width=1024, frames=16, fps=28),
        ),
        _model(
            name="i2v_512_v1",
            unet=_unet(temporal_conv=True, fps_cond=True, relative_position=False, image_attention=True),
            image=_IMAGE,
            schedule=ScheduleSpec(latent_scale=0.7, scale_table_length=1400),
            sampling=SamplingDefaults(height=320, width=512, frames=16, fps=8),
        ),
        _model(
            name="t2v_512_v2",
            unet=_V2,
            schedule=ScheduleSpec(latent_scale=0.7, scale_table_length=1400),
            sampling=SamplingDefaults(height=320, width=512, frames=16, fps=28),
        ),
        _model(
            name="modelscope",
            unet=replace(_V2, fps_cond=False),
            text=replace(_TEXT, layers=23, skip_last=0),  # the same layer is read: diffusers leaves the last one out
            schedule=ScheduleSpec(),
            # the defaults of diffusers' TextToVideoSDPipeline; fps only says how fast a clip is shown
            sampling=SamplingDefaults(height=256, width=256, frames=16, fps=8, guidance=9.0, eta=0.0),
        ),
        _turbo("t2v_turbo_v1", fps=16),
        _turbo("t2v_turbo_v2", fps=8),
        _turbo("t2v_turbo_v2_mg", fps=8, motion_cond=True),
        _dynamicrafter("dynamicrafter_256", height=256, width=256, rate=3, latent_scale=None),
        _dynamicrafter("dynamicrafter_512", height=320, width=512, rate=24, latent_scale=0.7),
        _dynamicrafter("dynamicrafter_1024", height=576, width=1024, rate=10, latent_scale=0.3),
        _dynamicrafter("dynamicrafter_interpolation", height=320, width=512, rate=5, latent_scale=0.7, joins="ends"),
    )
}


def get_spec(name: str) -> ModelSpec:
    """The published spec called ``name``; an unknown name is a UserError that suggests the nearest one."""
    if name in SPECS:
        return SPECS[name]
    close = difflib.get_close_matches(name, SPECS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UserError(f"unknown model spec {name!r}.{hint} Known: {', '.join(SPECS)}.")
