"""Adapters on disk in peft's own format, so that any peft user can load them; and their magnitudes beside them."""

from __future__ import annotations

import copy
import shlex
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from perturb.errors import UserError
from perturb.perturbation.base import Magnitude
from perturb.perturbation.settings import SETTINGS, read_settings
from perturb.store.magnitudes import LayerSize, read_sizes, write_sizes
from perturb.store.rundir import write_atomic
from perturb.store.tensors import non_finite

if TYPE_CHECKING:
    from peft import LoraConfig

WEIGHTS, OLD_WEIGHTS = "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."


def write(folder: Path, config: LoraConfig, weights: Mapping[tuple[str, str], Tensor]) -> None:
    """``weights``: (layer name, "A" or "B") → factor. The weights come last, so a folder with weights is whole."""
    saved = copy.copy(config)
    saved.inference_mode = True  # as peft itself writes it: a loaded adapter is not trained unless one asks for it
    with tempfile.TemporaryDirectory() as scratch:
        saved.save_pretrained(scratch)
        write_atomic(folder / SETTINGS, (Path(scratch) / SETTINGS).read_bytes())
    tensors = {
        f"{PREFIX}{name}.lora_{which}.weight": w.to("cpu", torch.float32).contiguous()
        for (name, which), w in weights.items()
    }
    write_atomic(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))


def read(folder: Path, *more: Path) -> tuple[dict[str, Any], dict[tuple[str, str], Tensor]]:
    """Settings and weights as `write` takes them; of several adapters, which are one when they share no layer.

    Raises UserError naming the file that is missing or broken, and for adapters that cannot be put together.
    """
    settings, weights = _read(folder)
    for other in more:
        others, added = _read(other)
        if different := [key for key in ("r", "lora_alpha") if others[key] != settings[key]]:
            values = " and ".join(f"{key} = {settings[key]} and {others[key]}" for key in different)
            raise UserError(f"the adapters in {folder} and {other} have {values}: fit them with one rank and alpha")
        if common := sorted(layer_names(weights) & layer_names(added)):
            raise UserError(f"the adapters in {folder} and {other} both move {common[0]}: give them of two groups")
        weights |= added
    return settings, weights


def _read(folder: Path) -> tuple[dict[str, Any], dict[tuple[str, str], Tensor]]:
    for name in (SETTINGS, WEIGHTS):
        if not (folder / name).is_file():
            old = folder / OLD_WEIGHTS
            advice = _conversion(old) if old.is_file() else "give a folder in peft's format"
            raise UserError(f"no adapter in {folder}: {name} is missing; {advice}")
    settings, path = read_settings(folder / SETTINGS), folder / WEIGHTS
    try:
        tensors = load(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}; it is cut short or of another type") from None
    if not tensors:
        raise UserError(f"{path} holds no tensors: the adapter was saved without its weights")
    weights = {_split(key, folder): tensor for key, tensor in tensors.items()}
    if strange := [key for key, tensor in tensors.items() if not tensor.is_floating_point()]:
        raise UserError(f"{path} holds {tensors[strange[0]].dtype} at {strange[0]}: only floating-point is read")
    if bad := non_finite({key: tensor.float() for key, tensor in tensors.items()}):
        raise UserError(
            f"{path}: {len(bad)} of {len(tensors)} tensors hold NaN or infinity, e.g. {bad[0]}: the training diverged, "
            "or the file is damaged"
        )
    return settings, weights


def _conversion(old: Path) -> str:
    """How to make today's file of peft's old one, which is a pickle; a command that can be copied."""
    target = old.with_name(WEIGHTS)
    return (
        f"{OLD_WEIGHTS} is peft's old form, a pickle, which is not read here. Convert it:\n"
        '  python -c "import sys, torch; from safetensors.torch import save_file; save_file({k: v.clone() for k, v in '
        f"torch.load(sys.argv[1], 'cpu', weights_only=True).items()}}, sys.argv[2])\" {shlex.quote(str(old))} "
        f"{shlex.quote(str(target))}"
    )


def write_magnitude(folder: Path, magnitude: Magnitude) -> None:
    """‖Δ‖_F/‖θ‖_F and ‖θ‖_F of every layer."""
    write_sizes(folder, {layer: LayerSize(r, magnitude.bases[layer]) for layer, r in magnitude.per_layer.items()})


def read_magnitude(folder: Path) -> dict[str, float]:
    """Layer → ‖Δ‖_F/‖θ‖_F, as `write_magnitude` left it. Raises UserError naming the file when it cannot be read."""
    return {layer: size.ratio for layer, size in read_sizes(folder).items()}


def layer_names(weights: Iterable[tuple[str, str]]) -> set[str]:
    """The layers that have weights."""
    return {name for name, _ in weights}


def _split(key: str, folder: Path) -> tuple[str, str]:
    for which in ("A", "B"):
        suffix = f".lora_{which}.weight"
        if key.startswith(PREFIX) and key.endswith(suffix):
            return key.removeprefix(PREFIX).removesuffix(suffix), which
    raise UserError(
        f"the adapter in {folder} holds {key!r}, which is no LoRA factor of a named layer: it would be dropped. "
        "Fit without biases and modules_to_save, or merge the adapter into the model with peft"
    )
