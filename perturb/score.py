"""`python -m perturb.score videos=FOLDER prompts=FILE`: score a folder of clips, or finished runs again."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from perturb.cli.command import check_paths, run_command
from perturb.data.prompts import PromptsConfig
from perturb.errors import UserError
from perturb.store.paths import resolve
from perturb.store.rundir import Locked, RunDir
from perturb.structured import check_range, read

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from perturb.data.images import ImageSet
    from perturb.metrics import Metric, SetMetric

EMBEDDED = {"_target_": "perturb.metrics.embedded_metrics"}
"""As conf/metrics/embedded.yaml."""

# OpenCV, scikit-image and pandas take seconds to import: --help and plain mistakes do not wait for them.


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Either ``videos``, a folder of clips, or ``run``, one or several runs (or folders of them) to score again.

    Without ``metrics`` clips are scored by the embedded ones, runs by those that they were made with.
    """

    metrics: dict[str, Any] | None = None
    images: dict[str, Any] | None = None
    videos: str | None = None
    run: str | tuple[str, ...] | None = None
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    reference: str | None = None
    fps: float | None = None
    mixed: bool = False
    workers: int | None = None
    threads: int | None = None
    cache: str | None = None
    locked: Locked = "refuse"
    output: str = "scores"

    def __post_init__(self) -> None:
        check_range("fps", self.fps, low=1, high=240)
        check_range("workers", self.workers, low=1)
        if (self.videos is None) == (self.run is None):
            found = "neither is" if self.videos is None else "both are"
            raise UserError(f"give either videos=FOLDER or run=runs/<experiment>/<run id>; {found} given")
        if self.prompts.limit is not None:
            raise UserError("prompts.limit has no meaning here: every clip is scored; leave it out")
        given = [name for name in ("images", "reference", "fps") if getattr(self, name) is not None]
        if self.run is not None and (given or self.prompts.file is not None):
            raise UserError(f"a run has {', '.join([*given, 'prompts'])} of its own: leave that out with run=…")


def score(values: dict[str, Any]) -> None:
    """Score what the resolved configuration names."""
    check_paths(values)
    config = read(ScoreConfig, values)

    cache = None if config.cache is None else resolve(config.cache)
    if config.videos is None:
        return _runs(config, cache)
    return _folder(config, config.videos, cache)


def _folder(config: ScoreConfig, videos: str, cache: Path | None) -> None:
    from rich.console import Console

    from perturb.structured import build
    from perturb.study.score_folder import print_scores, score_folder, write_scores

    metrics: list[Metric | SetMetric] = build("metrics", config.metrics or EMBEDDED)
    scores = score_folder(
        metrics,
        videos,
        prompts=config.prompts.file,
        columns=config.prompts.columns,
        reference=config.reference,
        images=None if config.images is None else build("images", config.images),
        fps=config.fps,
        mixed=config.mixed,
        workers=config.workers,
        cache=cache,
    )
    output = resolve(config.output)
    write_scores(output, metrics, scores)
    print_scores(scores, Console())
    print(f"scores  {output / 'scores.csv'}")


def _runs(config: ScoreConfig, cache: Path | None) -> None:
    from omegaconf import OmegaConf

    from perturb.analysis.load import find_runs
    from perturb.structured import build
    from perturb.study.rescore import rescore

    given = (config.run,) if isinstance(config.run, str) else config.run or ()
    for run in map(RunDir, find_runs([resolve(path) for path in given])):
        own: Any = OmegaConf.to_container(OmegaConf.load(run.config))
        with run.lock(config.locked) as held:
            if held:
                metrics = build("metrics", config.metrics or own["metrics"])
                changes = rescore(metrics, run, own, images=_images_of(own), cache=cache)
                print(run.path, *(f"  {change}" for change in changes), sep="\n")


def _images_of(config: Mapping[str, Any]) -> ImageSet | None:
    """The image set D_I of a run; None, saying so, where it is no longer there."""
    from perturb.structured import build

    try:
        return None if config["images"] is None else build("images", config["images"])
    except UserError as error:
        print(f"what compares with the run's images is unavailable: {error}", file=sys.stderr)
        return None


def main() -> None:
    """The command."""
    # conf/ has a group "prompts": hydra would take the file for the name of a choice
    sys.argv[1:] = [re.sub("^prompts=", "prompts.file=", word) for word in sys.argv[1:]]
    run_command(score, "score")


if __name__ == "__main__":
    main()
