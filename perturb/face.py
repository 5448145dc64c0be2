"""What the commands do, in a notebook: load a model, perturb it, sample, score, compare.

Axes: t frames, h w pixels, c channels.
"""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import hydra
import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from PIL import Image

from perturb.analysis.statistics.estimates import mean_interval
from perturb.cli.command import check_paths
from perturb.cli.config import load as build_system
from perturb.data.prompts import Prompt, load_prompts
from perturb.diffusion import Sampler
from perturb.errors import UserError
from perturb.metrics import Clip, Context, Metric, SetMetric, embedded_metrics, score_clips
from perturb.models.base import VideoModel
from perturb.models.partition import Partition
from perturb.perturbation import LoraPerturbation, restore
from perturb.perturbation.base import Perturbation
from perturb.progress import progress
from perturb.store.paths import conf_dir, resolve
from perturb.store.rundir import write_atomic
from perturb.structured import build, read
from perturb.study.sample import Generator, SampleConfig, save_clip

Prompts = str | Path | Sequence[str]
"""One prompt, several, or a prompt file."""


@dataclass(frozen=True, repr=False)
class Clips(Sequence[Clip]):
    """Sampled clips, in the order of prompts within noise seeds. In Jupyter they show themselves."""

    clips: tuple[Clip, ...]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: Any) -> Any:
        """A clip, or `Clips` for a slice."""
        return Clips(self.clips[index]) if isinstance(index, slice) else self.clips[index]

    def __repr__(self) -> str:
        sizes = {"{} frames of {}×{}".format(*clip.frames.shape) for clip in self.clips}
        return f"Clips({len(self)} clips, {' or '.join(sorted(sizes))})"

    def save(self, folder: str | Path) -> list[Path]:
        """Write every clip as ``<prompt id>_s<seed>.npy``, uint8 t h w c, and an animated .webp beside it."""
        paths = [Path(folder) / f"{clip.prompt_id}_s{clip.seed}.npy" for clip in self.clips]
        for path, clip in zip(paths, self.clips, strict=True):
            save_clip(path, clip.frames)
            write_atomic(path.with_suffix(".webp"), _webp(clip))
        return paths

    def _repr_html_(self) -> str:
        shown = "".join(
            f'<figure style="display:inline-block;margin:4px;width:{max(96, clip.frames.shape[2])}px">'
            f'<img width="100%" alt="" src="data:image/webp;base64,{base64.b64encode(_webp(clip)).decode()}">'
            f'<figcaption style="font-size:small">{html.escape(clip.prompt)}</figcaption></figure>'
            for clip in self.clips
        )
        return f"<div>{shown}</div>"


class Model:
    """A video model, how it is sampled, and the perturbation that is attached to it, if any."""

    def __init__(self, system: VideoModel, sampler: Sampler, sample: SampleConfig) -> None:
        self.system, self.sampler, self.defaults = system, sampler, sample
        self.perturbation: Perturbation | None = None

    def partition(self) -> Partition:
        """Every parameter of the network in exactly one group: spatial, temporal, conditioning, image."""
        return self.system.partition()

    def lora(self, folder: str | Path | None = None, *, group: str = "spatial", **settings: Any) -> Perturbation:
        """Attach a saved perturbation (its ``folder``), or a fresh LoRA on ``group``, in place of what is attached.

        ``settings`` are those of `Lora`: rank, alpha, dropout, targets. A fresh one changes nothing until it is fitted.
        Raises UserError for a folder that holds none, and for one of another network.
        """
        self.original()
        if folder is None:
            perturbation = LoraPerturbation(**settings)
            perturbation.attach(self.system.network, self.partition(), group, seed=0)
        else:
            perturbation = restore(self.system.network, resolve(folder))
        self.perturbation = perturbation
        return perturbation

    def original(self) -> None:
        """Take the perturbation off; the weights are those that were loaded, bit for bit."""
        if self.perturbation is not None:
            self.perturbation.detach()
            self.perturbation = None

    def sample(
        self,
        prompts: Prompts,
        *,
        scale: float = 1.0,
        seeds: Sequence[int] = (0,),
        sampler: Sampler | None = None,
        image: str | None = None,
        **settings: Any,
    ) -> Clips:
        """A clip per prompt and noise seed, with ``scale`` times the attached perturbation.

        The same prompts and seeds start from the same noises, whatever is attached. ``settings`` are those of
        conf/sample: frames, height, width, fps, batch_size, precision. Raises UserError for what the model cannot take.
        """
        chosen = {**vars(self.defaults), **settings, "seeds": tuple(seeds)}
        make = Generator(
            self.system, sampler or self.sampler, _prompts(prompts), read(SampleConfig, chosen), image=image
        )
        if self.perturbation is not None:
            self.perturbation.scale(scale)
        found = []
        merged = nullcontext() if self.perturbation is None else self.perturbation.merged()
        with merged, progress("sample", len(make.jobs)) as advance:
            for batch in make.batches:
                for (index, seed), frames in zip(batch, make(batch, advance), strict=True):
                    prompt = make.prompts[index]
                    found.append(Clip(frames, make.format.fps, prompt.id, seed, 0, prompt.text))
        return Clips(tuple(found))


