"""T2V-Turbo's LoRA file, a list without names: whose factors come when.

up_0, down_0, up_1, down_1, … over every Linear, Conv2d and Conv3d of the published UNet, in the order in which its
constructor makes them. Source: T2V-Turbo (arXiv 2405.18750) and its code.
"""

from __future__ import annotations

from torch import nn

from perturb.models.videocrafter.keymap.unet import UNET_PREFIX, unet_official_to_ours
from perturb.models.videocrafter.spec import UNetSpec
from perturb.nn import VideoUNet

LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d)  # Conv1d, of init_attn, has no factors
ORDER = (
    *("time_embed", "fps_embedding", "time_cond_proj", "input_blocks", "init_attn", "middle_block", "output_blocks"),
    *("in_layers", "emb_layers", "out_layers", "skip_connection", "temopral_conv", "conv1", "conv2", "conv3", "conv4"),
    *("proj_in", "transformer_blocks", "attn1", "ff", "attn2", "proj_out"),
    *("to_q", "to_k", "to_v", "to_out", "net", "proj", "op", "conv", "out"),
)
"""Names at one place of the published UNet, as its constructors make them; numbers count."""


def lora_layers(unet: VideoUNet, spec: UNetSpec) -> dict[str, str]:
    """Official module → ours, for every layer that has factors, in the order of the list."""
    pairs = {}
    for official, ours in unet_official_to_ours(spec).items():
        module = ours.removesuffix(".weight")
        if module != ours and isinstance(unet.get_submodule(module), LAYERS):
            pairs[official.removeprefix(UNET_PREFIX).removesuffix(".weight")] = module
    return dict(sorted(pairs.items(), key=lambda pair: _place(pair[0])))


def _place(official: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else ORDER.index(part) for part in official.split("."))
