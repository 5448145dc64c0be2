"""Reading published weight files strictly: a key that is missing or of another shape is an error, never a warning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from perturb.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    Model = TypeVar("Model", bound=PreTrainedModel)
    Module = TypeVar("Module", bound=nn.Module)


def state_dict(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a `.pth` file by name. UserError when it holds anything else; a pickle cannot run code."""
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping):
        raise UserError(f"a state dict is needed, the file holds a {type(state).__name__}")
    return state


def frozen(module: Module, device: str) -> Module:
    """The module in evaluation mode and float32 on its device, without gradients."""
    return module.eval().requires_grad_(False).float().to(device)


def pretrained(kind: type[Model], folder: Path, **settings: Any) -> Model:
    """A transformers model from a snapshot folder. UserError when the weights do not give every parameter its value."""
    loaded: Any = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **settings)
    model, report = loaded
    if wrong := sorted({*report["missing_keys"], *map(str, report["mismatched_keys"])}):
        raise UserError(f"{len(wrong)} parameters are not in the file or have another shape: {', '.join(wrong[:3])}")
    return model
