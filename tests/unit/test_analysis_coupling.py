"""A coupling study from run directories to tables and figures, against numbers worked out by hand."""

import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from coupling_runs import CONDITIONS, Key, make_study
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from perturb.analysis.coupling.__main__ import main
from perturb.analysis.coupling.comparisons import PRIMARY_CONDITION, Results
from perturb.analysis.coupling.coupling import contrast_rows, contrast_table, curve_rows, footnote, run_rows
from perturb.analysis.coupling.design import LORA, Cell, Design
from perturb.analysis.coupling.figure import curves_figure, figures, forest_figure
from perturb.analysis.load import find_runs, load
from perturb.errors import UserError

FULL, PARTIAL = (Key(training, "spatial", "single_frame", "lora", 0) for training in ("full", "partial"))


def results(root: Path) -> Results:
    return Results.of(Design.of(load(find_runs([root]))))


def contrasts(found: Results) -> pd.DataFrame:
    return pd.DataFrame(list(contrast_rows(found)))


def one(found: Results, **where: str) -> pd.Series:
    """The one row in the leading reading with these entries."""
    wanted = {"unit": "per 100 steps", **where}
    rows = [row for row in contrast_rows(found) if wanted.items() <= row.items()]
    assert len(rows) == 1
    return pd.Series(rows[0])


def printed(found: Results) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(contrast_table(found))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("runs")
    make_study(root)
    return results(root)


def test_the_primary_endpoint(study: Results) -> None:
    # slopes per 100 steps, seed × prompt: full −.30 −.31 −.32 / −.32 −.33 −.34, partial −.1: d = −.20 … −.24
    first = contrasts(study).iloc[0]
    assert (first.family, first.primary, first.contrast, first.metric) == (
        "primary",
        True,
        "full − partial",
        "motion_quality",
    )
    assert (first.group, first.policy, first.kind, first.training) == ("spatial", "single_frame", "lora", "")
    assert (first["first"], first.second, first.difference) == pytest.approx((-0.32, -0.1, -0.22))
    # MS over prompts 2e-4, over seeds 6e-4, residual 0: se² = 8e-4/6, df = .64/(.04/2 + .36/1) = 64/38
    half = stats.t.ppf(0.975, 64 / 38) * math.sqrt(8e-4 / 6)
    assert first.high - first.difference == pytest.approx(half, rel=1e-6)
    assert first.prompt_high - first.difference == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)
    assert first.seed_high - first.difference == pytest.approx(12.706205 * 0.01, rel=1e-6)
    assert (first.n_prompts, first.n_seeds, first.incomplete, first.p, first.p_holm) == (3, 2, 0, 0.25, 0.25)
    assert (first.test, first.skewed) == ("sign flip", False)
    assert contrasts(study).primary.sum() == 1


def test_other_readings_of_the_primary_endpoint(study: Results) -> None:
    rows = contrasts(study).query("family == 'primary'").set_index(["reading", "axis", "scale"]).difference
    # the full model moves by 8 % of ‖θ‖ per 100 steps, the partial one by 4 %
    assert rows["slope", "dose", "raw"] == pytest.approx(-0.32 / 8 + 0.1 / 4)
    assert rows["slope", "step", "relative"] == pytest.approx((-0.32 + 0.1) / 0.6)
    assert rows["area", "step", "raw"] == pytest.approx(-0.11)


def test_other_families(study: Results) -> None:
    repeat = one(study, family="motion", policy="repeat")
    assert repeat.difference == pytest.approx(-0.11)
    assert one(study, family="random", group="spatial").difference == pytest.approx(-0.022)
    control = one(study, family="control", group="spatial", training="full")
    assert (control["first"], control.second) == pytest.approx((-0.32, -0.032))
    assert (control.contrast, control.kind) == ("lora − random", "")
    # of the two tests of a family in one reading both have p = 1/4: Holm × 2
    assert (repeat.test, repeat.p_holm) == ("sign flip", 0.5)
    # a LoRA and its control cannot be swapped: t of −.288, .9 of what the leading reading is sure of
    p = 2 * stats.t.sf(0.288 / (0.9 * math.sqrt(8e-4 / 6)), 64 / 38)
    assert (control.test, control.p) == ("t", pytest.approx(p))


