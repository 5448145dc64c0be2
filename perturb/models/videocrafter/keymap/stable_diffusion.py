"""Names in Stable Diffusion 2.1 ↔ ours: the LDM checkpoint, and the unet/ vae/ text_encoder/ folders of diffusers.

diffusers' video network (ModelScope's) is VideoCrafter's, and has the names of the image network for what both have.

The image network is the video network without its temporal blocks, so its LDM names follow from VideoCrafter's: where a
temporal block is gone, what came after it in the same numbered block moves up by one.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from perturb.models.videocrafter.keymap.diffusion import diffusion_buffers
from perturb.models.videocrafter.keymap.encoders import TEXT_PREFIX, text_leftovers
from perturb.models.videocrafter.keymap.unet import (
    TEMPORAL_CONV,
    UNET_PREFIX,
    inside,
    unet_modules,
    unet_official_to_ours,
)
from perturb.models.videocrafter.spec import ModelSpec, ScheduleSpec, UNetSpec
from perturb.nn import VideoUNet
from perturb.nn.blocks import Level, Stage
from perturb.nn.transformer import TemporalTransformer

# What an image network lacks, by the group that the class of a block names, and the one embedding it lacks.
VIDEO_GROUPS = ("temporal", "image")
FPS = "fps_embedding"

RESBLOCK = {
    "norm_in": "norm1",
    "conv_in": "conv1",
    "embedding": "time_emb_proj",
    "norm_out": "norm2",
    "conv_out": "conv2",
    "skip": "conv_shortcut",
}
ENDS = {
    "time_embedding.expand": "time_embedding.linear_1",
    "time_embedding.mix": "time_embedding.linear_2",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
# Stable Diffusion's own autoencoder was published with the names that diffusers gave its attention in 2022.
OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_TEXT_PREFIX = "text_model."  # of transformers before version 5
OLD_TEXT_BUFFER = "embeddings.position_ids"

SCHEDULER = "scheduler/scheduler_config.json"
EMA_PREFIX = "model_ema."
LOG_VARIANCE = "logvar"  # a table of zeros that some versions of the LDM code keep


def without_counterpart(unet: VideoUNet) -> dict[str, tuple[str, ...]]:
    """Our parameters that no image network has: "temporal", "image" and "fps_embedding" → names, in our order."""
    paths = {path: getattr(type(module), "group", None) for path, module in unet.named_modules() if path}
    roots = {path: group for path, group in paths.items() if group in VIDEO_GROUPS} | {FPS: FPS}
    return {
        kind: _below((path for path, group in roots.items() if group == kind), unet) for kind in (*VIDEO_GROUPS, FPS)
    }


def ldm_unet(spec: UNetSpec) -> dict[str, str]:
    """Key in an LDM checkpoint (with its prefix) → parameter in ``VideoUNet``, for all that an image network has."""
    ldm = {official: key for key, official in ldm_renamed(spec).items()}
    return {ldm.get(official, official): ours for official, ours in _shared(spec).items()}


def ldm_renamed(spec: UNetSpec) -> dict[str, str]:
    """LDM key → VideoCrafter key (both with prefix), where the two differ: 14 in the published size."""
    blocks = {f"{UNET_PREFIX}{old}.": f"{UNET_PREFIX}{new}." for old, new in _moved_blocks(meta_unet(spec)).items()}
    return {
        new + official.removeprefix(old): official
        for official in _shared(spec)
        for old, new in blocks.items()
        if official.startswith(old)
    }


def ldm_unused(keys: Iterable[str], spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """Which of ``keys`` (of an LDM checkpoint) have no place in a video system, by the reason."""
    tables = {*diffusion_buffers(ScheduleSpec()), LOG_VARIANCE}
    clip = {TEXT_PREFIX + key for key in text_leftovers(spec.text)}
    kinds = {
        "tables that follow from the noise schedule": lambda key: key in tables,
        "averaged copy of the UNet, beside the UNet itself": lambda key: key.startswith(EMA_PREFIX),
        "parts of CLIP that nobody reads": lambda key: key in clip,
    }
    found = {reason: tuple(key for key in keys if belongs(key)) for reason, belongs in kinds.items()}
    return {reason: named for reason, named in found.items() if named}


def diffusers_unet(spec: UNetSpec) -> dict[str, str]:
    """Key in diffusers' ``UNet2DConditionModel`` → parameter in ``VideoUNet``, for all that an image network has."""
    shared = set(_shared(spec).values())
    return {key: ours for key, ours in diffusers_keys(meta_unet(spec)).items() if ours in shared}


def diffusers_keys(unet: VideoUNet) -> dict[str, str]:
    """Key in diffusers → parameter in ``VideoUNet``, for all that has one there.

    As in ``UNet3DConditionModel``, or with AnimateDiff's motion modules in ``UNetMotionModel``. In the former the
    transformer behind the first convolution has linear projections, where ours has convolutions of width 1. What both
    lack: the embeddings of fps and guidance, image attention.
    """
    modules = dict(ENDS)
    if unet.init_attention is not None:
        modules |= _transformer("init_attention", "transformer_in", unet.init_attention)
    for i, level in enumerate(Level.each(unet.down)):
        modules |= _level(f"down.{i}", f"down_blocks.{i}", level, "downsamplers")
    for i, level in enumerate(Level.each(unet.up)):
        modules |= _level(f"up.{i}", f"up_blocks.{i}", level, "upsamplers")
    modules |= _stage("middle.stage", "mid_block", 0, unet.middle.stage)
    modules |= _pairs("middle.resblock", "mid_block.resnets.1", RESBLOCK)
    modules |= _pairs("middle.resblock.temporal", "mid_block.temp_convs.1", TEMPORAL_CONV)
    keys = {}
    for ours, _ in unet.named_parameters():
        owner, _, leaf = ours.rpartition(".")
        if owner in modules:
            keys[f"{modules[owner]}.{leaf}"] = ours
    return keys


