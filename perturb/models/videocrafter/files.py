"""Reading and writing weights on disk without running anybody's code and without copying what can be memory-mapped.

Every reader returns a flat ``{key: tensor}``; the tensors are views of the mapped file wherever the format allows it.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from perturb.errors import UserError
from perturb.store.torch_files import ALLOWED, load_torch

INDEX = "model.safetensors.index.json"
WRAPPERS = ("_forward_module.", "_orig_mod.", "module.")  # DeepSpeed, torch.compile, DistributedDataParallel
NOT_WEIGHTS = ("animatediff_config",)
"""Settings that some files keep among their tensors."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Official weights in any published packing, as one flat state dict on the CPU.

    A torch file may hold ``{"state_dict": …}``, a bare state dict, or DeepSpeed's ``{"module": …}``; whatever else it
    holds (epoch, optimizer) is ignored, and a wrapper prefix shared by every key is taken off.

    Raises ``UserError`` for a file that is absent, empty, cut short, of another type, or that wants to run code.
    """
    if path.is_dir():
        index = _index_of(path)
        return _strip_wrappers(_merge(_shards_of(path)) if index is None else _read_index(index))
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; give the path of a file or folder that exists ({ALLOWED})")
    if path.name.endswith(".index.json"):
        return _strip_wrappers(_read_index(path))
    return _strip_wrappers(read_safetensors(path) if _looks_like_safetensors(path) else _state_dict(path))


def read_tensors(path: Path) -> dict[str, Tensor] | list[Tensor]:
    """As `read_weights` of one file, or the tensors of a torch file that holds a plain list of them, in its order."""
    if path.is_file() and not _looks_like_safetensors(path):
        content = load_torch(path)
        if (
            isinstance(content, list)
            and content
            and all(isinstance(each, Tensor) and each.ndim > 1 for each in content)
        ):
            return [each.detach() for each in content]
    return read_weights(path)


def weight_files(path: Path) -> list[Path]:
    """The files that ``read_weights(path)`` reads tensors from, in a fixed order."""
    if path.is_dir():
        return _shards_of(path)
    return _indexed(path)[1] if path.name.endswith(".index.json") else [path]


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one safetensors file, memory-mapped."""
    if not path.is_file():
        raise UserError(f"no weights at {path}; expected a .safetensors file")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes); download or copy it again")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error}); it is cut short or of another type: fetch it again"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object; anything else is a UserError naming the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as they are (bytes, dtype, shape), whatever storage they share."""
    path.touch()
    mode = path.stat().st_mode  # as the umask has it: safetensors would leave a file that only its owner can read
    save_file(separate(tensors), path, metadata={"format": "pt"})
    path.chmod(mode)


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write an official ``{"state_dict": tensors}`` file; each tensor keeps exactly its own bytes."""
    # Without `separate`, torch.save would store the whole mapped file behind every view of it.
    torch.save({"state_dict": separate(tensors)}, path)


def separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values, each as a contiguous tensor whose storage holds nothing else; copies only what it must."""
    seen: set[int] = set()
    result = {}
    for key, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()  # noqa: PLW2901
        if tensor.numel() and tensor.data_ptr() in seen:
            tensor = tensor.clone()  # noqa: PLW2901 (two keys share bytes; both formats want them apart)
        seen.add(tensor.data_ptr())
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        result[key] = tensor if whole or not tensor.numel() else _window(tensor)
    return result


def _window(tensor: Tensor) -> Tensor:
    """A zero-copy twin whose storage is just this tensor's stretch of memory."""
    array = tensor.reshape(-1).view(torch.uint8).numpy()  # through numpy: torch views always drag the whole storage
    return torch.from_numpy(array).view(tensor.dtype).view(tensor.shape)


def _strip_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in (p for _ in range(2) for p in WRAPPERS):
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _looks_like_safetensors(path: Path) -> bool:
    """By content (a length, then a JSON object), so that a wrong suffix does no harm; by suffix when cut short."""
    with path.open("rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or (len(head) == 9 and head[8:] == b"{" and head[4:8] == b"\0\0\0\0")


def _index_of(folder: Path) -> Path | None:
    """The one index in a folder of shards, None where there is none."""
    indices = sorted(folder.glob("*.index.json"))
    if len(indices) > 1:
        raise UserError(f"{folder} holds several checkpoints; give one index: {_some(str(path) for path in indices)}")
    return indices[0] if indices else None


def _shards_of(folder: Path) -> list[Path]:
    index = _index_of(folder)
    if index is not None:
        return _indexed(index)[1]
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise UserError(
            f"{folder} is a folder without spec.json, {INDEX} or any .safetensors file; give a checkpoint file, "
            "or a folder made by `python -m perturb.convert`"
        )
    return shards


def _indexed(path: Path) -> tuple[dict[str, str], list[Path]]:
    """The index's key → file table, and the files it names."""
    table = read_json(path).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise UserError(f"{path} has no 'weight_map'; it is not the index of sharded safetensors")
    files = [path.parent / name for name in sorted(set(table.values()))]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise UserError(f"{path} names {len(files)} shards, of which {len(absent)} are missing: {_some(absent)}")
    return table, files


def _read_index(path: Path) -> dict[str, Tensor]:
    table, files = _indexed(path)
    tensors = _merge(files)
    wrong = sorted(table.keys() ^ tensors.keys())
    if wrong:
        raise UserError(f"{path} and its shards disagree on {len(wrong)} keys: {_some(wrong)}")
    return tensors


def _merge(files: Iterable[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in files:
        shard = read_safetensors(file)
        twice = sorted(tensors.keys() & shard.keys())
        if twice:
            raise UserError(f"{file} repeats {len(twice)} keys of other shards: {_some(twice)}")
        tensors |= shard
    return tensors


def _state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict inside a torch file."""
    content = load_torch(path)
    for name in ("state_dict", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} holds {_describe(content)}, not a state dict")
    content = {key: value for key, value in content.items() if key not in NOT_WEIGHTS}
    alien = [str(key) for key, value in content.items() if not isinstance(value, Tensor) or not isinstance(key, str)]
    if alien:
        raise UserError(
            f"{path}: expected a state dict (under 'state_dict', under 'module', or bare), but {len(alien)} of "
            f"{len(content)} entries are not named tensors: {_some(alien)}"
        )
    return dict(content)


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dict with {len(content)} entries ({_some(map(str, content))})" if content else "an empty dict"
    return f"a {type(content).__name__}"


def _some(names: Iterable[str], limit: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
