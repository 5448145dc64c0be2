"""ModelScope's folder, as diffusers keeps it: unet/ (``UNet3DConditionModel``), vae/, text_encoder/, scheduler/.

Its network is VideoCrafter2's without a frame rate, so that VideoCrafter2 at one frame rate can be written as one too.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perturb.errors import UserError
from perturb.models.videocrafter.files import read_json, read_weights, write_safetensors
from perturb.models.videocrafter.folder import flat_shapes, replacing_folder
from perturb.models.videocrafter.keymap import EXTRA, Components
from perturb.models.videocrafter.keymap.stable_diffusion import (
    OLD_TEXT_PREFIX,
    SCHEDULER,
    diffusers_keys,
    diffusers_settings,
    diffusers_text,
    diffusers_vae,
    meta_unet,
)
from perturb.models.videocrafter.skeleton import skeleton
from perturb.models.videocrafter.spec import ModelSpec, ScheduleSpec, UNetSpec
from perturb.models.videocrafter.strict import differences
from perturb.nn import ScalarEmbedding

UNET_CLASS = "UNet3DConditionModel"
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
ENDINGS = (".safetensors", ".bin", ".fp16.safetensors", ".fp16.bin")
OLD_TEXT = "pytorch_model"  # a text encoder's .bin has this name
CONV1D = ("transformer_in.proj_in.weight", "transformer_in.proj_out.weight")  # linear there: o i ↔ o i 1 here
LATENT_SCALE = "latent_scale"  # no setting of diffusers', whose schedulers leave it out
FPS = "fps_embedding."


def is_diffusers(path: Path) -> bool:
    """Whether ``path`` is a folder with diffusers' video network."""
    config = path / "unet" / "config.json"
    return config.is_file() and read_json(config).get("_class_name", UNET_CLASS) == UNET_CLASS


def read_diffusers(path: Path, wanted: ModelSpec) -> tuple[ModelSpec, Components, dict[str, Path]]:
    """Spec (``wanted`` with the schedule of the folder), components and files; every key, shape and setting is checked.

    Raises UserError for what is missing or does not fit.
    """
    spec = replace(wanted, schedule=_schedule(path, wanted.schedule))
    if wrong := unlike(path, video_settings(spec)):
        raise UserError("\n".join([f"{path} is not {spec.name}, whatever its tensors:", *wrong]))
    files = {name: _weights(path / name, stem) for name, stem in WEIGHTS.items()}
    unet, vae, text = (read_weights(file) for file in files.values())
    (text_keys, _), vae_keys = diffusers_text(text), diffusers_vae(vae)
    unet = {key: tensor.unsqueeze(-1) if key in CONV1D else tensor for key, tensor in unet.items()}
    names = diffusers_keys(meta_unet(spec.unet))
    components: Components = {
        "unet": {names.get(key, f"{key} (diffusers)"): tensor for key, tensor in unet.items()},
        "vae": {name: vae[key] for key, name in vae_keys.items()},
        "text_encoder": {name: text[key] for key, name in text_keys.items()},
    }
    expected = {name: module.state_dict() for name, module in skeleton(spec).items()}
    if listing := differences(flat_shapes(components), flat_shapes(expected)):
        raise UserError(f"{path} does not fit {spec.name}:\n{listing}")
    named = {f"{name}/{file.name}": file for name, file in files.items()}
    return spec, {**components, EXTRA: {}}, named


def write_diffusers(
    folder: Path, spec: ModelSpec, components: Mapping[str, Mapping[str, Tensor]], fps: int | None
) -> None:
    """Write unet/, vae/, text_encoder/ and scheduler/, whole or not at all.

    A network that is told a frame rate becomes the one at ``fps``, exactly: what its embedding adds to that of the
    timestep is then a constant. Blocks of the text encoder that are not read are left out, as in diffusers' folders.
    Raises UserError for what ``UNet3DConditionModel`` cannot be, and unless ``fps`` is given where it is needed.
    """
    _check_writable(spec)
    if spec.unet.fps_cond != (fps is not None):
        need = "is told a frame rate, and diffusers' is not: give fps" if fps is None else "has no frame rate: no fps"
        raise UserError(f"the network of {spec.name} {need}")
    unet = components["unet"] if fps is None else at_fps(components["unet"], spec.unet, fps)
    plain = replace(spec.unet, fps_cond=False)
    text = {
        OLD_TEXT_PREFIX + key.removeprefix("transformer."): tensor
        for key, tensor in components["text_encoder"].items()
        if not key.startswith(spec.text.unread)
    }
    written = {
        "unet": {
            key: unet[ours].squeeze(-1) if key in CONV1D else unet[ours]
            for key, ours in diffusers_keys(meta_unet(plain)).items()
        },
        "vae": components["vae"],
        "text_encoder": text,
    }
    with replacing_folder(folder, overwrite=True) as temporary:
        for name, config in configs(spec).items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name, tensors in written.items():
            write_safetensors(temporary / name / f"{WEIGHTS[name]}.safetensors", tensors)


