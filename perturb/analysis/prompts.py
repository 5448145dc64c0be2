"""prompts.csv.gz: the scores of every clip behind the numbers of a study, so that anybody can compute them again."""

import gzip
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from perturb.analysis.load import Run
from perturb.analysis.replicates import Replicates
from perturb.store.records import SET_PROMPT
from perturb.store.rundir import write_atomic

AXES = ("motion", "text")
BESIDE = ("colourfulness", "watermark_trace", "ssim_drift", "lpips_drift")
"""What motion is compared at or traded for; the other visual measures are in the tables of means."""
FILE = "prompts.csv.gz"


@dataclass(frozen=True)
class Clips:
    """One run and its scores, with what ``names`` it in the table."""

    names: Mapping[str, Any]
    run: Run
    scores: pd.DataFrame


def write_prompts(output: Path, runs: Iterable[Clips]) -> Path:
    """Write prompts.csv.gz into a folder: a row per run, state, prompt and noise; returns the path.

    A column per coordinate of a state and per measure, empty where that has no value. Equal scores give equal bytes.
    """
    table = pd.concat([_wide(clips) for clips in runs], ignore_index=True)
    text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_atomic(output / FILE, gzip.compress(text.encode(), compresslevel=9, mtime=0))
    return output / FILE


def _wide(clips: Clips) -> pd.DataFrame:
    measures = [m.name for m in clips.run.measures if m.axis in AXES or m.name in BESIDE]
    scores = clips.scores[(clips.scores.prompt_id != SET_PROMPT) & clips.scores.metric.isin(measures)]
    # values are NaN where the status is not ok
    where = [*clips.run.coordinates, "prompt_id", "seed"]
    wide = scores.pivot(index=where, columns="metric", values="value").sort_index()
    wide = wide.reindex(columns=[name for name in measures if name in wide]).reset_index()
    names = {**clips.names, "lora_seed": int(clips.scores.lora_seed.iloc[0]), "run": clips.run.manifest.run_id}
    named = pd.DataFrame(names, index=wide.index)
    return pd.concat([named, wide.rename(columns={"prompt_id": "prompt", "seed": "noise"})], axis=1)


def of_replicates(models: Iterable[Replicates]) -> Iterator[Clips]:
    """The runs of landscapes and ablations."""
    for model in models:
        for run in model.runs.values():
            yield Clips({"training": model.training, "group": model.group}, run, model.study.of(run))
