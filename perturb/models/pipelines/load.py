"""A pipeline of diffusers from a local folder: nothing is downloaded, and no code of the folder runs."""

import importlib
import json
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import torch
from diffusers.utils import is_bs4_available
from torch import nn
from transformers import CLIPTextModel

from perturb.errors import UserError
from perturb.models.pipelines.model import PipelineModel
from perturb.store.hashes import sha256
from perturb.store.paths import resolve
from perturb.store.tensors import non_finite

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LIBRARIES = ("diffusers", "transformers")


def load_pipeline(
    pipeline: str, *, device: str = "cpu", dtype: str = "float32", arguments: Mapping[str, Any] = MappingProxyType({})
) -> PipelineModel:
    """The model in the folder ``pipeline``; ``dtype`` is that of all its parts.

    ``arguments`` are given to every call of the pipeline, such as motion_bucket_id. Raises UserError for a folder that
    is none, classes of other libraries, weights other than safetensors, missing, unexpected or of another shape, and
    pipelines with two denoisers.
    """
    return _load(pipeline, device, dtype, arguments, weights=True)


def empty_system(
    pipeline: str | None,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> PipelineModel:
    """The same with random weights, or none on the meta device; the folder's configurations are enough."""
    if pipeline is None:
        raise UserError("system.pipeline is not given: the folder of a pipeline of diffusers")
    return _load(pipeline, device, dtype, arguments, weights=False)


def _load(pipeline: str, device: str, dtype: str, arguments: Mapping[str, Any], *, weights: bool) -> PipelineModel:
    if dtype not in DTYPES:
        raise UserError(f"system.dtype is {dtype!r}; allowed: {', '.join(DTYPES)}")
    folder = resolve(pipeline)
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"{folder} is no pipeline of diffusers: it has no model_index.json, which save_pretrained writes"
        )
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    kind = getattr(diffusers, str(index["_class_name"]), None)
    if kind is None:
        raise UserError(f"diffusers {diffusers.__version__} has no pipeline {index['_class_name']}")
    named = {name: value for name, value in index.items() if isinstance(value, list) and None not in value}
    kinds = {name: _kind(folder / name, *value) for name, value in named.items()}
    parts = {name: part for name, part in kinds.items() if issubclass(part, nn.Module)}
    if weights:
        modules = {name: _part(folder / name, part, DTYPES[dtype]) for name, part in parts.items()}
    else:
        with torch.device(device):
            modules = {name: _empty(folder / name, part).to(DTYPES[dtype]) for name, part in parts.items()}
    made = kind.from_pretrained(folder, local_files_only=True, **modules).to(device)
    _check(made, arguments)
    encoder = getattr(made, "text_encoder", None)
    if isinstance(encoder, CLIPTextModel):
        # transformers 5 took out a level that I2VGenXL still reads: the name is given back, and no module with it
        vars(encoder).setdefault("text_model", getattr(encoder, "text_model", encoder))
    provenance = {"checkpoint": pipeline, "format": "diffusers", "scheduler": type(made.scheduler).__name__}
    return PipelineModel(made, provenance | ({"sha256": sha256(folder)} if weights else {}), arguments)


def _check(pipeline: Any, arguments: Mapping[str, Any]) -> None:
    """UserError for a pipeline with two networks, and for one that reads prompts differently on different machines."""
    name = type(pipeline).__name__
    if getattr(pipeline, "transformer_2", None) is not None:
        raise UserError(f"{name} has two denoisers here; a study perturbs one network")
    cleans = "clean_caption" in signature(pipeline.__call__).parameters and "clean_caption" not in arguments
    if cleans and not is_bs4_available():
        raise UserError(
            f"{name} cleans prompts with a package that is not installed: pip install beautifulsoup4, or leave "
            "prompts as they are, with +system.arguments.clean_caption=false"
        )


def _kind(folder: Path, library: str, name: str) -> Any:
    """The class of a component."""
    if library not in LIBRARIES:
        raise UserError(
            f"{folder} is a {name} of {library}; allowed: classes of {' and '.join(LIBRARIES)}, no other code"
        )
    kind = getattr(importlib.import_module(library), name, None)
    if kind is None:
        raise UserError(f"{folder} is a {name}, which {library} does not have")
    return kind


def _empty(folder: Path, kind: Any) -> nn.Module:
    """A component from its configuration alone."""
    if hasattr(kind, "load_config"):
        return kind.from_config(kind.load_config(folder))
    return kind(kind.config_class.from_pretrained(folder))


def _part(folder: Path, kind: Any, dtype: torch.dtype) -> nn.Module:
    """A component with its weights, all of them and no others."""
    try:
        module, info = kind.from_pretrained(
            folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error}") from error
    if wrong := {what: sorted(map(str, keys))[:3] for what, keys in info.items() if keys}:
        raise UserError(f"the weights in {folder} do not fit {kind.__name__}: {wrong}")
    if bad := non_finite(dict(module.state_dict())):
        raise UserError(f"{folder}: {len(bad)} tensors hold NaN or infinity, e.g. {bad[:3]}: get the files again")
    return module
