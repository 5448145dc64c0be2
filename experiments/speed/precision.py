"""`python experiments/speed/precision.py ADAPTER`: nano_full's clips in bfloat16 and with quantised weights.

Untouched and with the adapter; in every turn the same two prompts and noise in each setting, in one process. Writes
precision.csv beside this file: each setting's scores paired with those of float32, and processor seconds.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

import perturb
from perturb.analysis.statistics.estimates import mean_interval
from perturb.data.prompts import load_prompts
from perturb.metrics import SSIM_DRIFT, VISUAL, Clip
from perturb.metrics.embedded.motion import MOTION
from perturb.store.paths import resolve

SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"precision": "bfloat16"},
    "int8": {"quantise": "int8"},
    "float8": {"quantise": "float8"},
}
MEASURES = ("motion_quality", "colourfulness", "ssim_drift")
PROMPTS, AT_ONCE = 16, 2


def sampled(model: perturb.Model, scale: float) -> tuple[dict[str, list[Clip]], dict[str, list[float]]]:
    """Clips and processor seconds of each turn, by setting."""
    texts = [prompt.text for prompt in load_prompts(resolve("package:world/prompts.txt"), PROMPTS)]
    clips, seconds = ({name: [] for name in SETTINGS} for _ in range(2))
    for turn in range(-1, PROMPTS // AT_ONCE):  # the first warms up
        for name, settings in SETTINGS.items():
            begin, first = time.process_time(), max(turn, 0)
            made = model.sample(
                texts[AT_ONCE * first :][:AT_ONCE], scale=scale, seeds=[first], batch_size=AT_ONCE, **settings
            )
            if turn >= 0:
                seconds[name].append(time.process_time() - begin)
                clips[name] += made
    return clips, seconds


def compared(clips: dict[str, list[Clip]], seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One row per setting and measure, paired with float32, with 95 % intervals; of seconds the ratio and its range."""
    reference, rows = clips["float32"], []
    tables = {}
    for name, made in clips.items():
        found = perturb.score(made, [MOTION, VISUAL, SSIM_DRIFT], original=reference)
        table = found[found.prompt_id != "*"].pivot(index=["seed", "prompt_id"], columns="metric", values="value")
        tables[name] = table.astype(float)
        for measure in MEASURES:
            change = mean_interval((tables[name][measure] - tables["float32"][measure]).to_numpy())
            rows.append(
                {"setting": name, "measure": measure, "mean": tables[name][measure].mean(), "difference": change.mean}
                | {"low": change.low, "high": change.high}
            )
        ratios = [mine / theirs for mine, theirs in zip(seconds[name], seconds["float32"], strict=True)]
        rows.append(
            {"setting": name, "measure": "seconds of two clips (times those of float32)"}
            | {"mean": statistics.median(seconds[name]), "difference": statistics.median(ratios)}
            | {"low": min(ratios), "high": max(ratios)}
        )
    return rows


def main() -> None:
    """The command."""
    model = perturb.load("nano_full")
    model.lora(sys.argv[1])
    rows = [
        {"state": state, **row}
        for state, scale in (("untouched", 0.0), ("perturbed", 1.0))
        for row in compared(*sampled(model, scale))
    ]
    table = pd.DataFrame(rows)
    table.round(5).to_csv(Path(__file__).parent / "precision.csv", index=False)
    print(table.to_string())


if __name__ == "__main__":
    main()
