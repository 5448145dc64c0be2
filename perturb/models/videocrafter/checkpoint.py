"""Checkpoints: strict, safe and lean. A system is built without weights and then given the file's own memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perturb.errors import UserError
from perturb.models.videocrafter.diffusers_folder import is_diffusers, read_diffusers
from perturb.models.videocrafter.encoders import fresh_position_ids
from perturb.models.videocrafter.files import read_json, read_weights, weight_files
from perturb.models.videocrafter.folder import SPEC_FILE, TOKENIZER, flat_shapes, is_folder, read_folder, write_folder
from perturb.models.videocrafter.keymap import EXTRA, Components, extra_keys, renamed, to_components
from perturb.models.videocrafter.published import SPECS, get_spec
from perturb.models.videocrafter.skeleton import skeleton
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.strict import (
    check_dtypes,
    check_finite,
    check_official,
    check_schedule,
    differences,
    nearest,
    recognise,
    shapes_of,
)
from perturb.models.videocrafter.system import VideoSystem
from perturb.models.videocrafter.tokenizer import ClipTokenizer, FileTokenizer, Tokenizer
from perturb.models.videocrafter.turbo import distilled_unet, undistilled
from perturb.store.hashes import sha256, sha256_of
from perturb.store.paths import resolve

__all__ = ["Source", "load_system", "open_checkpoint", "save_system", "sha256"]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Source:
    """A checkpoint that was read and found to fit ``spec``; its tensors are memory-mapped.

    ``files``: what it was read from, under names that do not depend on the machine; ``format``: "folder", "official"
    or "diffusers"; ``guidance``: where the guidance projection of a distilled network came from.
    """

    spec: ModelSpec
    components: Components
    files: dict[str, Path]
    format: str
    guidance: str | None = None

    def sha256(self) -> str:
        """Of the file itself; where there are several, of the list of their names and hashes."""
        return sha256(*self.files.values()) if len(self.files) == 1 else sha256_of(self.files)

    def tokenizer(self) -> Tokenizer:
        """What the text encoder was trained with: CLIP's own, or the words of a small model."""
        if self.spec.text.tokenizer == "clip":
            return ClipTokenizer.of(self.spec.text)
        if TOKENIZER not in self.files:
            raise UserError(f"{self.spec.name} needs a tokenizer.json, which official files cannot hold; use a folder")
        return FileTokenizer(self.files[TOKENIZER], self.spec.text.tokens)


def open_checkpoint(
    checkpoint: str | Path,
    spec: str | ModelSpec | None = None,
    *,
    unet: str | Path | None = None,
    guidance_seed: int | None = None,
) -> Source:
    """Read ``checkpoint`` and check every key, every shape and the noise schedule against ``spec``.

    ``spec`` may be left out for a folder of ours (it says itself) and for an official file whose keys and shapes are
    exactly those of one published model; of a diffusers folder it is that of ModelScope. ``unet`` is a file of
    T2V-Turbo: ``checkpoint`` is then VideoCrafter2, ``spec`` the distilled model, and ``guidance_seed`` what
    `distilled_unet` draws from. Raises ``UserError`` for what cannot be read safely or does not fit.
    """
    path = resolve(checkpoint)
    wanted = get_spec(spec) if isinstance(spec, str) else spec
    if unet is not None:
        return _open_distilled(open_checkpoint(checkpoint), resolve(unet), wanted, guidance_seed)
    if is_diffusers(path):
        source = Source(*read_diffusers(path, wanted or get_spec("modelscope")), format="diffusers")
    else:
        source = _open_folder(path, wanted) if is_folder(path) else _open_official(path, wanted)
    check_dtypes(source.components, path)
    check_schedule(source.components, source.spec, path)
    return source


