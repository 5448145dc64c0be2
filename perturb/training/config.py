"""The configuration of a training: one dataclass, read from conf/train.yaml and what it chooses."""

from dataclasses import dataclass
from typing import Literal

from perturb.errors import UserError
from perturb.loop.config import LoopConfig, StageConfig
from perturb.nano.latents import WorldData
from perturb.structured import Target, check_range
from perturb.training.diffusion import LossConfig
from perturb.training.recipes import Trained
from perturb.training.validation import ValidationConfig

InitKind = Literal["system", "autoencoder", "stable_diffusion", "scratch"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on: the embedded world (``world``, its latents encoded once), or ``video`` and ``images``.

    Steps take their whole batch from the stills (``world_stills`` or ``images``) with probability ``image_share``, by a
    draw of (seed, step). ``as_video``: a still is one frame, or is repeated to the frames of the stage. ``still_fps``
    is what the model is told of stills (None: its default). ``prefetch`` loads the next micro-batch during a step, by
    ``threads`` at a time; more than ``max_broken_fraction`` broken files end the training.
    """

    world: WorldData | None = None
    world_stills: WorldData | None = None
    video: Target | None = None
    images: Target | None = None
    image_share: float = 0.0
    as_video: Literal["single_frame", "repeat"] = "single_frame"
    still_fps: int | None = None
    prefetch: bool = True
    threads: int = 1
    max_broken_fraction: float = 0.05

    def __post_init__(self) -> None:
        check_range("data.image_share", self.image_share, low=0, high=1)
        check_range("data.max_broken_fraction", self.max_broken_fraction, low=0, high=1)
        for name in ("still_fps", "threads"):
            check_range(f"data.{name}", getattr(self, name), low=1)
        moving, still = self.world or self.video, self.world_stills or self.images
        if (self.world or self.world_stills) and (self.video or self.images):
            raise UserError(
                "data: the embedded world (world, world_stills) and files (video, images) do not mix; for files alone "
                "give data.world=null data.world_stills=null"
            )
        if self.image_share and not (moving and still):
            raise UserError(f"data.image_share is {self.image_share}, which needs both moving data and stills")
        if moving and still and not self.image_share:
            raise UserError(
                "data: moving data and stills are given, and image_share is 0; allowed: more than 0, up to 1"
            )


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Training of the autoencoder: λ of the KL term, and for how many steps it sees crops around the object."""

    kl_weight: float = 1e-5
    crop_steps: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training. ``recipe`` is its name; ``trained`` what moves (none: the autoencoder, set up by ``autoencoder``).

    ``init``: what to start from: a ``system`` (folder, or official file with ``init_spec``), the ``autoencoder`` of the
    embedded world with everything else fresh (the text encoder after ``text_steps`` of naming labels), or
    ``stable_diffusion`` 2.1 with fresh temporal layers. ``work`` holds logs, samples and resumable states, ``output``
    the finished system, ``share`` the sibling folder whose autoencoder, text encoder and tokenizer the finished system
    points to instead of carrying copies. ``oracle``: how many held-out prompts of the embedded world are judged in the
    end. ``base`` only serves to name init, work and output; ``plan_processes`` is how many processes ``plan`` reckons
    with.
    """

    recipe: str
    trained: Trained | None = None
    autoencoder: AutoencoderConfig | None = None
    init: str | None = None
    init_kind: InitKind = "system"
    init_spec: str | None = None
    text_steps: int = 0
    share: str | None = None
    base: str | None = None
    work: str
    output: str
    cache: str
    data: DataConfig
    stages: tuple[StageConfig, ...]
    loop: LoopConfig
    loss: LossConfig
    validation: ValidationConfig | None = None
    tracker: str | None = None
    project: str = "perturb"
    oracle: int = 0
    device: str = "auto"
    seed: int
    threads: int | None = None
    plan: bool = False
    plan_processes: int = 1

    def __post_init__(self) -> None:
        for name in ("threads", "plan_processes"):
            check_range(name, getattr(self, name), low=1)
        for name in ("oracle", "text_steps"):
            check_range(name, getattr(self, name), low=0)
        if not self.stages:
            raise UserError("stages is empty; give at least one, for example stages=[{steps:1000,batch_size:16}]")
        if (self.trained is None) == (self.autoencoder is None):
            raise UserError("give either trained (what moves of the denoiser) or autoencoder; see conf/train/recipe")
        if self.autoencoder is not None and len(self.stages) != 1:
            raise UserError(f"the autoencoder trains in one stage; {len(self.stages)} are given")
        if self.trained is not None and self.init is None:
            raise UserError(f"recipe {self.recipe!r} needs init: {INIT_HELP[self.init_kind]}")


INIT_HELP = {
    "system": "a folder made by a training or by perturb.convert, or an official checkpoint with init_spec",
    "autoencoder": "the output folder of experiment=train/nano_vae",
    "stable_diffusion": "Stable Diffusion 2.1: an official .ckpt or .safetensors, or a diffusers folder",
    "scratch": "Stable Diffusion 2.1 as for stable_diffusion; only its autoencoder and text encoder are taken",
}
