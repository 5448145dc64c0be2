"""adapter_config.json of peft: which LoRA it describes, and whether A and B are the whole of what was fitted."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perturb.errors import UserError

SETTINGS = "adapter_config.json"

BASE_KEPT = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
"""Values of ``init_lora_weights`` with which peft leaves θ alone (peft 0.21, tuners/lora/layer.py `update_layer`).

The others (pissa, pissa_niter_N, olora, corda, loftq, lora_ga) put θ - Δ₀ in its place, and no adapter holds that.
"""
HARMLESS = {
    *("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "lora_alpha", "lora_dropout", "init_lora_weights", "runtime_config"),
    *("rank_pattern", "alpha_pattern", "use_rslora"),  # read
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),  # the tensors' names say it too
    *("eva_config", "corda_config", "lora_ga_config", "loftq_config"),  # act through init_lora_weights
    *("qalora_group_size", "megatron_core"),  # act with use_qalora, megatron_config
    *("fan_in_fan_out", "velora_config", "ensure_weight_tying"),  # how weights lie; training; modules_to_save
}
"""Settings that do not change what A and B add to the network; any other must be off."""
OFF = (None, False, 0, "", "none", [], {})

CONVERT = (
    "Convert it with peft, with the weights that it had before training: model.save_pretrained(folder, "
    "path_initial_model_for_weight_conversion=folder_before_training)"
)


def read_settings(path: Path) -> dict[str, Any]:
    """`check_settings` of a file."""
    return check_settings(_parse(path), path)


def check_settings(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """The settings of a plain LoRA, ``lora_dropout`` among them.

    Raises UserError, naming ``path``, for what is malformed and for settings with which Δ is more than a factor times
    B A on θ.
    """
    settings.setdefault("lora_dropout", 0.0)
    if settings.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type is {settings.get('peft_type')!r}; only plain LoRA is read here")
    for key, kind, what in (("r", int, "a whole number of at least 1"), ("lora_alpha", object, "a positive number")):
        value: Any = settings.get(key)
        if not (_is_number(value) and value > 0 and isinstance(value, kind)):
            raise UserError(f"{path}: {key} is {value!r}; it must be {what}. The file is damaged: get it again")
    dropout = settings["lora_dropout"]
    if not _is_number(dropout) or not 0 <= dropout < 1:
        raise UserError(f"{path}: lora_dropout is {dropout!r}; it must be a number in [0, 1)")
    init = settings.get("init_lora_weights", True)
    if not any(init is kept or (isinstance(kept, str) and init == kept) for kept in BASE_KEPT):
        raise UserError(
            f"{path}: init_lora_weights is {init!r}, which changed the base weights before training, and they are not "
            f"in the adapter: on the model itself it would be another one. {CONVERT}"
        )
    if more := {key: value for key, value in settings.items() if key not in HARMLESS and value not in OFF}:
        given = ", ".join(f"{key} = {json.dumps(value)[:60]}" for key, value in more.items())
        raise UserError(
            f"{path}: {given}: only plain LoRA is read here, and this part of the adapter would be dropped. "
            "Fit it without, or merge it into the model with peft and give that as system.checkpoint"
        )
    for pattern in ("rank_pattern", "alpha_pattern"):
        for layers, value in (settings.get(pattern) or {}).items():
            if not (_is_number(value) and value > 0 and _is_expression(layers)):
                given = json.dumps({layers: value})
                raise UserError(f"{path}: {pattern} = {given}; wanted: an expression of names, and a number above 0")
    return settings


def rank_of(settings: Mapping[str, Any], layer: str) -> int:
    """The rank that peft gives a layer."""
    return _of_layer(settings, "rank_pattern", "r", layer)


def alpha_of(settings: Mapping[str, Any], layer: str) -> float:
    """The α that peft gives a layer."""
    return _of_layer(settings, "alpha_pattern", "lora_alpha", layer)


def exactly(name: str) -> str:
    """A pattern of peft's that fits one layer alone: others fit every layer whose name ends so.

    >>> exactly("up.0.conv")
    '^up\\\\.0\\\\.conv'
    """
    return f"^{re.escape(name)}"


def _of_layer(settings: Mapping[str, Any], patterns: str, default: str, layer: str) -> Any:
    """As peft 0.21 has it (utils/other.py `get_pattern_key`): the first pattern that fits the end of the name."""
    found = settings.get(patterns) or {}
    return next((value for key, value in found.items() if re.match(rf"(.*\.)?({key})$", layer)), settings[default])


def _parse(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors put a mark before the text
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason}): save it in that encoding") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, not the settings of an adapter")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_expression(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True