def diffusers_vae(keys: Iterable[str]) -> dict[str, str]:
    """Key in a vae/ folder → key in today's ``AutoencoderKL`` (ours): the old names of the attention made new."""
    return {key: _new_vae_name(key) for key in keys}


def diffusers_text(keys: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Key in a text_encoder/ folder → ours; and the keys that have no place: a buffer of counted positions."""
    names = {key: key.removeprefix(OLD_TEXT_PREFIX) for key in keys}
    unused = tuple(key for key, name in names.items() if name == OLD_TEXT_BUFFER)
    return {key: f"transformer.{name}" for key, name in names.items() if key not in unused}, unused


def diffusers_settings(spec: ModelSpec) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Config file → setting → (as our networks compute it, diffusers' default): what no shape of a tensor tells."""
    unet, schedule = spec.unet, spec.schedule
    return {
        "unet/config.json": {
            "attention_head_dim": (list(unet.heads), 8),  # which diffusers calls what is the number of heads
            "norm_num_groups": (unet.norm_groups, 32),
            "norm_eps": (1e-5, 1e-5),
            "act_fn": ("silu", "silu"),
            "flip_sin_to_cos": (True, True),
            "freq_shift": (0, 0),
        },
        "vae/config.json": {
            "norm_num_groups": (spec.vae.norm_groups, 32),
            "act_fn": ("silu", "silu"),
            "scaling_factor": (spec.vae.scale_factor, 0.18215),
        },
        "text_encoder/config.json": {
            "hidden_act": (spec.text.activation, "quick_gelu"),
            "num_attention_heads": (spec.text.heads, 8),
            "layer_norm_eps": (1e-5, 1e-5),
        },
        SCHEDULER: {
            "prediction_type": ("epsilon", "epsilon"),
            "num_train_timesteps": (schedule.timesteps, 1000),
            "beta_schedule": ("scaled_linear", "linear"),
            "beta_start": (schedule.beta_start, 0.0001),
            "beta_end": (schedule.beta_end, 0.02),
        },
    }


@functools.lru_cache(maxsize=8)
def meta_unet(spec: UNetSpec) -> VideoUNet:
    """The network without memory for its weights, to be read only: everybody gets the same one."""
    with torch.device("meta"):
        return VideoUNet(spec)


@functools.lru_cache(maxsize=8)
def _shared(spec: UNetSpec) -> Mapping[str, str]:
    """VideoCrafter's key → our parameter, for all that an image network has too."""
    absent = {name for names in without_counterpart(meta_unet(spec)).values() for name in names}
    return {official: ours for official, ours in unet_official_to_ours(spec).items() if ours not in absent}


def _below(paths: Iterable[str], unet: VideoUNet) -> tuple[str, ...]:
    prefixes = tuple(f"{path}." for path in paths)
    return tuple(name for name, _ in unet.named_parameters() if name.startswith(prefixes))


def _moved_blocks(unet: VideoUNet) -> dict[str, str]:
    """VideoCrafter's name of a block → LDM's, where the temporal block before it is gone."""
    blocks: dict[str, nn.Module] = {official: unet.get_submodule(ours) for official, ours in unet_modules(unet).items()}
    moved = {}
    for official, block in blocks.items():
        parent, _, position = official.rpartition(".")
        before = [blocks.get(f"{parent}.{i}") for i in range(int(position))] if position.isdigit() else []
        gone = sum(isinstance(each, TemporalTransformer) for each in before)
        if gone and not isinstance(block, TemporalTransformer):
            moved[official] = f"{parent}.{int(position) - gone}"
    return moved


def _level(ours: str, theirs: str, level: Level, resample: str) -> dict[str, str]:
    modules = {}
    for j, stage in enumerate(level.stages):
        assert isinstance(stage, Stage)
        modules |= _stage(f"{ours}.stages.{j}", theirs, j, stage)
    if level.resample is not None:
        modules[f"{ours}.resample.conv"] = f"{theirs}.{resample}.0.conv"
    return modules


def _stage(ours: str, theirs: str, index: int, stage: Stage) -> dict[str, str]:
    """A residual block and its temporal convolution, and the transformers that there are."""
    modules = _pairs(f"{ours}.resblock", f"{theirs}.resnets.{index}", RESBLOCK)
    modules |= _pairs(f"{ours}.resblock.temporal", f"{theirs}.temp_convs.{index}", TEMPORAL_CONV)
    if stage.spatial is not None:
        modules |= _transformer(f"{ours}.spatial", f"{theirs}.attentions.{index}", stage.spatial)
    if stage.temporal is not None:
        place = f"{theirs}.{'motion_modules' if stage.temporal.positions else 'temp_attentions'}.{index}"
        modules |= _transformer(f"{ours}.temporal", place, stage.temporal)
    return modules


def _transformer(ours: str, theirs: str, block: nn.Module) -> dict[str, str]:
    """As in the published checkpoints, without image attention, which diffusers lacks."""
    return {a: b for a, b in inside(ours, theirs, block).items() if ".image." not in a}


def _pairs(ours: str, theirs: str, table: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.{a}": f"{theirs}.{b}" for a, b in table.items()}


def _new_vae_name(key: str) -> str:
    owner, _, leaf = key.rpartition(".")
    parent, _, layer = owner.rpartition(".")
    is_old = parent.endswith("mid_block.attentions.0") and layer in OLD_VAE_ATTENTION
    return f"{parent}.{OLD_VAE_ATTENTION[layer]}.{leaf}" if is_old else key
