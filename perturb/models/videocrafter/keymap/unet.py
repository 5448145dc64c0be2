"""Official names of the UNet and of the image projector, block by block.

The maps are built by walking our own network (on the meta device) in the order in which the official one numbers its
blocks, so that every name comes from the architecture and none from a pattern.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from perturb.models.videocrafter.spec import ResamplerSpec, UNetSpec
from perturb.nn import Resampler, VideoUNet
from perturb.nn.blocks import Level
from perturb.nn.resblock import Downsample, ResBlock, Upsample
from perturb.nn.transformer import SpatialTransformer, TemporalTransformer

UNET_PREFIX = "model.diffusion_model."
PROJECTOR_PREFIX = "image_proj_model."

# Each table: our module (relative to the block) → the official one.
EMBEDDING = {"expand": "0", "mix": "2"}
TEMPORAL_CONV = {
    "layers.0.norm": "conv1.0",
    "layers.0.conv": "conv1.2",  # the first layer has no dropout
    "layers.1.norm": "conv2.0",
    "layers.1.conv": "conv2.3",
    "layers.2.norm": "conv3.0",
    "layers.2.conv": "conv3.3",
    "layers.3.norm": "conv4.0",
    "layers.3.conv": "conv4.3",
}
RESBLOCK = {
    "norm_in": "in_layers.0",
    "conv_in": "in_layers.2",
    "embedding": "emb_layers.1",
    "norm_out": "out_layers.0",
    "conv_out": "out_layers.3",
    "skip": "skip_connection",
    # "temopral" is how the published checkpoints spell it
    **{f"temporal.{ours}": f"temopral_conv.{official}" for ours, official in TEMPORAL_CONV.items()},
}
ATTENTION = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "out": "to_out.0",
    "image.key": "to_k_ip",
    "image.value": "to_v_ip",
    "image.alpha": "alpha",
    "relative_key.table": "relative_position_k.embeddings_table",
    "relative_value.table": "relative_position_v.embeddings_table",
}
GUIDANCE = {"guidance": "time_cond_proj", "motion": "motion_cond_proj", "combine": "combine_proj"}
FEED_FORWARD = {
    "norm_feed_forward": "norm3",
    "feed_forward.expand": "ff.net.0.proj",
    "feed_forward.contract": "ff.net.2",
}
SPATIAL_BLOCK = (
    FEED_FORWARD
    | {"norm_self": "norm1", "norm_cross": "norm2"}
    | {f"self_attention.{ours}": f"attn1.{official}" for ours, official in ATTENTION.items()}
    | {f"cross_attention.{ours}": f"attn2.{official}" for ours, official in ATTENTION.items()}
)
TEMPORAL_BLOCK = (
    FEED_FORWARD
    | {"norm_1": "norm1", "norm_2": "norm2"}
    | {f"attention_1.{ours}": f"attn1.{official}" for ours, official in ATTENTION.items()}
    | {f"attention_2.{ours}": f"attn2.{official}" for ours, official in ATTENTION.items()}
)
LEAVES = {ResBlock: RESBLOCK, Downsample: {"conv": "op"}, Upsample: {"conv": "conv"}}
TRANSFORMER = {"norm": "norm", "project_in": "proj_in", "project_out": "proj_out"}
RESAMPLER = {"project_in": "proj_in", "project_out": "proj_out", "norm_out": "norm_out"}
RESAMPLER_LAYER = {
    "attention.norm_tokens": "0.norm1",
    "attention.norm_latents": "0.norm2",
    "attention.query": "0.to_q",
    "attention.key_value": "0.to_kv",
    "attention.out": "0.to_out",
    "feed_forward.norm": "1.0",
    "feed_forward.expand": "1.1",
    "feed_forward.contract": "1.3",
}


def unet_official_to_ours(spec: UNetSpec) -> dict[str, str]:
    """Official checkpoint key (with its prefix) → parameter name in ``VideoUNet``; a bijection for this spec."""
    with torch.device("meta"):
        return unet_keys(VideoUNet(spec))


def unet_keys(unet: VideoUNet) -> dict[str, str]:
    """`unet_official_to_ours` of a network."""
    return _bijection(unet, _unet_pairs(unet), UNET_PREFIX)


def unet_modules(unet: VideoUNet) -> dict[str, str]:
    """Official module path (no prefix) → our module path, for every block that exists in both."""
    modules = {"time_embed": "time_embedding", "input_blocks.0": "conv_in", "middle_block": "middle"}
    if unet.fps_embedding is not None:
        modules["fps_embedding"] = "fps_embedding"
    if unet.init_attention is not None:
        modules["init_attn"] = "init_attention"
    for official, members in _numbered(unet).items():
        modules |= {f"{official}.{position}": ours for position, ours in enumerate(members)}
        owners = {ours if ours.endswith("resample") else ours.rpartition(".")[0] for ours in members}
        if len(owners) == 1:  # an official block that ends in an upsampling has no single counterpart of ours
            modules.setdefault(official, owners.pop())
    return modules


def projector_official_to_ours(spec: ResamplerSpec) -> dict[str, str]:
    """Official checkpoint key (with its prefix) → parameter name in ``Resampler``; a bijection for this spec."""
    with torch.device("meta"):
        resampler = Resampler(spec)
    pairs = RESAMPLER | {"latents": "latents"}
    for index in range(spec.depth):
        pairs |= {f"layers.{index}.{ours}": f"layers.{index}.{official}" for ours, official in RESAMPLER_LAYER.items()}
    return _bijection(resampler, pairs, PROJECTOR_PREFIX)


def _bijection(network: nn.Module, modules: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Every parameter of ``network`` under its official key; each parameter and each key exactly once."""
    keys = {}
    for ours in network.state_dict():
        owner, _, leaf = ours.rpartition(".")
        official = modules[ours] if ours in modules else f"{modules[owner]}.{leaf}"
        assert prefix + official not in keys, f"{official} is claimed twice"
        keys[prefix + official] = ours
    return keys


