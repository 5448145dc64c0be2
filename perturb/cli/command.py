"""What commands with a configuration share: hydra in front, plain dictionaries behind, errors as one message."""

import os
import re
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import hydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from perturb.arguments import exit_code
from perturb.cli.job import Job, Task
from perturb.cli.words import hint, plain
from perturb.errors import UserError
from perturb.store.paths import conf_dir, resolve
from perturb.structured import MISSING_VALUE, unknown_key

WANTED = {
    "system.checkpoint": "the weights: an official .ckpt or .safetensors, or a folder made by perturb.convert",
    "system.unet": "the file of T2V-Turbo: unet_lora.pt (v1), unet_no_mg.pt or unet_mg.pt (v2)",
    "system.motion": "AnimateDiff's motion module: its published file, or a MotionAdapter of diffusers",
    "system.domain_adapter": "AnimateDiff's domain adapter, v3_sd15_adapter.ckpt",
    "system.motion_lora": "a motion LoRA of AnimateDiff, v2_lora_*.ckpt",
    "system.reference": "a Stable Diffusion that θ_S must equal",
    "weights.modelscope": "ModelScope 1.7B as diffusers' folder, text-to-video-ms-1.7b of ali-vilab on Hugging Face "
    "(unet, vae and text_encoder: 7.3 GB in float32; CC BY-NC 4.0)",
    "weights.stable_diffusion": "Stable Diffusion 1.5, the folder or v1-5-pruned-emaonly.safetensors, of "
    "stable-diffusion-v1-5 on Hugging Face (4.3 GB; CreativeML OpenRAIL-M)",
    "weights.motion": "v3_sd15_mm.ckpt of guoyww/animatediff on Hugging Face (1.7 GB; Apache-2.0)",
    "system.pipeline": "the folder of a pipeline of diffusers: model_index.json and a folder per component",
    "images.folder": "the folder of images to perturb with, captions beside them or in one csv/jsonl",
    "images.table": "the csv, jsonl or parquet table of images to perturb with: file and caption",
    "prompts.file": "the prompts to sample: .txt with one per line, csv or jsonl",
    "perturbation.reference": "the finished run that a control is matched to, or that is taken apart, "
    "runs/<experiment>/<run id>",
    "perturbation.spatial": "the finished run whose Δ_S a landscape takes, or leave it out to fit one",
    "perturbation.temporal": "the finished run whose Δ_T a landscape takes, or leave it out to fit one",
    "perturbation.adapters": "a list of folders in peft's format or of <run>/adapters/<state>, or of others' files",
    "perturbation.checkpoint": "the output folder of a finished python -m perturb.train",
    "image": "the image that conditions the clips, or a column image in the table of prompts",
    "adapters": "a list of adapters to compare: folders of peft or of <run>/adapters/<state>, or files, A,B",
    "adapter": "the folder of a saved adapter",
}
"""Paths that users give, and what to give."""


def run_command(task: Task, config_name: str) -> None:
    """Compose ``config_name`` with the command line and call ``task`` with the resolved configuration.

    With --multirun a job that fails is named and the others go on. Exit codes: those of `exit_code` and `attempt`.
    """
    if code := exit_code(lambda: _run(task, config_name)):
        sys.exit(code)


def _run(task: Task, config_name: str) -> int:
    if "--version" in sys.argv[1:]:  # hydra would print its own
        print(f"perturb {version('perturb')}")
        return 0
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra hands its exceptions over instead of printing them itself
    if any(word.partition("=")[0] == "--experiment" for word in sys.argv[1:]):  # to hydra: its --experimental-rerun
        raise UserError("--experiment: what is run is given without dashes, as experiment=NAME")
    sys.argv[1:] = map(plain, sys.argv[1:])

    job = Job(task)
    try:
        hydra.main(config_path=str(conf_dir()), config_name=config_name, version_base="1.3")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error, config_name)) from None
    return job.code


def check_paths(config: Mapping[str, Any]) -> None:
    """Raise one UserError that lists every path of `WANTED` that is not given or not there."""
    if problems := path_problems(config):
        raise UserError("\n".join(["these paths are needed:", *(f"  {line}" for line in problems)]))


def path_problems(config: Mapping[str, Any]) -> list[str]:
    """One line per path of `WANTED` that is not given or not there, saying what to give."""
    problems = []
    for key, what in WANTED.items():
        if key in ("system.checkpoint", "system.motion") and config.get("weights"):
            continue  # they are given as weights.NAME
        value = select(config, key)
        if value == MISSING_VALUE:
            problems.append(f"{key}=…  is not given: {what}")
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, str) and path != MISSING_VALUE and not resolve(path).exists():
                problems.append(f"{key}={path}  does not exist ({resolve(path).absolute()}): give {what}")
    return problems


def select(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _explain(error: Exception, config_name: str) -> str:
    """Hydra's message; where a key is unknown, the keys that are allowed in its place."""
    message = str(error).strip().split("\nConfig search path")[0]
    if isinstance(error, OverrideParseException):
        return f"{message}\n{hint(error.override)}".strip()
    if ambiguous := re.match(r"Ambiguous value for argument '(.*?)'\n1\. ", message, re.DOTALL):
        return f"{message}\n{hint(ambiguous[1])}"
    if isinstance(error, OmegaConfBaseException) and (filled := [word for word in sys.argv[1:] if "${" in word]):
        return "\n".join([message, *map(hint, filled)])
    experiment = re.search(r"'experiment/([\w/]+)'", message)
    if experiment and experiment[1] not in (allowed := _experiments(config_name)):
        return f"experiment={experiment[1]}: no experiment of this command. Allowed: {', '.join(allowed)}."
    unknown = re.search(r"Could not override '([\w.]+)'", message)
    return unknown_key(unknown[1], _siblings(unknown[1], config_name)) if unknown else message


def _experiments(config_name: str) -> list[str]:
    """The choices of experiment=…: those of a training lie in experiment/train."""
    place = "train/" if config_name == "train" else ""
    return sorted(place + path.stem for path in (conf_dir() / "experiment" / place).glob("*.yaml"))


def _siblings(key: str, config_name: str) -> list[str]:
    """The keys beside ``key``, in the configuration with the choices of the command line."""
    groups = {folder.name for folder in conf_dir().iterdir() if folder.is_dir()}
    choices = [word for word in sys.argv[1:] if word.partition("=")[0] in groups - {key} and "," not in word]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose(config_name, overrides=choices)
    beside = OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else config
    return [str(name) for name in beside] if isinstance(beside, DictConfig) else []
