"""Which run a configuration means: the content of everything that affects results, and nothing else."""

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perturb.data.prompts import load_prompts
from perturb.data.tables import SUFFIXES
from perturb.store.hashes import sha256, sha256_of
from perturb.store.paths import distinct_names, resolve, walk

# Where things are put and shown, and what they run on.
WITHOUT_EFFECT = (
    *("name", "pair", "tracker", "project", "runs_dir", "plan", "threads", "locked", "weights", "caveats"),
    *("system.device", "system.channels_last", "system.compile", "system.offload", "sample.playback_fps"),
)
SOURCES = ("reference", "spatial", "temporal")
"""Keys of a perturbation that name runs."""
PARTS = ("checkpoint", "pipeline", "unet", "motion", "domain_adapter", "motion_lora", "reference")
FILES = (*(f"system.{part}" for part in PARTS), "prompts.file", "image")


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved configuration without `WITHOUT_EFFECT`, each file in `FILES` replaced by the hash of its content.

    An image folder stands there by the names and sizes of its files; its bytes are in the manifest. A run that the
    perturbation is made from stands there by its adapters, a finished training by its files.
    """
    result = copy.deepcopy(dict(config))
    for key in WITHOUT_EFFECT:
        parent, name = _parent(result, key)
        parent.pop(name, None)
    for key in FILES:
        parent, name = _parent(result, key)
        if parent.get(name) is not None:
            parent[name] = content_digest(resolve(parent[name]))
    if images := images_of_prompts(config["prompts"]):
        result["prompts"]["images"] = images
    if not result.get("partition", {}).get("groups"):
        result.pop("partition", None)  # the model's own
    if result["sample"].get("quantise", "") is None:
        del result["sample"]["quantise"]  # as it was before there was a choice
    perturbation = result.get("perturbation", {})
    for key in SOURCES:
        if perturbation.get(key) is not None:
            perturbation[key] = content_digest(resolve(perturbation[key]) / "adapters")
    if isinstance(adapters := perturbation.get("adapters"), list):
        digests = [content_digest(resolve(folder)) for folder in adapters]
        perturbation["adapters"] = list(zip(distinct_names(adapters), digests, strict=True))
    if "checkpoint" in perturbation:
        perturbation["checkpoint"] = content_digest(resolve(perturbation["checkpoint"]))
    for key in ("images", "own_images"):
        if result.get(key) is not None:
            _images(result[key])
    return result


def _images(images: dict[str, Any]) -> None:
    """Put a digest in the place of the folder or the table of an image set."""
    if "folder" in images:
        folder = resolve(images["folder"])
        images["folder"] = listing_digest(folder)
        if isinstance(captions := images.get("captions"), str):
            # as in data.captions: a table by its path or by its place in the folder; "none" is no file
            tables = [path for path in (resolve(captions), folder / captions) if path.is_file()]
            images["captions"] = content_digest(tables[0]) if tables else captions
    elif "table" in images:
        images["table"] = content_digest(resolve(images["table"]))


def images_of_prompts(prompts: Mapping[str, Any]) -> dict[str, list[str]]:
    """Prompt id → SHA-256 of its images, for those of a table that has any."""
    if not str(prompts["file"]).lower().endswith(SUFFIXES):
        return {}
    listed = load_prompts(prompts["file"], prompts["limit"], prompts.get("columns"))
    return {prompt.id: prompt.digests() for prompt in listed if prompt.images}


def content_digest(path: Path) -> str:
    """SHA-256 of a file's content; of a folder: of its files and of those its spec.json names, with their names."""
    if path.name.endswith(".index.json"):  # of sharded weights: the shards lie beside it
        return content_digest(path.parent)
    if path.is_file():
        return sha256(path)
    files = {str(file.relative_to(path)): file for file in path.rglob("*") if file.is_file()}
    if "spec.json" in files:
        elsewhere = json.loads(files["spec.json"].read_text(encoding="utf-8")).get("files", {})
        files |= {name: path / name for name in elsewhere.values()}
    return sha256_of(files)


def listing_digest(folder: Path) -> str:
    """SHA-256 of the names and sizes of the visible files in a folder: cheap for millions of images."""
    files = sorted((str(p.relative_to(folder)), p.stat().st_size) for p in walk(folder) if p.is_file())
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _parent(config: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The mapping that holds the dotted ``key``, and its last part."""
    *parents, name = key.split(".")
    for parent in parents:
        config = config[parent]
    return config, name