def load_system(
    checkpoint: str | Path,
    spec: str | ModelSpec | None = None,
    *,
    unet: str | Path | None = None,
    guidance_seed: int | None = None,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
    expect_finite: bool = True,
) -> VideoSystem:
    """The system stored at ``checkpoint``: an official file, sharded safetensors, diffusers' folder or our own.

    ``spec``, ``unet``, ``guidance_seed`` as in ``open_checkpoint``. ``dtype`` is what the UNet computes in (float32,
    float16, bfloat16), the other parts are float32; on the CPU, weights that already have their dtype stay
    memory-mapped and cost no memory of their own. ``expect_finite=False`` accepts NaN and infinite weights.
    ``provenance`` gets path, SHA-256, format and spec, of a distilled model also its file and its guidance projection.
    """
    place = check_place(device, dtype)
    source = open_checkpoint(checkpoint, spec, unet=unet, guidance_seed=guidance_seed)
    system = assembled(source, checkpoint, place=place, dtype=dtype, expect_finite=expect_finite)
    if unet is not None:
        system.provenance["unet"] = str(unet)
    return system


def assembled(
    source: Source, checkpoint: str | Path, *, place: torch.device, dtype: str, expect_finite: bool = True
) -> VideoSystem:
    """The system of what was read from ``checkpoint``; see `load_system`."""
    if expect_finite:
        check_finite(source.components, checkpoint)
    modules = _with_weights(source, DTYPES[dtype])
    system = VideoSystem(
        **modules,  # pyright: ignore[reportArgumentType]
        spec=source.spec,
        tokenizer=source.tokenizer(),
        provenance={
            "checkpoint": str(checkpoint),
            "sha256": source.sha256(),
            "format": source.format,
            "spec": source.spec.name,
        }
        | ({} if source.guidance is None else {"guidance": source.guidance})
        | ({} if source.spec.sampling.rate == "fps" else {"fps_is": "the frame stride"}),
    )
    system.extra = source.components[EXTRA]
    return system.to(place)


def empty_system(
    checkpoint: str | None,
    spec: str | ModelSpec | None = None,
    *,
    unet: str | Path | None = None,
    guidance_seed: int | None = None,
    device: str | torch.device = "meta",
    dtype: str = "float32",
    expect_finite: bool = True,
    keys: tuple[str, str] = ("system.checkpoint", "+system.spec"),
) -> VideoSystem:
    """What `load_system` would load, frozen, with random weights, or none on the meta device; it reads no words.

    Raises UserError where neither the checkpoint nor ``spec`` says what it is; ``keys`` are what they are called there.
    """
    del expect_finite, unet, guidance_seed
    if checkpoint is not None and is_folder(folder := resolve(checkpoint)):
        known = ModelSpec.from_dict(read_json(folder / SPEC_FILE)["spec"])
    elif spec is not None or (checkpoint is not None and is_diffusers(resolve(checkpoint))):
        spec = spec or "modelscope"
        known = get_spec(spec) if isinstance(spec, str) else spec
    else:
        given = f"{keys[0]}={checkpoint} is no folder of ours (is it trained yet?); " if checkpoint else ""
        raise UserError(
            f"the architecture is unknown: {given}give {keys[0]}, a folder with {SPEC_FILE} (as "
            f"package:weights/nano/image), or {keys[1]}=t2v_512_v2 or another published name"
        )
    return unread(known, device, dtype)


def unread(spec: ModelSpec, device: str | torch.device, dtype: str) -> VideoSystem:
    """The system of ``spec`` as `empty_system` has it."""
    parts: dict[str, Any] = skeleton(spec, str(device))
    for module in parts.values():
        module.requires_grad_(False)
    parts["unet"].to(DTYPES[dtype])
    return VideoSystem(
        **parts, spec=spec, tokenizer=lambda prompts: torch.zeros(len(prompts), spec.text.tokens, dtype=torch.long)
    ).to(device)


