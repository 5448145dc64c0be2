"""prompts.csv.gz: the scores of every clip behind the numbers of a study, so that anybody can compute them again."""

import gzip
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from perturb.analysis.cells import Table
from perturb.analysis.load import Run
from perturb.store.records import SET_PROMPT
from perturb.store.rundir import write_atomic

AXES = ("motion", "text")
BESIDE = ("colourfulness", "watermark_trace", "ssim_drift", "lpips_drift")
"""What motion is compared at or traded for; the other visual measures are in the tables of means."""
FILE = "prompts.csv.gz"


@dataclass(frozen=True)
class Clips:
    """One run, with what ``names`` it in the table; ``cells`` says what each step is where steps are cells."""

    names: Mapping[str, Any]
    run: Run
    scores: pd.DataFrame
    cells: Sequence[Mapping[str, Any]] = ()


def write_prompts(output: Path, runs: Iterable[Clips]) -> Path:
    """Write prompts.csv.gz into a folder: a row per run, step (or cell), prompt and noise, a column per measure.

    Empty where a value was not measured. The same scores give the same bytes. Returns the path.
    """
    table = pd.concat([_wide(clips) for clips in runs], ignore_index=True)
    text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_atomic(output / FILE, gzip.compress(text.encode(), compresslevel=9, mtime=0))
    return output / FILE


def _wide(clips: Clips) -> pd.DataFrame:
    measures = [m.name for m in clips.run.measures if m.axis in AXES or m.name in BESIDE]
    scores = clips.scores[(clips.scores.prompt_id != SET_PROMPT) & clips.scores.metric.isin(measures)]
    # values are NaN where the status is not ok
    wide = scores.pivot(index=["step", "prompt_id", "seed"], columns="metric", values="value").sort_index()
    wide = wide.reindex(columns=[name for name in measures if name in wide]).reset_index()
    names = {**clips.names, "lora_seed": int(clips.scores.lora_seed.iloc[0]), "run": clips.run.manifest.run_id}
    where = pd.DataFrame([clips.cells[step] for step in wide.step] if clips.cells else [], index=wide.index)
    named = pd.DataFrame(names, index=wide.index)
    return pd.concat([named, where, wide.rename(columns={"prompt_id": "prompt", "seed": "noise"})], axis=1)


def of_tables(tables: Iterable[Table]) -> Iterable[Clips]:
    """The runs of landscapes and ablations, each step with the cell that it is."""
    for table in tables:
        for run in table.runs.values():
            yield Clips({"training": table.training, "group": table.group}, run, table.study.of(run), table.cells)
