"""Gaps and cells of a made-up study, worked out by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from coupling_runs import STEPS, make_study
from matplotlib.figure import Figure

from perturb.analysis.coupling.comparisons import PRIMARY_CONDITION, Results
from perturb.analysis.coupling.design import Design
from perturb.analysis.coupling.stepwise import Stepwise, cell_rows, gap_rows
from perturb.analysis.coupling.stepwise_figure import collapse_rate, figures, gap_over_steps, performance_profile
from perturb.analysis.load import find_runs, load
from perturb.analysis.plots import contact_sheet
from perturb.analysis.strips import load_pairs
from perturb.store.states import step_id


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
    assert (last.low, last.high) == pytest.approx((-0.22 - 0.059770, -0.22 + 0.059770), abs=1e-5)
    assert (last.prompt_low, last.prompt_high) == pytest.approx((-0.22 - 0.024841, -0.22 + 0.024841), abs=1e-5)
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
    kept = Stepwise.of(study).kept[0]
    of_four = [50.0, 100.0, np.nan, 200.0, np.inf]  # the middle two are 100 and 200
    assert dataclasses.replace(kept, first=np.array([of_four])).median == 150
    assert control.collapse_step_of_mean == float("inf")
    assert control.collapsed == 0
    assert pd.isna(full.collapse_step_of_rate)  # the study has no collapse rate
    assert full.iqm == pytest.approx(0.28, abs=0.02)


def test_figures_draw_gaps_collapse_and_profiles(study: Results) -> None:
    stepwise = Stepwise.of(study)
    ax = gap_over_steps(Figure().subplots(), stepwise.gaps[0], STEPS)
    drawn = np.asarray(ax.lines[1].get_xydata())
    assert drawn[:, 1] == pytest.approx([0, -0.11, -0.22])
    ax = collapse_rate(Figure().subplots(), study, stepwise, stepwise.gaps[0].condition)
    assert np.asarray(ax.lines[0].get_ydata()) == pytest.approx([0, 0, 4 / 6])
    ax = performance_profile(Figure().subplots(), stepwise.kept[:1])
    end = np.asarray(ax.lines[1].get_xydata())
    # full model at step 100: .2 .29 .38 and .18 .27 .36
    assert [end[np.isclose(end[:, 0], tau), 1][0] for tau in (0.0, 0.24, 0.3, 0.4)] == pytest.approx(
        [1, 4 / 6, 2 / 6, 0]
    )


def test_a_study_without_clips_has_no_frames(study: Results) -> None:
    assert [name for name, _ in figures(study, Stepwise.of(study))] == ["tradeoff", "stepwise"]


def test_frames_of_both_models(tmp_path: Path) -> None:
    runs = make_study(tmp_path, lambda key: key.group == "spatial" and key.kind == "lora" and key.seed == 0)
    for key, run in runs.items():
        for step in STEPS:
            run.clips(step_id(step)).mkdir(parents=True)
            for prompt in range(3):
                shade = 100 * (key.training == "full") + 10 * prompt + step // 50
                np.save(run.clip(step_id(step), f"p{prompt:03d}", 0), np.full((2, 8, 8, 3), shade, np.uint8))
    design = Design.of(load(find_runs([tmp_path])))
    typical, worst = load_pairs(design, PRIMARY_CONDITION)
    assert (typical.prompt, worst.prompt) == ("a blue star", "a cyan square")  # gaps −.2, −.21, −.22
    assert (typical.first[50][0, 0, 0, 0], typical.second[50][0, 0, 0, 0]) == (111, 11)
    sheet = contact_sheet(Figure().subplots(), worst.first, title="a $ b")
    canvas = np.asarray(sheet.images[0].get_array())
    assert canvas.shape == (3 * 8 + 2, 2 * 8 + 1, 3)
    assert [canvas[9 * i, 9 * j, 0] for i in range(3) for j in range(2)] == [120, 120, 121, 121, 122, 122]