def save_system(
    system: VideoSystem, folder: str | Path, *, shared: Mapping[str, str] | None = None, overwrite: bool = False
) -> Path:
    """Write ``system`` as our folder, whole or not at all, and return its path.

    ``shared`` names components (or "tokenizer") that are not written but read from elsewhere:
    ``{"vae": "../shared/vae.safetensors"}``, relative to the folder. Raises ``UserError`` when the folder exists
    (without ``overwrite``) or when a perturbation is still attached.
    """
    components = {name: dict(module.state_dict()) for name, module in system.modules().items()}
    plain = {name: module.state_dict() for name, module in skeleton(system.spec).items()}
    listing = differences(flat_shapes(components), flat_shapes(plain))
    if listing:
        raise UserError(f"this system is not plain {system.spec.name}; detach perturbations before saving:\n{listing}")
    target = resolve(folder)
    everything = components | {EXTRA: dict(system.extra)}
    write_folder(target, system.spec, everything, tokenizer=system.tokenizer, shared=shared, overwrite=overwrite)
    return target


def _open_official(path: Path, spec: ModelSpec | None) -> Source:
    tensors = renamed(read_weights(path))
    shapes = shapes_of(tensors)
    spec = spec or _recognised(shapes, path)
    check_official(shapes, spec, path)
    files = {file.name: file for file in weight_files(path)}
    return Source(spec, to_components(tensors, spec), files, "official")


def _recognised(shapes: Mapping[str, tuple[int, ...]], path: Path) -> ModelSpec:
    found = recognise(shapes)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(spec.name for spec in found)
        raise UserError(f"{path} is one of {names}, whose keys are the same: name it with system.spec=… (or --spec …)")
    name, score = nearest(shapes)
    raise UserError(
        f"{path} is exactly none of the published models ({', '.join(SPECS)}); nearest is {name}, with {score:.0%} "
        f"of the keys: name it, with system.spec={name} (perturb.convert: --spec {name}), to see where they differ"
    )


def _open_distilled(base: Source, unet: Path, spec: ModelSpec | None, seed: int | None) -> Source:
    """VideoCrafter2 with the UNet of a file in the place of its own."""
    if spec is None or base.spec.unet != undistilled(spec):
        name = "left out" if spec is None else spec.name
        raise UserError(
            f"a UNet over {base.spec.name} needs system.spec of a model that was distilled from it, such as "
            f"t2v_turbo_v2; it is {name}"
        )
    network, guidance = distilled_unet(base.components["unet"], unet, spec, seed)
    kept = {key: base.components[EXTRA][key] for key in extra_keys(spec) if key in base.components[EXTRA]}
    components = {**base.components, "unet": network, EXTRA: kept}
    return Source(spec, components, {**base.files, f"unet/{unet.name}": unet}, base.format, guidance)


def _open_folder(path: Path, wanted: ModelSpec | None) -> Source:
    spec, components, files = read_folder(path)
    if wanted is not None and wanted != spec:
        raise UserError(f"{path} holds {spec.name}, not {wanted.name} as asked; leave system.spec out for a folder")
    return Source(spec, components, files, "folder")


def _with_weights(source: Source, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The components with the source's tensors as their weights; only what has another dtype is copied, one by one."""
    modules = skeleton(source.spec)
    for name, module in modules.items():
        tensors = source.components[name]
        target = dtype if name == "unet" else torch.float32
        for key, tensor in tensors.items():
            if tensor.is_floating_point():
                tensors[key] = tensor.to(target)
        module.load_state_dict(tensors, assign=True)
        fresh_position_ids(module)
        left = [key for key, x in (*module.named_parameters(), *module.named_buffers()) if x.is_meta]
        assert not left, f"{name} still has tensors without memory: {left}"
    return modules


def check_place(device: str | torch.device, dtype: str) -> torch.device:
    """The device, or UserError where it or the dtype cannot be used: before anything is read."""
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {str(device)!r} cannot be used ({str(error).splitlines()[0]}); try cpu") from error
