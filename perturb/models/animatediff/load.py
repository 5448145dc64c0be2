"""Stable Diffusion 1.5, a motion module and, where wanted, two LoRAs become one system."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from perturb.errors import UserError
from perturb.models.animatediff.motion import merge, motion_file, read_motion
from perturb.models.animatediff.spec import normalised
from perturb.models.videocrafter.checkpoint import DTYPES, Source, assembled, check_place, unread
from perturb.models.videocrafter.keymap import EXTRA
from perturb.models.videocrafter.sd import open_stable_diffusion
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem
from perturb.store.paths import resolve
from perturb.store.tensors import hash_tensors, moved, summarise


def load_animatediff(
    checkpoint: str | Path,
    motion: str | Path,
    *,
    spec: str | ModelSpec = "animatediff_v3",
    motion_norm: str = "frame",
    domain_adapter: str | Path | None = None,
    domain_adapter_scale: float = 1.0,
    motion_lora: str | Path | None = None,
    motion_lora_scale: float = 1.0,
    reference: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
) -> VideoSystem:
    """AnimateDiff from its parts: θ_T is the motion module, θ_S is Stable Diffusion 1.5.

    ``checkpoint``: Stable Diffusion 1.5 as one file or as diffusers' folder, or what was fine-tuned from it.
    ``motion``: the published file, or diffusers' MotionAdapter. ``motion_norm``: see `normalised`. ``domain_adapter``
    (of θ_S; published with version 3) and ``motion_lora`` (of θ_T) are merged: W + scale · up @ down.
    ``reference``: a Stable Diffusion that θ_S must equal by its hashes, but for the layers of the domain adapter.
    ``provenance`` gets the hash of all that comes from the image model. Raises UserError for what cannot be read
    safely, does not fit, or is not equal.
    """
    place = check_place(device, dtype)
    wanted = normalised(spec, motion_norm)
    image = open_stable_diffusion(resolve(checkpoint), wanted)[0]
    theta_s = image.components["unet"]
    unet = theta_s | read_motion(resolve(motion), wanted)
    files = {f"image_model/{name}": path for name, path in image.files.items()}
    files["motion"] = motion_file(resolve(motion))
    provenance: dict[str, Any] = {"motion": str(motion), "motion_norm": motion_norm}
    adapted: list[str] = []
    for part, path, scale in (
        ("domain_adapter", domain_adapter, domain_adapter_scale),
        ("motion_lora", motion_lora, motion_lora_scale),
    ):
        if path is not None:
            changed = merge(unet, resolve(path), scale, wanted, part)
            files[part] = resolve(path)
            provenance[part] = {"path": str(path), "scale": scale, "layers": len(changed)}
            adapted += changed
    source = Source(wanted, image.components | {"unet": unet, EXTRA: {}}, files, image.format)
    system = assembled(source, checkpoint, place=place, dtype=dtype)
    hashes = hash_tensors({name: system.unet.get_parameter(name) for name in theta_s})
    provenance["image_model"] = summarise({"unet": hashes})["unet"]
    if reference is not None:
        theirs = open_stable_diffusion(resolve(reference), wanted)[0]
        provenance["reference"] = {"path": str(reference), **_proof(hashes, theirs, adapted, DTYPES[dtype])}
    system.provenance |= provenance
    return system


def _proof(
    hashes: Mapping[str, str], reference: Source, adapted: Collection[str], dtype: torch.dtype
) -> dict[str, str | int]:
    """How many tensors of the image model have the hash of their counterpart; UserError if one not adapted has not."""
    theirs = {name: tensor.to(dtype) for name, tensor in reference.components["unet"].items()}
    different = set(moved({"unet": dict(hashes)}, {"unet": hash_tensors(theirs)}))
    if strange := sorted(different - {f"unet.{name}" for name in adapted}):
        raise UserError(
            f"θ_S is not that of system.reference: {len(strange)} of {len(hashes)} tensors differ, e.g. {strange[0]}; "
            "leave reference out, or give the Stable Diffusion that system.checkpoint is"
        )
    return {"sha256": reference.sha256(), "equal": len(hashes) - len(different), "adapted": len(different)}


def empty_system(
    checkpoint: str | None,
    motion: str | None,
    *,
    spec: str = "animatediff_v3",
    motion_norm: str = "frame",
    domain_adapter: str | None = None,
    domain_adapter_scale: float = 1.0,
    motion_lora: str | None = None,
    motion_lora_scale: float = 1.0,
    reference: str | None = None,
    device: str | torch.device = "meta",
    dtype: str = "float32",
) -> VideoSystem:
    """What `load_animatediff` would load, with random weights, or none on the meta device; it reads no file."""
    del checkpoint, motion, domain_adapter, domain_adapter_scale, motion_lora, motion_lora_scale, reference
    return unread(normalised(spec, motion_norm), device, dtype)
