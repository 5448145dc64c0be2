"""Adapters of others on one of our networks, and ours for others: their files, and their names for its layers."""

import difflib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from perturb.errors import UserError
from perturb.models.names import layer_names, listed_factors, vocabularies
from perturb.models.partition import LAYERS
from perturb.perturbation import files
from perturb.perturbation.adapter import Adapter
from perturb.perturbation.settings import SETTINGS, check_settings
from perturb.store.rundir import write_atomic
from perturb.store.torch_files import load_torch

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
METADATA = "lora_adapter_metadata"
NETWORKS = ("unet.", "transformer.")
"""What diffusers puts before the settings of the network; those of text encoders have other prefixes."""
"""Where diffusers (from 0.34 on) keeps peft's settings, a prefix before each; without them its Δ is B A."""
WRAPPERS = ("model.diffusion_model.", "module.")
"""Before all names where a network was trained as a part of something: VideoCrafter's model, torch's wrapper."""
KOHYA = "lora_unet_"
SHOWN = 3


def read(network: nn.Module, path: Path, *more: Path) -> Adapter:
    """What lies at ``path``, with the layers under the names of ``network``; of several, as one.

    A folder in peft's format; diffusers' file or the folder that it lies in; a file of kohya's, of AnimateDiff's, or a
    list without names like T2V-Turbo's. ``network`` must be without an adapter. Raises UserError for what cannot be
    read, and for layers that ``network`` lacks, with the nearest that it has.
    """
    adapter = _read(network, path)
    for other in more:
        adapter = adapter.joined(_read(network, other), f"the adapters in {path} and {other}")
    return adapter


def write_diffusers(adapter: Adapter, path: Path) -> None:
    """Write an adapter as the file that diffusers' ``load_lora_weights`` reads; its layers have diffusers' names.

    α and rsLoRA are in the metadata, which diffusers reads from version 0.34 on.
    """
    settings = {f"unet.{key}": value for key, value in adapter.config.to_dict().items()}
    tensors = {
        f"unet.{layer}.lora_{kind}.weight": x.to("cpu", torch.float32).contiguous()
        for (layer, kind), x in adapter.tensors.items()
    }
    write_atomic(path, save(tensors, metadata={"format": "pt", METADATA: json.dumps(settings)}))


def their_names(adapter: Adapter, network: nn.Module, vocabulary: str) -> Adapter:
    """An adapter with our names under those of a vocabulary. UserError where it has no name for a layer."""
    books = vocabularies(network)
    if vocabulary not in books:
        raise UserError(f"this network has no names in {vocabulary!r}; it has {', '.join(books) or 'its own alone'}")
    theirs = {ours: name for name, ours in layer_names(books[vocabulary]).items()}
    if nameless := [layer for layer in adapter.factors if layer not in theirs]:
        raise UserError(
            f"{len(nameless)} layers of the adapter have no counterpart in {vocabulary}, e.g. {nameless[:SHOWN]}: "
            "leave them out of its fit, or write it under another vocabulary's names"
        )
    return adapter.renamed(theirs)


def our_names(layers: Collection[str], network: nn.Module, source: object) -> dict[str, str]:
    """Their name → ours, in the vocabulary that has most of them. Raises UserError unless it has all."""
    own = {name: name for name, module in network.named_modules() if isinstance(module, LAYERS)}
    if own.keys() >= set(layers):
        return own
    books = [own, *map(layer_names, vocabularies(network).values())]
    books += [{KOHYA + theirs.replace(".", "_"): ours for theirs, ours in book.items()} for book in books]
    bare = {layer: _unwrapped(layer) for layer in layers}
    book = max(books, key=lambda book: len(set(bare.values()) & book.keys()))
    if unknown := [layer for layer, name in bare.items() if name not in book]:
        said = [f"{each!r} (nearest here: {_nearest(bare[each], book)})" for each in unknown[:SHOWN]]
        text = " Adapters of text encoders are not read." if any("text" in e or "lora_te" in e for e in unknown) else ""
        raise UserError(
            f"the adapter in {source} was made for another network: {len(unknown)} of its {len(bare)} layers are not "
            f"here, e.g. {', '.join(said)}.{text}"
        )
    found = {layer: book[name] for layer, name in bare.items()}
    if len(set(found.values())) < len(found):
        raise UserError(
            f"the adapter in {source} has one layer under two names, among {', '.join(sorted(found)[:SHOWN])}"
        )
    return found


def _read(network: nn.Module, path: Path) -> Adapter:
    if path.name == files.WEIGHTS and (path.parent / SETTINGS).is_file():
        path = path.parent
    inside = path / DIFFUSERS_FILE
    if inside.is_file():
        adapter = _of_file(inside)
    elif not path.is_file():
        adapter = files.read(path)
    elif path.suffix == ".safetensors":
        adapter = _of_file(path)
    else:
        held = load_torch(path)
        if isinstance(held, list):
            factors = listed_factors(held, network, path)
            return Adapter(factors, {layer: float(len(a)) for layer, (a, _) in factors.items()})
        adapter = Adapter.of(_state_dict(held, path), None, path)
    return adapter.renamed(our_names(adapter.factors, network, path))


def _of_file(path: Path) -> Adapter:
    tensors, metadata = files.read_tensors(path)
    if METADATA not in metadata:
        return Adapter.of(tensors, None, path)
    try:
        written = json.loads(metadata[METADATA])
        prefix = next((each for each in NETWORKS if any(key.startswith(each) for key in written)), "")
        settings = {key.removeprefix(prefix): value for key, value in written.items() if key.startswith(prefix)}
    except (json.JSONDecodeError, AttributeError):
        raise UserError(f"{path}: its {METADATA} is no table of settings in JSON. Get the file again.") from None
    return Adapter.of(tensors, check_settings({"peft_type": "LORA", **settings}, path), path)


def _state_dict(held: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a torch file, bare or under "state_dict"."""
    inner = held.get("state_dict", held) if isinstance(held, Mapping) else held
    if not isinstance(inner, Mapping) or not all(isinstance(each, Tensor) for each in inner.values()):
        raise UserError(
            f"{path} holds a {type(inner).__name__} that is no table of tensors, so no adapter is read from it"
        )
    files.check_tensors(inner, path)
    return dict(inner)


def _unwrapped(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def _nearest(name: str, book: Mapping[str, str]) -> str:
    return next(iter(difflib.get_close_matches(name, book, n=1, cutoff=0.0)), "none")