def load(name: str, checkpoint: str | Path | None = None, *overrides: str) -> Model:
    """The model that ``system=name`` means in every command, with its sampler and sampling settings.

    ``checkpoint`` is a file or folder of weights where the model ships none. ``overrides`` are written as on the
    command line: ``"system.dtype=float16"``, ``"sampler.steps=25"``. Raises UserError for an unknown name, a missing
    checkpoint, and weights that do not fit.
    """
    known = sorted(path.stem for path in (conf_dir() / "system").glob("*.yaml"))
    if name not in known:
        raise UserError(f"{name!r} is no model; allowed: {', '.join(known)}")
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        values: Any = OmegaConf.to_container(
            hydra.compose("generate", overrides=[f"system={name}", *overrides]), resolve=True
        )
    if checkpoint is not None:
        values["system"]["pipeline" if "pipeline" in values["system"] else "checkpoint"] = str(checkpoint)
    check_paths(values)
    return Model(
        build_system(values["system"]), build("sampler", values["sampler"]), read(SampleConfig, values["sample"])
    )


def sample(name: str, prompts: Prompts, **settings: Any) -> Clips:
    """Clips of a model that needs no checkpoint: ``load(name).sample(prompts, …)``."""
    return load(name).sample(prompts, **settings)


def score(
    clips: Sequence[Clip],
    metrics: Sequence[Metric | SetMetric] | None = None,
    *,
    original: Sequence[Clip] | None = None,
) -> pd.DataFrame:
    """One row per clip and metric: prompt_id, seed, prompt, metric, value, status, reason; prompt_id * is the set.

    ``metrics``: the embedded ones where None. ``original``: the unperturbed clips that drift is measured from.
    """
    reference = None if original is None else {clip.sample: clip for clip in original}
    found = score_clips(embedded_metrics() if metrics is None else metrics, clips, Context(reference))
    rows = [
        {
            "prompt_id": "*" if clip is None else clip.prompt_id,
            "seed": -1 if clip is None else clip.seed,
            "prompt": "" if clip is None else clip.prompt,
            "metric": info.name,
            **vars(value),
        }
        for clip, info, value in found
    ]
    return pd.DataFrame(rows)


def compare(
    before: Sequence[Clip], after: Sequence[Clip], metrics: Sequence[Metric | SetMetric] | None = None
) -> pd.DataFrame:
    """One row per measure: before, after, change and its 95 % interval (low, high) over n prompts; reason where absent.

    Clips are paired by prompt and noise seed; noises of a prompt are averaged first, Student t over the prompts.
    Raises UserError unless both hold the same prompts and seeds. Measures of a whole set have no interval.
    """
    if {clip.sample for clip in before} != {clip.sample for clip in after}:
        raise UserError("before and after are not the same prompts and seeds: sample both with the same arguments")
    first, second = score(before, metrics, original=before), score(after, metrics, original=before)
    return pd.DataFrame(_rows(first, second)).set_index("measure")


def _rows(first: pd.DataFrame, second: pd.DataFrame) -> Iterator[dict[str, Any]]:
    keys, columns = ["prompt_id", "seed"], ["value", "value_after"]
    for name, one in first.groupby("metric", sort=False):
        other = second[second.metric == name]
        both: pd.DataFrame = one.merge(other, on=keys, suffixes=("", "_after"))
        known = both.dropna(subset=columns)
        reasons = [reason for reason in (*one.reason, *other.reason) if reason]
        if known.empty:
            nothing = dict.fromkeys(("before", "after", "change", "low", "high"), np.nan)
            yield {"measure": name, **nothing, "n": 0, "reason": reasons[0] if reasons else "no clip has a value"}
            continue
        by_prompt = cast(pd.DataFrame, known.astype(dict.fromkeys(columns, float)).groupby("prompt_id")[columns].mean())
        start, end = (by_prompt[column].to_numpy() for column in columns)
        change = mean_interval(end - start)
        yield {
            "measure": name,
            "before": start.mean(),
            "after": end.mean(),
            "change": change.mean,
            "low": change.low,
            "high": change.high,
            "n": change.n,
            "reason": f"{len(both) - len(known)} clips left out: {reasons[0]}" if len(known) < len(both) else "",
        }


def _prompts(given: Prompts) -> list[Prompt]:
    """A path is read as a prompt file; texts get the ids p000, p001, … that such a file would give them."""
    if isinstance(given, Path):
        return load_prompts(given)
    texts = [given] if isinstance(given, str) else list(given)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"prompts is {given!r}; give a text, a list of texts, or the Path of a prompt file")
    return [Prompt(f"p{index:03d}", text) for index, text in enumerate(texts)]


def _webp(clip: Clip) -> bytes:
    """The clip as an animated picture that every browser shows, lossless and without end."""
    buffer = io.BytesIO()
    first, *rest = (Image.fromarray(frame) for frame in clip.frames)
    duration = round(1000 / clip.fps)
    first.save(buffer, "webp", save_all=True, append_images=rest, duration=duration, loop=0, lossless=True)
    return buffer.getvalue()