def test_measures_without_a_zero_have_no_share_and_set_measures_no_test(study: Results) -> None:
    rows = contrasts(study).query("family == 'visual' and group == 'spatial'")
    assert set(rows.metric) == {"colourfulness", "watermark_trace", "watermark"}
    assert set(rows[rows.metric == "watermark_trace"].scale) == {"raw"}
    watermark = rows[(rows.metric == "watermark") & (rows.unit == "share of start per 100 steps")].iloc[0]
    assert (watermark["first"], watermark.n_prompts) == (pytest.approx(-0.25), 1)
    assert math.isnan(watermark.p)


def test_parts_of_motion_are_compared_apart_from_their_product(study: Results) -> None:
    rows = contrasts(study).query("family == 'parts'")
    assert set(rows.metric) == {"dynamics"}
    spatial = rows[(rows.group == "spatial") & (rows.unit == "per 100 steps")].iloc[0]
    assert (spatial["first"], spatial.second, spatial.difference) == pytest.approx((-0.03, -0.01, -0.02))


def test_curves(study: Results) -> None:
    rows = pd.DataFrame(curve_rows(study)).set_index(["training", "group", "policy", "kind", "metric", "step"])
    at = rows.loc[("full", "spatial", "single_frame", "lora", "motion_quality", 100)]
    assert (at["mean"], at.share, at.magnitude) == pytest.approx((0.6 - 0.32, 0.28 / 0.6, 0.08))
    assert (at.n_prompts, at.n_seeds) == (3, 2)
    start = rows.loc[("full", "spatial", "single_frame", "lora", "motion_quality", 0)]
    assert (start.share, start.share_low, start.share_high) == (1.0, 1.0, 1.0)
    assert start.low == pytest.approx(0.6 - 4.302653 * 0.1 / math.sqrt(3))
    assert math.isnan(rows.loc[("full", "spatial", "single_frame", "lora", "watermark_trace", 100)].share)
    assert "lpips_drift" not in rows.index.get_level_values("metric")


def test_runs(study: Results) -> None:
    rows = pd.DataFrame(run_rows(study))
    assert len(rows) == 24
    first = rows.iloc[0]
    assert (first.run, first.magnitude, first.step) == (FULL.run_id, 0.08, 100)
    assert (first.ok, first.unavailable, first.failed, first.missing) == (3 * 13, 3 * 3, 0, 0)
    lora = rows[rows.kind == "lora"].set_index("run")
    control = rows[(rows.kind == "random") & (rows.policy == "repeat") & (rows.lora_seed == 1)].iloc[0]
    assert lora.loc[control.reference][["training", "policy", "lora_seed"]].tolist() == [control.training, "repeat", 1]


def test_the_table_shows_every_reading_of_motion_and_marks_the_primary(study: Results) -> None:
    lines = printed(study).splitlines()
    assert max(map(len, lines)) <= 120
    row = next(line for line in lines if line.startswith("  per 100 steps"))
    assert row.split()[3:] == ["−0.320", "−0.100", "−0.220±0.060", "±0.025", "±0.127", "0.2500", "0.2500"]
    assert sum(line.startswith("  per 1 % ‖Δ‖/‖θ‖") for line in lines) == len(CONDITIONS)
    assert "Runs: 24 (LoRA seeds: 2 lora, 2 random). Prompts: 3, noises: 1." in footnote(study)


