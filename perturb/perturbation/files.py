"""Adapters on disk in peft's own format, so that any peft user can load them; and their magnitudes beside them."""

from __future__ import annotations

import copy
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from perturb.errors import UserError
from perturb.perturbation.adapter import Adapter
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


def read(folder: Path, *more: Path) -> Adapter:
    """What `write` left in ``folder``; of several, as one where they share no layer.

    Raises UserError naming the file that is missing or broken, and for adapters that cannot be put together.
    """
    for name in (SETTINGS, WEIGHTS):
        if not (folder / name).is_file():
            old = folder / OLD_WEIGHTS
            advice = _conversion(old) if old.is_file() else "give a folder in peft's format, or the file of another's"
            raise UserError(f"no adapter in {folder}: {name} is missing; {advice}")
    settings, path = read_settings(folder / SETTINGS), folder / WEIGHTS
    adapter = Adapter.of(read_tensors(path)[0], settings, path)
    for other in more:
        adapter = adapter.joined(read(other), f"the adapters in {folder} and {other}")
    return adapter


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises UserError for one that is broken or holds no numbers."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}; it is cut short or of another type") from None
    check_tensors(tensors, path)
    return tensors, metadata


def check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise UserError unless there are some, all of them of finite floating-point numbers."""
    if not tensors:
        raise UserError(f"{path} holds no tensors: the adapter was saved without its weights")
    if strange := [key for key, tensor in tensors.items() if not tensor.is_floating_point()]:
        raise UserError(f"{path} holds {tensors[strange[0]].dtype} at {strange[0]}: only floating-point is read")
    if bad := non_finite({key: tensor.float() for key, tensor in tensors.items()}):
        raise UserError(
            f"{path}: {len(bad)} of {len(tensors)} tensors hold NaN or infinity, e.g. {bad[0]}: the training diverged, "
            "or the file is damaged"
        )


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
