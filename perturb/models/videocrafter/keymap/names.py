"""The vocabularies of our UNet: VideoCrafter's keys in the order of its modules, and those of diffusers."""

from __future__ import annotations

from perturb.models.names import DIFFUSERS, OFFICIAL, vocabularies
from perturb.models.videocrafter.keymap.stable_diffusion import diffusers_keys
from perturb.models.videocrafter.keymap.unet import UNET_PREFIX, unet_keys
from perturb.nn import VideoUNet

# In which order the constructors of the published network register their modules.
REGISTERED = (
    *("time_embed", "fps_embedding", "time_cond_proj", "motion_cond_proj", "combine_proj"),
    *("input_blocks", "init_attn", "middle_block", "output_blocks", "out"),
    *("in_layers", "emb_layers", "out_layers", "skip_connection", "temopral_conv"),
    *("norm", "proj_in", "transformer_blocks", "proj_out"),
    *("attn1", "ff", "attn2", "norm1", "norm2", "norm3"),
    *("to_q", "to_k", "to_v", "to_out", "relative_position_k", "relative_position_v", "to_k_ip", "to_v_ip"),
)


@vocabularies.register
def _(network: VideoUNet) -> dict[str, dict[str, str]]:
    official = {key.removeprefix(UNET_PREFIX): ours for key, ours in unet_keys(network).items()}
    ordered = {key: official[key] for key in sorted(official, key=_place)}
    return {OFFICIAL: ordered, DIFFUSERS: diffusers_keys(network)}


def _place(key: str) -> list[tuple[int, str]]:
    """Where a key stands: numbers by their size, names as in `REGISTERED`, others by their letters."""
    parts = key.split(".")
    return [(int(p) if p.isdigit() else REGISTERED.index(p) if p in REGISTERED else len(REGISTERED), p) for p in parts]
