"""SHA-256 of weights, proof that what was frozen has not moved; and which of them are no numbers."""

import hashlib
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

Hashes = dict[str, dict[str, str]]
"""Component → parameter or buffer → hash."""


def hash_modules(modules: Mapping[str, nn.Module]) -> Hashes:
    """Hashes of every parameter and buffer of every component, over bytes, dtype and shape."""
    return {name: hash_tensors(dict(m.named_parameters()) | dict(m.named_buffers())) for name, m in modules.items()}


def summarise(hashes: Hashes) -> dict[str, Any]:
    """For the manifest: per component the number of tensors and one hash over all of theirs."""
    summary = {}
    for component, tensors in hashes.items():
        lines = "".join(f"{name} {tensors[name]}\n" for name in sorted(tensors))
        summary[component] = {"tensors": len(tensors), "sha256": hashlib.sha256(lines.encode()).hexdigest()}
    return summary


def moved(before: Hashes, after: Hashes) -> list[str]:
    """Full names of what differs, is missing or is new."""
    old, new = _flat(before), _flat(after)
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _flat(hashes: Hashes) -> dict[str, str]:
    return {f"{component}.{name}": value for component, tensors in hashes.items() for name, value in tensors.items()}


def hash_tensors(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The hash of each, over bytes, dtype and shape."""
    with ThreadPoolExecutor() as pool:  # hashlib lets go of the interpreter lock
        return dict(zip(tensors, pool.map(_hash_tensor, tensors.values()), strict=True))


def _hash_tensor(tensor: Tensor) -> str:
    total = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    total.update(raw_bytes(tensor))
    return total.hexdigest()


def non_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Keys of the tensors that hold a NaN or an infinity; one pass over each, without a copy."""
    # min and max take a NaN over from any element, and no finite values can overflow them as they could a sum.
    floating = {key: x for key, x in tensors.items() if x.is_floating_point() and x.numel()}
    return [key for key, x in floating.items() if not all(math.isfinite(end) for end in torch.aminmax(x))]


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of the values, of any dtype, in row-major order."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
