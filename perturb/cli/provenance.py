"""What a run was made from, written into its manifest: versions, revision, model, images, clips, metrics."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perturb.errors import UserError
from perturb.metrics import described
from perturb.store.hashes import sha256, sha256_of
from perturb.store.paths import PACKAGE, resolve
from perturb.store.records import SCHEMA_VERSION

if TYPE_CHECKING:
    from perturb.cli.config import RunConfig
    from perturb.data.images import ImageSet
    from perturb.metrics import Metric, SetMetric
    from perturb.models.base import VideoModel
    from perturb.models.partition import Partition
    from perturb.store.rundir import RunDir
    from perturb.study.sample import Generator

PACKAGES = (
    *("perturb", "torch", "torchao", "diffusers", "transformers", "peft", "safetensors", "numpy"),
    "opencv-python-headless",
)


def record(
    run: RunDir,
    config: RunConfig,
    *,
    system: VideoModel,
    partition: Partition,
    images: ImageSet | None,
    generate: Generator,
    metrics: Sequence[Metric | SetMetric],
) -> None:
    """Write everything known before fitting.

    Raises UserError for a run that was begun by an older program or with other images than now.
    """
    if (begun := run.manifest()).schema_version < SCHEMA_VERSION:
        raise UserError(
            f"{run.path} was begun by an older version of perturb: finish it with that, or remove the folder"
        )
    shown, before = {} if images is None else images.describe(), begun.images
    if changed := [key for key, value in shown.items() if before.get(key, value) != value]:
        raise UserError(
            f"the images have changed since {run.path} was begun ({', '.join(changed)}): put them back, or remove that "
            "folder to begin again"
        )
    run.update_manifest(
        run_id=run.path.name,
        experiment=config.name,
        caveats=list(config.caveats),
        versions={name: _version(name) for name in PACKAGES},
        git=git_revision(),
        system=system.provenance | {"training": config.training, "pair": config.pair, "device": str(system.device)},
        partition=partition.counts(),
        images=shown,
        prompts={prompt.id: prompt.text for prompt in generate.prompts},
        clips=generate.describe(),
        playback_fps=config.sample.playback_fps,
        metrics=[dataclasses.asdict(info) for info in described(metrics)],
    )


def origin(run: RunDir, config: RunConfig, *, system: VideoModel, generate: Generator) -> dict[str, Any]:
    """What the clips of the untouched model depend on beside their batch: model, settings, program and processor.

    ``run`` has its manifest, with the hashes of all weights. The program stands there by its text, so that a changed
    one samples anew.
    """
    import torch

    manifest, gpu = run.manifest(), system.device.type == "cuda"
    program = {str(file.relative_to(PACKAGE)): file for file in PACKAGE.rglob("*.py")}
    program |= {part.__qualname__: Path(inspect.getfile(part)) for part in (type(system), type(generate.sampler))}
    return {
        "system": [config.system, manifest.system, manifest.frozen["before"]],
        "clips": [manifest.clips, config.sample.negative_prompt],
        "image": None if config.image is None else sha256(resolve(config.image)),
        "program": [sha256_of(program), manifest.versions],
        "processor": torch.cuda.get_device_name(system.device) if gpu else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def git_revision() -> str:
    """The commit of the checkout this program runs from, "+changes" where files differ; "unavailable" in a wheel."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return "unavailable"

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unavailable"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unavailable"
