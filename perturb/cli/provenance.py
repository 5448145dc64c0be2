"""What a run was made from, written into its manifest: versions, revision, model, images, clips, metrics."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from perturb.errors import UserError
from perturb.metrics import described
from perturb.store.paths import PACKAGE
from perturb.store.records import SCHEMA_VERSION

if TYPE_CHECKING:
    from perturb.cli.config import RunConfig
    from perturb.data.images import ImageSet
    from perturb.metrics import Metric, SetMetric
    from perturb.models.base import VideoModel
    from perturb.models.partition import Partition
    from perturb.store.rundir import RunDir
    from perturb.study.sample import Generator

PACKAGES = ("perturb", "torch", "diffusers", "transformers", "peft", "safetensors", "numpy", "opencv-python-headless")


def record(
    run: RunDir,
    config: RunConfig,
    *,
    system: VideoModel,
    partition: Partition,
    images: ImageSet,
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
    shown, before = images.describe(), begun.images
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
        system=system.provenance | {"training": config.training, "device": str(system.device)},
        partition=partition.counts(),
        images=shown,
        prompts={prompt.id: prompt.text for prompt in generate.prompts},
        clips=generate.describe(),
        metrics=[dataclasses.asdict(info) for info in described(metrics)],
    )


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