def _numbered(unet: VideoUNet) -> dict[str, list[str]]:
    """Official block → our modules in it, in the official order: each way and the middle has a numbering of its own."""
    middle = [f"middle.stage.{name}" for name in _members(unet.middle.stage)]
    blocks = {"middle_block": [*middle, "middle.resblock"]}
    count = 1  # input_blocks.0 is the first convolution
    for index, level in enumerate(Level.each(unet.down)):
        for members in _stages(f"down.{index}", level):
            blocks[f"input_blocks.{count}"] = members
            count += 1
        if level.resample is not None:
            blocks[f"input_blocks.{count}"] = [f"down.{index}.resample"]
            count += 1
    count = 0
    for index, level in enumerate(Level.each(unet.up)):
        for members in _stages(f"up.{index}", level):
            blocks[f"output_blocks.{count}"] = members
            count += 1
        if level.resample is not None:  # on the way up it is the last member of the last stage's block
            blocks[f"output_blocks.{count - 1}"].append(f"up.{index}.resample")
    return blocks


def _stages(path: str, level: Level) -> Iterator[list[str]]:
    for index, stage in enumerate(level.stages):
        yield [f"{path}.stages.{index}.{name}" for name in _members(stage)]


def _members(stage: nn.Module) -> list[str]:
    """The blocks of a stage in the official order."""
    return [name for name in ("resblock", "spatial", "temporal") if getattr(stage, name) is not None]


def _unet_pairs(unet: VideoUNet) -> dict[str, str]:
    """Our module (or raw parameter) → the official one, for everything in the network."""
    pairs = {"conv_in": "input_blocks.0.0", "norm_out": "out.0", "conv_out": "out.2"}
    for ours, official in EMBEDDING.items():
        pairs[f"time_embedding.{ours}"] = f"time_embed.{official}"
        pairs[f"fps_embedding.{ours}"] = f"fps_embedding.{official}"
    pairs |= {f"guidance_embedding.{ours}": official for ours, official in GUIDANCE.items()}
    if unet.init_attention is not None:
        pairs |= inside("init_attention", "init_attn.0", unet.init_attention)
    for official, members in _numbered(unet).items():
        for position, ours in enumerate(members):
            pairs |= inside(ours, f"{official}.{position}", unet.get_submodule(ours))
    return pairs


def inside(ours: str, official: str, block: nn.Module) -> dict[str, str]:
    """The pairs below one block, by its class."""
    if isinstance(block, SpatialTransformer | TemporalTransformer):
        inner = SPATIAL_BLOCK if isinstance(block, SpatialTransformer) else TEMPORAL_BLOCK
        table = dict(TRANSFORMER)
        for index in range(len(block.blocks)):
            table |= {f"blocks.{index}.{a}": f"transformer_blocks.{index}.{b}" for a, b in inner.items()}
    else:
        table = LEAVES[type(block)]
    return {f"{ours}.{a}": f"{official}.{b}" for a, b in table.items()}
