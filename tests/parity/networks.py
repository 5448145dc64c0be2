"""Our networks with a golden fixture's configuration and weights."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from perturb.models.videocrafter.keymap.unet import UNET_PREFIX, unet_official_to_ours
from perturb.models.videocrafter.spec import UNetSpec
from perturb.nn import VideoUNet
from tests.parity.fixtures import Fixture

DEFAULT_FPS = 16  # of the published network, where neither a call nor the configuration (default_fs) says fps
TEXT_TOKENS = 77  # where the published image-to-video network splits its joined context

# Published argument → field of UNetSpec. The others have one value in every published model, and we build only that.
ARGUMENTS = {
    "in_channels": "in_channels",
    "out_channels": "out_channels",
    "model_channels": "model_channels",
    "channel_mult": "channel_mult",
    "num_res_blocks": "num_res_blocks",
    "attention_resolutions": "attention_resolutions",
    "num_head_channels": "num_head_channels",
    "context_dim": "context_dim",
    "temporal_length": "temporal_length",
    "transformer_depth": "transformer_depth",
    "temporal_conv": "temporal_conv",
    "fps_cond": "fps_cond",
    "fs_condition": "fps_cond",
    "time_cond_proj_dim": "guidance_dim",
    "use_relative_position": "relative_position",
    "use_causal_attention": "causal",
    "use_image_attention": "image_attention",
    "image_cross_attention": "image_attention",
    "image_cross_attention_scale_learnable": "learned_image_scale",
    "addition_attention": "init_attention",
    "use_scale_shift_norm": "scale_shift_norm",
    "resblock_updown": "resblock_updown",
}
FIXED = {"use_linear": True, "temporal_attention": True, "temporal_selfatt_only": True}
IGNORED = {"use_checkpoint", "dropout", "default_fs"}  # dropout acts in training, the default where fs is left out


def unet_spec(config: dict[str, Any]) -> UNetSpec:
    """The spec that a published UNet configuration describes; an argument we do not know fails."""
    values: dict[str, Any] = {"fps_cond": False, "image_attention": False, "init_attention": False}
    for name, value in config.items():
        if name in FIXED:
            assert value == FIXED[name], f"{name} = {value}: not supported"
        elif name == "motion_cond_proj_dim":
            values["motion_cond"] = True
        elif name not in IGNORED:
            values[ARGUMENTS[name]] = tuple(value) if isinstance(value, list) else value
    return UNetSpec(**values)


def build_unet(fixture: Fixture, spec: UNetSpec | None = None) -> VideoUNet:
    """The fixture's UNet (or that of ``spec``) with its weights, in eval mode; every weight must find its place."""
    spec = spec or unet_spec(fixture.meta["config"])
    names = unet_official_to_ours(spec)
    state = {names[UNET_PREFIX + key]: value for key, value in fixture.state.items() if UNET_PREFIX + key in names}
    assert spec != unet_spec(fixture.meta["config"]) or len(state) == len(fixture.state)
    unet = VideoUNet(spec)
    unet.load_state_dict(state, strict=True)
    return unet.eval()


def run_call(unet: VideoUNet, fixture: Fixture, call: dict[str, Any]) -> Tensor:
    """Our network's output for one call of a UNet fixture."""
    name = call["name"]
    context, image_context = fixture.given(f"{name}.context"), None
    if unet.image_attention:
        context, image_context = context[:, :TEXT_TOKENS], context[:, TEXT_TOKENS:]
    fps = call["fps"]
    if fps == "tensor":
        fps = fixture.given(f"{name}.fps")
    elif fps == "omitted":
        fps = fixture.meta["config"].get("default_fs", DEFAULT_FPS)
    count = call.get("n_adapter", 0)
    flat = [fixture.given(f"{name}.adapter.{index}") for index in range(count)]
    features = [rearrange(f, "(b t) c h w -> b c t h w", b=call["B"]) for f in flat] if count else None
    x, timesteps = fixture.given(f"{name}.x"), fixture.given(f"{name}.timesteps")
    with torch.no_grad():
        return unet(x, timesteps, context, fps, image_context=image_context, features=features)