def at_fps(state: Mapping[str, Tensor], spec: UNetSpec, fps: int) -> dict[str, Tensor]:
    """The UNet that is told nothing and computes what this one does at ``fps``: b ← b + fps_embedding(fps)."""
    embedding = ScalarEmbedding(width=spec.model_channels, out_width=4 * spec.model_channels)
    embedding.load_state_dict({key.removeprefix(FPS): v.float() for key, v in state.items() if key.startswith(FPS)})
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(FPS)}
    bias = kept["time_embedding.mix.bias"]
    with torch.no_grad():
        told = embedding(torch.tensor([fps]))[0]
    return kept | {"time_embedding.mix.bias": (bias.float() + told).to(bias.dtype)}


def video_settings(spec: ModelSpec) -> dict[str, dict[str, tuple[Any, Any]]]:
    """`diffusers_settings` of the video network: what no shape of a tensor tells."""
    unet = {
        "attention_head_dim": (spec.unet.num_head_channels, 64),  # here the width of a head
        "num_attention_heads": (None, None),
        "norm_num_groups": (spec.unet.norm_groups, 32),
        "norm_eps": (1e-5, 1e-5),
        "act_fn": ("silu", "silu"),
        "mid_block_scale_factor": (1, 1),
    }
    return diffusers_settings(spec) | {"unet/config.json": unet}


def unlike(path: Path, settings: Mapping[str, Mapping[str, tuple[Any, Any]]]) -> list[str]:
    """A line for every setting of the config files that is not as our networks compute it; absent: diffusers' default.

    A folder need not have a scheduler.
    """
    wrong = []
    for name, wanted_here in settings.items():
        if name == SCHEDULER and not (path / name).is_file():
            continue
        config = read_json(path / name)
        for key, (wanted, default) in wanted_here.items():
            given = config.get(key, default)
            # one number for all levels is the same as a list of it
            if given != wanted and not (isinstance(wanted, list) and [given] * len(wanted) == wanted):
                wrong.append(f"  {name}: {key} is {given!r}; wanted {wanted!r}")
    return wrong


def configs(spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """Config file → all that diffusers and transformers need to build what is written."""
    unet, vae, text, schedule = spec.unet, spec.vae, spec.text, spec.schedule
    attends = [2**level in unet.attention_resolutions for level in range(len(unet.channel_mult))]
    down = ["CrossAttnDownBlock3D" if each else "DownBlock3D" for each in attends]
    up = ["CrossAttnUpBlock3D" if each else "UpBlock3D" for each in reversed(attends)]
    levels = len(vae.block_out_channels)
    shapes: dict[str, dict[str, Any]] = {
        "unet/config.json": {
            "_class_name": UNET_CLASS,
            "in_channels": unet.in_channels,
            "out_channels": unet.out_channels,
            "block_out_channels": [unet.model_channels * mult for mult in unet.channel_mult],
            "layers_per_block": unet.num_res_blocks,
            "cross_attention_dim": unet.context_dim,
            "down_block_types": down,
            "up_block_types": up,
        },
        "vae/config.json": {
            "_class_name": "AutoencoderKL",
            "block_out_channels": list(vae.block_out_channels),
            "layers_per_block": vae.layers_per_block,
            "latent_channels": vae.latent_channels,
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        },
        "text_encoder/config.json": {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "intermediate_size": 4 * text.width,
            "projection_dim": text.embed_dim,
            "num_hidden_layers": text.layers - text.skip_last,
            "max_position_embeddings": text.tokens,
        },
        SCHEDULER: {
            "_class_name": "DDIMScheduler",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
            **({} if schedule.latent_scale is None else {LATENT_SCALE: schedule.latent_scale}),
        },
    }
    settings = video_settings(spec)
    return {name: config | {k: v for k, (v, _) in settings[name].items()} for name, config in shapes.items()}


def _check_writable(spec: ModelSpec) -> None:
    unet = spec.unet
    alien = {
        "an image": spec.image is not None,
        "a guidance scale": unet.guidance_dim is not None,
        "no temporal convolutions": not unet.temporal_conv,
        "no initial attention": not unet.init_attention,
        "relative positions": unet.relative_position,
        "causal attention": unet.causal,
        "scale_shift_norm or resblock_updown": unet.scale_shift_norm or unet.resblock_updown,
        "v-prediction or zero terminal SNR": spec.schedule != replace(ScheduleSpec(), **_plain(spec.schedule)),
        "words of its own": spec.text.tokenizer == "file",
    }
    if has := [what for what, present in alien.items() if present]:
        raise UserError(f"{spec.name} has {', '.join(has)}, which diffusers' {UNET_CLASS} has not; it stays as it is")


def _plain(schedule: ScheduleSpec) -> dict[str, Any]:
    kept = ("timesteps", "beta_start", "beta_end", "latent_scale", "scale_table_length")
    return {name: getattr(schedule, name) for name in kept}


def _schedule(path: Path, wanted: ScheduleSpec) -> ScheduleSpec:
    """The one of the spec, with the latent scale that a folder of ours names."""
    if not (path / SCHEDULER).is_file():
        return wanted
    return replace(wanted, latent_scale=read_json(path / SCHEDULER).get(LATENT_SCALE, wanted.latent_scale))


def _weights(folder: Path, stem: str) -> Path:
    stems = (stem, OLD_TEXT) if folder.name == "text_encoder" else (stem,)
    names = [each + ending for ending in ENDINGS for each in stems]
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"no weights in {folder}; wanted {names[0]} (also read: {', '.join(names[1:])})")
    return found
