"""Our folder format: ``spec.json`` and one safetensors file per component.

``spec.json`` is ``{"format": 1, "spec": {…}, "files": {component: path relative to the folder}}``; "files" need only
name what does not lie at ``<component>.safetensors`` (and ``tokenizer.json``), so that models can share parts.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from perturb.errors import UserError
from perturb.models.videocrafter.files import read_json, read_safetensors, write_safetensors
from perturb.models.videocrafter.keymap import EXTRA, Components, extra_keys
from perturb.models.videocrafter.skeleton import skeleton
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.strict import Shape, differences
from perturb.models.videocrafter.tokenizer import FileTokenizer, Tokenizer

FORMAT = 1
SPEC_FILE = "spec.json"
TOKENIZER = "tokenizer"


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a checkpoint in our format."""
    return (path / SPEC_FILE).is_file()


def read_folder(path: Path) -> tuple[ModelSpec, Components, dict[str, Path]]:
    """Spec, components (with "extra", perhaps empty) and files by part; every key and shape is checked."""
    content = read_json(path / SPEC_FILE)
    if content.get("format") != FORMAT:
        raise UserError(f"{path / SPEC_FILE}: format {content.get('format')!r} is unknown; this version reads {FORMAT}")
    spec = ModelSpec.from_dict(content.get("spec", {}))
    expected = {name: module.state_dict() for name, module in skeleton(spec).items()}
    files = _files(path, content.get("files", {}), [*expected, EXTRA], spec)
    components = {name: read_safetensors(files[name]) for name in (*expected, EXTRA) if name in files}
    wanted = flat_shapes(expected)
    if EXTRA in components:
        wanted |= {f"{EXTRA}.{key}": shape for key, shape in extra_keys(spec).items()}
    listing = differences(flat_shapes(components), wanted)
    if listing:
        raise UserError(f"{path}: the weights do not fit its own {SPEC_FILE}:\n{listing}")
    return spec, {EXTRA: {}, **components}, files


def write_folder(
    folder: Path,
    spec: ModelSpec,
    components: Mapping[str, Mapping[str, Tensor]],
    *,
    tokenizer: Tokenizer | None,
    shared: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a checkpoint, whole or not at all: first beside its place, then renamed.

    ``shared`` names parts that are not written but read from elsewhere, by their path relative to the folder.
    """
    shared = dict(shared or {})
    check_shared(folder, shared)
    content = {"format": FORMAT, "spec": spec.to_dict()} | ({"files": shared} if shared else {})
    with replacing_folder(folder, overwrite=overwrite) as temporary:
        for name, tensors in components.items():
            if tensors and name not in shared:
                write_safetensors(temporary / f"{name}.safetensors", tensors)
        if isinstance(tokenizer, FileTokenizer) and TOKENIZER not in shared:
            tokenizer.save(temporary / "tokenizer.json")
        (temporary / SPEC_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_shared(folder: Path, shared: Mapping[str, str]) -> None:
    """Raise UserError for a part to be read from elsewhere, by its path relative to a folder, that is not there."""
    for name, relative in shared.items():
        if not Path(os.path.normpath(folder / relative)).is_file():  # the folder itself need not exist yet
            raise UserError(f"the shared {name} of {folder} does not exist: {relative} (relative to the folder)")


@contextlib.contextmanager
def replacing_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its place on success and disappears on failure."""
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists; give another path, or say that it may be overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (target.with_name(f".{target.name}.{kind}-{os.getpid()}") for kind in ("new", "old"))
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            target.rename(old)
        temporary.rename(target)
    finally:
        if old.exists() and not target.exists():  # the last step failed: the old content comes back
            old.rename(target)
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


def flat_shapes(components: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Shape]:
    """``component.key`` → shape."""
    return {f"{name}.{key}": tuple(x.shape) for name, part in components.items() for key, x in part.items()}


def _files(path: Path, named: object, parts: list[str], spec: ModelSpec) -> dict[str, Path]:
    """Where each part lies; spec.json is one of them, so that a hash over all covers the architecture."""
    defaults = {name: f"{name}.safetensors" for name in parts}
    if spec.text.tokenizer == "file":
        defaults[TOKENIZER] = "tokenizer.json"
    if not isinstance(named, Mapping) or not named.keys() <= defaults.keys():
        raise UserError(f"{path / SPEC_FILE}: 'files' maps parts to paths; parts: {', '.join(defaults)}; got {named!r}")
    files = {name: path / str(relative) for name, relative in (defaults | dict(named)).items()}
    if EXTRA not in named and not files[EXTRA].is_file():
        del files[EXTRA]  # only a model that came from an official checkpoint carries one
    absent = [f"{name} ({file})" for name, file in files.items() if not file.is_file()]
    if absent:
        raise UserError(f"{path} is incomplete, it lacks: {', '.join(absent)}")
    return {"spec": path / SPEC_FILE, **files}
