"""The three published AnimateDiffs: Stable Diffusion 1.5 and a motion module.

Source: AnimateDiff (arXiv 2307.04725) and its published configurations.
"""

from dataclasses import replace

from perturb.errors import UserError
from perturb.models.videocrafter.spec import ModelSpec, SamplingDefaults, ScheduleSpec, TextSpec, UNetSpec, VAESpec

_UNET = UNetSpec(
    model_channels=320,
    channel_mult=(1, 2, 4, 4),
    num_res_blocks=2,
    attention_resolutions=(4, 2, 1),
    num_head_channels=None,
    num_heads=8,
    context_dim=768,
    temporal_length=16,
    temporal_conv=False,
    fps_cond=False,
    relative_position=False,
    image_attention=False,
    init_attention=False,
    motion_length=32,
    motion_middle=False,
    motion_norm="frame",
)
_TEXT = TextSpec(
    width=768, heads=12, layers=12, vocab_size=49408, embed_dim=768, skip_last=0, tokenizer="clip", origin="openai"
)


def _spec(version: int, unet: UNetSpec) -> ModelSpec:
    return ModelSpec(
        name=f"animatediff_v{version}",
        unet=unet,
        vae=VAESpec(block_out_channels=(128, 256, 512, 512), layers_per_block=2),
        text=_TEXT,
        schedule=ScheduleSpec(beta_schedule="linear"),
        sampling=SamplingDefaults(height=512, width=512, frames=16, fps=8, steps=25, guidance=7.5, eta=0.0),
    )


SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        _spec(1, replace(_UNET, motion_length=24, clip_norm=True)),
        _spec(2, replace(_UNET, motion_middle=True)),
        _spec(3, _UNET),
    )
}
"""As published. The first version also normalises its residual blocks over all frames."""


def normalised(spec: str | ModelSpec, norm: str) -> ModelSpec:
    """``spec``, or the published one of this name, with the norms of the published code (``frame``) or diffusers'.

    The latter (``clip``) are those of UNetMotionModel: of a motion module over all frames, of a residual block over
    each one, in every version. The same weights then give other numbers.
    """
    if isinstance(spec, str) and spec not in SPECS:
        raise UserError(f"unknown AnimateDiff {spec!r}; allowed: {', '.join(SPECS)}")
    spec = SPECS[spec] if isinstance(spec, str) else spec
    if norm not in ("frame", "clip"):
        raise UserError(f"motion_norm is {norm!r}; allowed: frame (the published code), clip (diffusers)")
    return spec if norm == "frame" else replace(spec, unet=replace(spec.unet, motion_norm="clip", clip_norm=False))
