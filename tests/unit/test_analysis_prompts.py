"""prompts.csv.gz: the scores of every clip, the same bytes for the same scores."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from coupling_runs import STEPS, TEXTS, Key, make_study, motion
from state_runs import CELLS, landscape

from perturb.analysis.coupling.curves import Results
from perturb.analysis.coupling.design import Design
from perturb.analysis.load import find_runs, load
from perturb.analysis.prompts import FILE, of_replicates, write_prompts
from perturb.analysis.replicates import SCALES, read_replicates


def results(root: Path) -> Results:
    make_study(root, lambda key: key.group == "spatial")
    return Results.of(Design.of(load(find_runs([root]))))


def test_a_row_per_run_step_prompt_and_noise(tmp_path: Path) -> None:
    table = pd.read_csv(write_prompts(tmp_path, results(tmp_path / "runs").clips))
    names = ["pair", "training", "group", "policy", "images", "kind", "lora_seed", "run", "step", "prompt", "noise"]
    assert table.columns.tolist()[: len(names)] == names
    assert not table.duplicated(names).any()
    assert len(table) == 2 * 2 * 2 * len(STEPS) * len(TEXTS)  # training × kind × LoRA seed
    one = table.query("training == 'full' and kind == 'lora' and lora_seed == 1 and step == 50 and prompt == 'p002'")
    key = Key("full", "spatial", "single_frame", "lora", 1)
    assert one.motion_quality.tolist() == pytest.approx([motion(key, 2, 50)])
    assert "watermark" not in table  # of all clips of a step together
    assert table.lpips_drift.isna().all()  # it was unavailable


def test_the_primary_endpoint_can_be_computed_from_it(tmp_path: Path) -> None:
    made = results(tmp_path / "runs")
    table = pd.read_csv(write_prompts(tmp_path, made.clips)).query("kind == 'lora'")
    mean: Any = table.groupby(["training", "lora_seed", "step"]).motion_quality.mean().unstack()
    kept = np.trapezoid(mean.div(mean[0], axis=0), mean.columns) / STEPS[-1]
    full, partial = (kept[mean.index.get_level_values(0) == training].mean() for training in ("full", "partial"))
    assert full - partial == pytest.approx(made.primary.decision.difference.mean)


def test_cells_are_named_and_noises_kept_apart(tmp_path: Path) -> None:
    landscape(tmp_path / "runs", "full")
    (one,) = of_replicates(read_replicates([tmp_path / "runs"], *SCALES))
    again = dataclasses.replace(one, scores=pd.concat([one.scores, one.scores.assign(seed=1)]))
    table = pd.read_csv(write_prompts(tmp_path, [again]))
    corner: Any = table[(table.spatial == 1) & (table.temporal == 0.5)]
    assert (len(table), len(corner)) == (len(CELLS) * 3 * 2, 3 * 2)
    # 1 − .3 − .05 − c/2, c .1, .2, .3 by prompt
    assert corner.sort_values(["noise", "prompt"]).motion_quality.tolist() == pytest.approx([0.6, 0.55, 0.5] * 2)


def test_the_same_scores_give_the_same_bytes(tmp_path: Path) -> None:
    made = list(results(tmp_path / "runs").clips)
    first = write_prompts(tmp_path / "a", made).read_bytes()
    shuffled = [dataclasses.replace(one, scores=one.scores.sample(frac=1, random_state=3)) for one in made]
    assert write_prompts(tmp_path / "b", shuffled).read_bytes() == first
    assert first[4:8] == bytes(4)  # no time in the header
    assert (tmp_path / "b" / FILE).is_file()
