"""Gaps and cells of a made-up study, worked out by hand."""

from pathlib import Path

import pandas as pd
import pytest
from coupling_runs import STEPS, make_study

from analysis.comparisons import Results
from analysis.design import Design
from analysis.load import find_runs, load
from analysis.stepwise import Stepwise, cell_rows, gap_rows


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder: Path = tmp_path_factory.mktemp("study")
    make_study(folder, lambda key: key.group == "spatial")
    return Results.of(Design.of(load(find_runs([folder]))))


def test_gaps(study: Results) -> None:
    rows = pd.DataFrame(gap_rows(study, Stepwise.of(study))).set_index(["kind", "step"])
    assert len(rows) == 2 * len(STEPS)
    last = rows.loc[("lora", 100)]
    assert last.difference == pytest.approx(-0.22)  # −.32 + .1, as the slopes
    assert (last.low, last.high) == pytest.approx((-0.22 - 0.024841, -0.22 + 0.024841), abs=1e-5)
    assert (last.seed_low, last.seed_high) == pytest.approx((-0.22 - 0.127062, -0.22 + 0.127062), abs=1e-5)
    assert last.p == 0.25
    assert (last.improvement, last.improvement_of_change) == (0.0, 0.0)
    start = rows.loc[("lora", 0)]
    assert (start.difference, start.improvement) == (0.0, 0.5)
    assert pd.isna(start.p)


def test_cells(study: Results) -> None:
    rows = pd.DataFrame(cell_rows(study, Stepwise.of(study))).set_index(["training", "kind"])
    full, control = rows.loc[("full", "lora")], rows.loc[("full", "random")]
    assert full.retention == pytest.approx(1 - 0.5 * 0.32 / 0.6)  # a straight line loses half of what its end does
    # means over LoRA seeds .6 → .28; prompts fall from .5, .6, .7 to at least .18, .27, .36
    assert full.collapse_step_of_mean == 100
    assert (full.collapse_step_median, full.collapsed) == (100, pytest.approx(4 / 6))
    assert control.collapse_step_of_mean == float("inf")
    assert control.collapsed == 0
    assert pd.isna(full.collapse_step_of_rate)  # the study has no collapse rate
    assert full.iqm == pytest.approx(0.28, abs=0.02)
