"""Names of motion modules and of their LoRAs: the published ones and diffusers' ↔ ours."""

from perturb.models.names import layer_names
from perturb.models.videocrafter.keymap.names import MOTION, PUBLISHED
from perturb.models.videocrafter.keymap.stable_diffusion import diffusers_keys, diffusers_unet, meta_unet
from perturb.models.videocrafter.spec import UNetSpec

POSITIONS = ".pe"
"""End of the keys of the sinusoid, which is computed and no weight."""


def diffusers_name(key: str) -> str:
    """The name in diffusers' MotionAdapter of a published one, or of its own.

    >>> diffusers_name("mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0.norms.1.bias")
    'mid_block.motion_modules.0.transformer_blocks.0.norm2.bias'
    """
    for published, theirs in PUBLISHED:
        key = key.replace(published, theirs)
    return key


def motion_keys(spec: UNetSpec) -> dict[str, str]:
    """Key in diffusers' ``MotionAdapter`` → parameter in ``VideoUNet``."""
    return {key: ours for key, ours in diffusers_keys(meta_unet(spec)).items() if MOTION in key}


def lora_target(key: str) -> tuple[str, str]:
    """Layer (diffusers' name) and factor, ``down`` or ``up``, of a key of a domain adapter or motion LoRA.

    >>> lora_target("down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight")
    ('down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0', 'up')
    """
    owner, _, rest = diffusers_name(key).removeprefix("unet.").partition(".processor.")
    layer, _, factor = rest.removesuffix(".weight").partition("_lora.")
    return f"{owner}.{'to_out.0' if layer == 'to_out' else layer}", factor


def lora_layers(spec: UNetSpec, *, temporal: bool) -> dict[str, str]:
    """Layer in diffusers → our layer: of the motion modules, or of the image model."""
    return layer_names(motion_keys(spec) if temporal else diffusers_unet(spec))