def test_command_writes_tables_and_figures(
    study: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # drawing takes seconds
    monkeypatch.setattr("perturb.analysis.coupling.figure.figures", lambda found: [("curves", Figure())])
    monkeypatch.setattr("perturb.analysis.coupling.stepwise_figure.figures", lambda found, stepwise: [])
    runs = study.design.runs[Cell("full", PRIMARY_CONDITION, LORA)]
    folder = runs[0].directory.path.parents[1]
    assert main([str(folder), "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "motion quality, temporal, repeat" in out
    names = [
        "cells.csv",
        "contrasts.csv",
        "curves.csv",
        "curves.pdf",
        "curves.png",
        "endpoints.csv",
        "gaps.csv",
        "prompts.csv.gz",
        "runs.csv",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(f"{tmp_path / name}\n" in out for name in names)
    written = pd.read_csv(tmp_path / "contrasts.csv", keep_default_na=False)
    assert written.columns.tolist() == contrasts(study).columns.tolist()
    assert written.difference.astype(float).tolist() == pytest.approx(contrasts(study).difference.tolist(), rel=1e-5)


def test_the_order_of_the_runs_changes_nothing(study: Results) -> None:
    runs = [run.directory.path for cell in study.design.runs.values() for run in cell.values()]
    assert contrasts(Results.of(Design.of(load(runs[::-1])))).equals(contrasts(study))


def test_figures_draw_the_curves(study: Results) -> None:
    axes = curves_figure(study).axes
    full_in_space = axes[0]
    drawn = [np.asarray(line.get_xydata()) for line in full_in_space.lines]
    means = [[0, 0.6], [50, 0.44], [100, 0.28]]
    assert any(np.allclose(line, means) for line in drawn)
    assert sum(line.get_linestyle() == "--" for line in full_in_space.lines) == 1
    assert len(full_in_space.lines) == 2 + 1 + 1  # two seeds, their mean, the control
    assert len(axes[1].lines) == 2 * 4


def test_forest_draws_the_primary_contrast_with_both_intervals(study: Results) -> None:
    ax = forest_figure(study).axes[0]
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert labels[:2] == ["full − partial, LoRA", "spatial"]
    both, point, seeds = (np.asarray(line.get_xydata()) for line in ax.lines[:3])
    assert point.tolist() == [[pytest.approx(-0.22), 1]]
    assert both[:, 0] == pytest.approx([-0.22 - 0.059770, -0.22 + 0.059770], abs=1e-5)
    assert seeds[:, 0] == pytest.approx([-0.22 - 0.127062, -0.22 + 0.127062], abs=1e-5)


def test_space_alone_without_controls_is_a_study(tmp_path: Path) -> None:
    make_study(tmp_path, lambda key: key.group == "spatial" and key.kind == "lora" and key.seed == 0)
    found = results(tmp_path)
    assert set(contrasts(found).family) == {"primary", "parts", "visual"}
    assert contrasts(found).iloc[0].difference == pytest.approx(-0.21)
    assert math.isnan(contrasts(found).iloc[0].seed_low)
    assert [name for name, _ in figures(found)] == ["curves", "dose", "contrasts"]


def test_controls_of_some_seeds_are_compared_with_those(tmp_path: Path) -> None:
    make_study(tmp_path, lambda key: key.kind == "lora" or key.seed == 1)
    control = one(results(tmp_path), family="control", group="spatial", training="full")
    assert (control["first"], control.n_seeds) == (pytest.approx(-0.33), 1)


def test_incomplete_pairs_are_counted(tmp_path: Path) -> None:
    runs = make_study(tmp_path, lambda key: key.kind == "lora")
    path = runs[PARTIAL].scores
    kept = [line for line in path.read_text().splitlines() if ",step_000050,p002,0,motion_quality," not in line]
    path.write_text("\n".join(kept) + "\n")
    found = results(tmp_path)
    first = contrasts(found).iloc[0]
    assert (first.incomplete, first.n_prompts, first.difference) == (1, 2, pytest.approx(-0.215))
    assert "at most 1 of 3" in footnote(found)
    assert pd.DataFrame(run_rows(found)).set_index("run").loc[PARTIAL.run_id].missing == 1


def test_without_the_primary_endpoint(tmp_path: Path) -> None:
    runs = make_study(tmp_path, lambda key: key.kind == "lora" and key.group == "temporal")
    with pytest.raises(UserError, match=r"No LoRA run is spatial.*'temporal, single frame', 'temporal, repeat'"):
        results(tmp_path)
    assert PRIMARY_CONDITION not in Design.of(load([run.path for run in runs.values()])).conditions(LORA)


def test_without_motion(tmp_path: Path) -> None:
    for run in make_study(tmp_path, lambda key: key.kind == "lora" and key.group == "spatial").values():
        lines = [line for line in run.scores.read_text().splitlines() if "p000,0,motion" not in line]
        run.scores.write_text("\n".join(line for line in lines if ",step_000050,p00" not in line) + "\n")
    with pytest.raises(UserError, match="No clip has motion_quality at every step"):
        results(tmp_path)


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
