"""The vocabularies of our UNet: the keys of VideoCrafter in the order of its modules, of AnimateDiff, of diffusers."""

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

MOTION = ".motion_modules."
PUBLISHED = (
    (".temporal_transformer.", "."),
    (".attention_blocks.0.", ".attn1."),
    (".attention_blocks.1.", ".attn2."),
    (".norms.0.", ".norm1."),
    (".norms.1.", ".norm2."),
    (".ff_norm.", ".norm3."),
)
"""Of a motion module, AnimateDiff's → diffusers', whose names inside a transformer are those of VideoCrafter."""


@vocabularies.register
def _(network: VideoUNet) -> dict[str, dict[str, str]]:
    if network.motion_length is not None:
        diffusers = diffusers_keys(network)
        return {OFFICIAL: {_as_published(key): ours for key, ours in diffusers.items()}, DIFFUSERS: diffusers}
    official = {key.removeprefix(UNET_PREFIX): ours for key, ours in unet_keys(network).items()}
    ordered = {key: official[key] for key in sorted(official, key=_place)}
    return {OFFICIAL: ordered, DIFFUSERS: diffusers_keys(network)}


def _as_published(key: str) -> str:
    """AnimateDiff's name of diffusers'.

    >>> _as_published("mid_block.motion_modules.0.transformer_blocks.0.norm2.bias")
    'mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0.norms.1.bias'
    """
    before, motion, inside = key.partition(MOTION)
    if not motion:
        return key
    index, _, rest = inside.partition(".")
    rest = f".temporal_transformer.{rest}"
    for published, theirs in PUBLISHED[1:]:
        rest = rest.replace(theirs, published)
    return before + motion + index + rest


def _place(key: str) -> list[tuple[int, str]]:
    """Where a key stands: numbers by their size, names as in `REGISTERED`, others by their letters."""
    parts = key.split(".")
    return [(int(p) if p.isdigit() else REGISTERED.index(p) if p in REGISTERED else len(REGISTERED), p) for p in parts]
