"""Training on files: what data.video and data.images give, as batches and as held-out samples.

Axes: b batch, c channels, t frames, h w latents.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from einops import repeat
from torch import Tensor

from perturb.data.breakage import Breakage, BrokenReport
from perturb.data.feed import Feed, FeedConfig, open_feed
from perturb.data.joint_feed import JointFeed
from perturb.errors import UserError
from perturb.loop.config import StageConfig
from perturb.loop.schedule import stage_seed
from perturb.loop.task import Batches
from perturb.models.videocrafter.system import VideoSystem
from perturb.structured import Target, build
from perturb.training.config import TrainConfig
from perturb.training.feeds import FeedBatches, FeedSettings
from perturb.training.validation import HeldOut, ValidationConfig

LISTED = 100  # broken files that a manifest names


@dataclass(frozen=True)
class TrainingData:
    """``batches``: number of a stage → its batches; ``described``: for the manifest and to know a training again.

    ``breakages``: what could not be read of each source, in this process, in all stages.
    """

    batches: Callable[[int], Batches]
    described: dict[str, Any]
    breakages: Sequence[Breakage] = ()

    def broken(self, gather: Callable[[list[Any]], list[Any]]) -> dict[str, Any]:
        """What could not be read: how many files of how many tries, and the first hundred with the reason.

        ``gather`` joins what the processes hold; all of them call this together.
        """
        reports: list[BrokenReport] = gather([breakage.report() for breakage in self.breakages])
        files = {path: reason for report in reports for path, reason in report.files.items()}
        listed = dict(list(files.items())[:LISTED])
        return {"tried": sum(report.tried for report in reports), "count": len(files), "files": listed}


def file_data(config: TrainConfig, system: VideoSystem) -> TrainingData:
    """Video, stills, or both in turn; the sources are opened once, for all stages."""
    data = config.data
    if data.video is None and data.images is None:
        raise UserError("data names nothing to train on: give data.world, or train/video=… or train/images=…")
    video, images = (_open(f"data.{name}", getattr(data, name)) for name in ("video", "images"))
    described = {
        "video": None if video is None else video.describe(),
        "images": None if images is None else images.describe(),
        "image_share": data.image_share,
        "as_video": data.as_video,
        "still_fps": still_fps(config, system),
        "text_dropout": config.loss.text_dropout,
        "stages": [asdict(stage) | {"learning_rate": None} for stage in config.stages],
    }
    # one count per source for all stages: it travels with the saved position, so a later stage knows the earlier ones
    sources = [(source, Breakage(data.max_broken_fraction)) for source in (images, video) if source is not None]

    def batches(number: int) -> FeedBatches:
        return FeedBatches(system, _feed(config, system, sources, number), _settings(config, system, number))

    return TrainingData(batches, described, [breakage for _, breakage in sources])


def still_fps(config: TrainConfig, system: VideoSystem) -> int:
    """What the model is told of stills."""
    return config.data.still_fps or system.spec.sampling.fps


def held_out(config: TrainConfig, wanted: ValidationConfig, system: VideoSystem) -> HeldOut:
    """The first ``count`` samples that the validation's own source gives, the same every time and in every process."""
    seam = wanted.video or wanted.images
    assert seam is not None
    name = "video" if wanted.video else "images"
    stage = config.stages[-1]
    size = feed_config(config, system, stage, seed=0, batch_size=wanted.count)
    feed = open_feed(_open(f"validation.{name}", seam), size, rank=0, world=1)  # shards are not split among processes
    samples = feed.samples(0, range(wanted.count))
    if len({tuple(sample.frames.shape) for sample in samples}) != 1:
        raise UserError(f"validation.{name} gives samples of different sizes; give one kind")
    means = [system.posterior(sample.frames[None])[0].cpu() for sample in samples]
    still = still_fps(config, system)
    fps = [still if sample.frames.shape[1] == 1 else round(sample.fps) for sample in samples]
    x0 = system.spec.vae.scale_factor * torch.cat(means)
    return HeldOut(as_trained(x0, config, system), [sample.caption for sample in samples], torch.tensor(fps))


def as_trained(x0: Tensor, config: TrainConfig, system: VideoSystem) -> Tensor:
    """Latents b c t h w; stills repeated where the training repeats them, to the frames of its last stage."""
    if x0.shape[2] > 1 or config.data.as_video == "single_frame":
        return x0
    return repeat(x0, "b c 1 h w -> b c t h w", t=config.stages[-1].frames or system.spec.sampling.frames)


def feed_config(
    config: TrainConfig, system: VideoSystem, stage: StageConfig, *, seed: int, batch_size: int
) -> FeedConfig:
    """What a feed of ``stage`` must know, the model's own size where the stage leaves it open."""
    size = system.spec.sampling
    return FeedConfig(
        seed=seed,
        batch_size=batch_size,
        frames=stage.frames or size.frames,
        height=stage.height or size.height,
        width=stage.width or size.width,
        max_broken_fraction=config.data.max_broken_fraction,
        threads=config.data.threads,
    )


def _feed(config: TrainConfig, system: VideoSystem, sources: Sequence[tuple[Any, Breakage]], number: int) -> Feed:
    """Of one source, or of stills and videos in this order."""
    stage, seed = config.stages[number], stage_seed(config.seed, number)
    size = feed_config(config, system, stage, seed=seed, batch_size=stage.batch_size)
    feeds = [open_feed(source, size, breakage) for source, breakage in sources]
    return feeds[0] if len(feeds) == 1 else JointFeed(*feeds, image_share=config.data.image_share, seed=seed)


def _settings(config: TrainConfig, system: VideoSystem, number: int) -> FeedSettings:
    assert config.trained is not None
    frames = config.stages[number].frames or system.spec.sampling.frames
    return FeedSettings(
        seed=stage_seed(config.seed, number),
        text_dropout=config.loss.text_dropout,
        offset_noise=config.loss.offset_noise,
        frames=frames if config.data.as_video == "repeat" else None,
        still_fps=still_fps(config, system),
        text_ids=config.trained.text_encoder,
        prefetch=config.data.prefetch,
    )


def _open(key: str, target: Target | None) -> Any:
    return None if target is None else build(key, target)
