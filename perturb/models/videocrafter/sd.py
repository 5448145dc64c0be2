"""θ_S⁰ from Stable Diffusion 2.1: the image network, the autoencoder and the text encoder of a text-to-video model.

Two formats: the official LDM checkpoint (one file), and diffusers' folder with unet/, vae/ and text_encoder/. Nothing
is matched by chance: every tensor of the source is used or has no place for a reason that is named, and every tensor of
ours is filled or keeps its own initialisation for a reason that is named.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from perturb.errors import UserError
from perturb.models.videocrafter.checkpoint import Source
from perturb.models.videocrafter.diffusers_folder import unlike
from perturb.models.videocrafter.files import read_safetensors, read_weights, weight_files
from perturb.models.videocrafter.folder import flat_shapes, is_folder
from perturb.models.videocrafter.keymap import EXTRA, PREFIXES, Components, component_rules
from perturb.models.videocrafter.keymap.diffusion import SCHEDULE_TABLES
from perturb.models.videocrafter.keymap.encoders import convert_to_official, convert_to_ours
from perturb.models.videocrafter.keymap.stable_diffusion import (
    SCHEDULER,
    diffusers_settings,
    diffusers_text,
    diffusers_unet,
    diffusers_vae,
    ldm_renamed,
    ldm_unet,
    ldm_unused,
    without_counterpart,
)
from perturb.models.videocrafter.skeleton import skeleton
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.strict import check_dtypes, check_finite, check_schedule, differences, shapes_of
from perturb.models.videocrafter.system import VideoSystem
from perturb.nn import VideoUNet
from perturb.nn.resblock import TemporalConvolution
from perturb.nn.transformer import TemporalTransformer
from perturb.store.paths import resolve

ENCODERS = ("vae", "text_encoder")
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
KEPT = {
    "temporal": "θ_T: an image model knows no time; its zero last layers make it the identity",
    "fps_embedding": "an image model knows no frame rate; this one is not zero, so it shifts the time embedding",
    "text_encoder": "the blocks after the layer that is read: diffusers leaves them out",
}


@dataclass(frozen=True)
class StableDiffusionInit:
    """What went where, for the manifest of a training.

    ``filled``: component → number of our tensors that got weights. ``kept``: reason → our tensors that keep their own
    initialisation. ``unused``: reason → tensors of the source that have no place. ``renamed``: key in the source → key
    in VideoCrafter's checkpoint, where LDM and VideoCrafter number a block differently. ``predicts``: what the source
    says that its network predicts; VideoCrafter's predicts ε.
    """

    source: str
    sha256: str
    format: Literal["ldm", "diffusers"]
    predicts: Literal["epsilon", "unknown"]
    filled: dict[str, int]
    kept: dict[str, tuple[str, ...]]
    unused: dict[str, tuple[str, ...]]
    renamed: dict[str, str]

    def describe(self) -> dict[str, Any]:
        """Plain values, the lists of names as their lengths."""
        counted = {name: {key: len(v) for key, v in getattr(self, name).items()} for name in ("kept", "unused")}
        return asdict(self) | counted | {"renamed": len(self.renamed)}


def init_from_stable_diffusion(system: VideoSystem, source: str | Path) -> StableDiffusionInit:
    """Fill θ_S, the time embedding, the autoencoder and the text encoder of ``system``, in place, from ``source``.

    ``system`` is a text-to-video model whose θ_T is still at its initialisation. On one frame (t = 1) its network then
    computes what Stable Diffusion's does, but for its own fps embedding. Raises UserError, having changed nothing, for
    a source that cannot be read, lacks a tensor, has one too many or of another shape, was trained with another noise
    schedule or (where it says so: diffusers' folder does, an LDM file cannot) predicts v instead of ε. Give the
    512-pixel base model: VideoCrafter predicts ε, and the 768-pixel model, whose keys are the same, predicts v.
    """
    _check_system(system)
    path = resolve(source)
    opened, unused = open_stable_diffusion(path, system.spec)
    diffusers = opened.format == "diffusers"
    kept = _fill(system, {name: opened.components[name] for name in WEIGHTS})
    report = StableDiffusionInit(
        source=str(source),
        sha256=opened.sha256(),
        format="diffusers" if diffusers else "ldm",
        predicts="epsilon" if diffusers and (path / SCHEDULER).is_file() else "unknown",
        filled={name: len(opened.components[name]) for name in WEIGHTS},
        kept=kept,
        unused=unused,
        renamed={} if diffusers else ldm_renamed(system.spec.unet),
    )
    named = {"checkpoint": report.source, "sha256": report.sha256, "format": report.format}
    system.provenance = named | {"spec": system.spec.name}
    return report


def open_stable_diffusion(path: Path, spec: ModelSpec) -> tuple[Source, dict[str, tuple[str, ...]]]:
    """What ``spec``'s image part is in ``path``, and what has no place, by the reason; UserError for what does not fit.

    Of the network that is everything an image model has. The source's format is "diffusers" or "ldm".
    """
    if is_folder(path):
        raise UserError(f"{path} is a folder of ours, not Stable Diffusion: load it with load_system")
    opened, unused = (_open_diffusers if (path / "unet").is_dir() else _open_ldm)(path, spec)
    check_dtypes(opened.components, path)
    check_finite(opened.components, path)
    check_schedule(opened.components, opened.spec, path)
    return opened, unused


def linear(state: Mapping[str, Tensor], keys: Iterable[str]) -> dict[str, Tensor]:
    """``state`` with the 1×1 convolutions among ``keys`` that project into and out of a transformer as linear layers.

    Stable Diffusion 1 has convolutions there, and 2 linear layers: the same function of the same numbers.
    """
    projections = [key for key in keys if key.endswith((".proj_in.weight", ".proj_out.weight")) and key in state]
    return {**state, **{key: state[key].flatten(1) for key in projections if state[key].shape[2:] == (1, 1)}}


def _open_ldm(path: Path, spec: ModelSpec) -> tuple[Source, dict[str, tuple[str, ...]]]:
    unet, rules = ldm_unet(spec.unet), component_rules(spec)
    state = linear(read_weights(path), unet)
    unused = ldm_unused(state, spec)
    without_place = {key for keys in unused.values() for key in keys}
    given = {key: tensor for key, tensor in state.items() if key not in without_place}
    ours = {name: module.state_dict() for name, module in skeleton(spec).items()}
    expected = {key: ours["unet"][name] for key, name in unet.items()}
    for name in ENCODERS:
        official = convert_to_official(ours[name], rules[name])
        expected |= {PREFIXES[name] + key: tensor for key, tensor in official.items()}
    _check_same(given, expected, path, spec)
    components: Components = {"unet": {name: given[key] for key, name in unet.items()}}
    for name in ENCODERS:
        prefix = PREFIXES[name]
        part = {key.removeprefix(prefix): tensor for key, tensor in given.items() if key.startswith(prefix)}
        components[name] = convert_to_ours(part, rules[name])
    components[EXTRA] = {key: state[key] for key in SCHEDULE_TABLES if key in state}
    files = {file.name: file for file in weight_files(path)}
    return Source(_plain_schedule(spec), components, files, "ldm"), unused


def _open_diffusers(path: Path, spec: ModelSpec) -> tuple[Source, dict[str, tuple[str, ...]]]:
    if spec.unet.scale_shift_norm or spec.unet.resblock_updown:
        raise UserError(
            f"{spec.name} has scale_shift_norm or resblock_updown, which no Stable Diffusion has; use a spec without"
        )
    check_settings(path, diffusers_settings(spec), f"the image part of {spec.name}")
    files = {f"{name}/{file}": path / name / file for name, file in WEIGHTS.items()}
    unet, vae, text = (read_safetensors(file) for file in files.values())
    unet_keys, vae_keys = diffusers_unet(spec.unet), diffusers_vae(vae)
    unet = linear(unet, unet_keys)
    text_keys, positions = diffusers_text(text)
    ours = {name: module.state_dict() for name, module in skeleton(spec).items()}
    _check_same(unet, {key: ours["unet"][name] for key, name in unet_keys.items()}, path / "unet", spec)
    components: Components = {
        "unet": {name: unet[key] for key, name in unet_keys.items()},
        "vae": {name: vae[key] for key, name in vae_keys.items()},
        "text_encoder": {name: text[key] for key, name in text_keys.items()},
        EXTRA: {},
    }
    _check_same(components["vae"], ours["vae"], path / "vae", spec)
    read = {name: tensor for name, tensor in ours["text_encoder"].items() if not name.startswith(spec.text.unread)}
    _check_same(components["text_encoder"], read, path / "text_encoder", spec)
    unused = {"positions counted from 0": positions} if positions else {}
    return Source(_plain_schedule(spec), components, files, "diffusers"), unused


def _check_system(system: VideoSystem) -> None:
    spec = system.spec
    if spec.image is not None or spec.unet.image_attention:
        raise UserError(f"{spec.name} takes an image, and Stable Diffusion has no image encoder; give a t2v spec")
    parts = {name: module.state_dict() for name, module in system.modules().items()}
    listing = differences(flat_shapes(parts), flat_shapes({n: m.state_dict() for n, m in skeleton(spec).items()}))
    if listing:
        raise UserError(f"this system is not plain {spec.name}; detach perturbations first:\n{listing}")
    if moved := _not_zero(system.unet):
        raise UserError(
            f"θ_T of this system is not at its initialisation ({len(moved)} last layers are not zero, e.g. in "
            f"{moved[0]}), so it would not begin as the image model: start from build_system(spec)"
        )


def _not_zero(unet: VideoUNet) -> list[str]:
    """Last layers of temporal blocks that are not zero; where there is none, θ_T is the identity."""
    last = {
        path: module.project_out if isinstance(module, TemporalTransformer) else module.layers[-1].get_submodule("conv")
        for path, module in unet.named_modules()
        if isinstance(module, (TemporalTransformer, TemporalConvolution))
    }
    return [path for path, layer in last.items() if any(p.any() for p in layer.parameters())]


def _check_same(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, spec: ModelSpec) -> None:
    if listing := differences(shapes_of(given), shapes_of(expected)):
        raise UserError(
            f"{path} does not fit the image part of {spec.name}, whose published sizes are those of Stable Diffusion "
            f"{'1.5' if spec.text.origin == 'openai' else '2.1'}:\n{listing}"
        )


def check_settings(path: Path, files: Mapping[str, Mapping[str, tuple[Any, Any]]], what: str) -> None:
    """What the shapes of the tensors do not tell must be as our networks compute it, the schedule among it."""
    if wrong := unlike(path, files):
        advice = "\nstable-diffusion-2-1-base predicts ε" if any("prediction_type" in line for line in wrong) else ""
        raise UserError(f"{path} is not {what}, whatever its tensors:\n" + "\n".join(wrong) + advice)


def _plain_schedule(spec: ModelSpec) -> ModelSpec:
    """The spec that the source's noise tables must have: those of every Stable Diffusion, not zero at the end."""
    schedule = replace(spec.schedule, zero_terminal_snr=False, beta_schedule="scaled_linear")
    return replace(spec, schedule=schedule)


@torch.no_grad()
def _fill(system: VideoSystem, components: Mapping[str, Mapping[str, Tensor]]) -> dict[str, tuple[str, ...]]:
    """Copy every tensor to its place; returns what of ours got none, by reason."""
    modules = system.modules()
    left = []
    for name, tensors in components.items():
        own = modules[name].state_dict()
        for key, tensor in tensors.items():
            own[key].copy_(tensor)
        left += [f"{name}.{key}" for key in own if key not in tensors]
    absent = without_counterpart(system.unet)
    kept = {KEPT[kind]: tuple(f"unet.{name}" for name in absent[kind]) for kind in ("temporal", "fps_embedding")}
    kept[KEPT["text_encoder"]] = tuple(key for key in left if key.startswith("text_encoder."))
    kept = {reason: names for reason, names in kept.items() if names}
    assert sorted(left) == sorted(key for names in kept.values() for key in names), "a tensor was left without a reason"
    return kept
