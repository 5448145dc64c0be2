"""A coupling study from run directories to verdict, tables and figures, against numbers worked out by hand."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from coupling_runs import OWN_LOSS, Key, Motion, make_pairs, make_run, make_study
from matplotlib.figure import Figure

from perturb.analysis.coupling.__main__ import main
from perturb.analysis.coupling.curves import Results, curve_rows, run_rows
from perturb.analysis.coupling.design import Condition, Design
from perturb.analysis.coupling.endpoints import endpoint_rows, footnote, headline
from perturb.analysis.coupling.figure import answer_figure, curves_panel, figures, loss_panel
from perturb.analysis.load import find_runs, load
from perturb.errors import UserError

SPACE = Condition("spatial", "single_frame")
T2 = 4.302653
"""t(0.975, 2): three pairs."""


def results(root: Path) -> Results:
    return Results.of(Design.of(load(find_runs([root]))))


def keeps(**lost: float) -> Motion:
    """Falls in a straight line, by these shares per 100 steps; in the partial model by .02 more from pair to pair."""

    def law(key: Key, prompt: int, step: int) -> float:
        more = 0.02 * int(key.pair[-1] or 0) * (key.training == "partial")
        return (0.5 + 0.1 * prompt) * (1 - (lost[key.training] + more) * step / 100)

    return law


def endpoints(found: Results) -> Any:
    return pd.DataFrame(endpoint_rows(found.findings)).set_index("endpoint")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One unnamed pair whose fits are not recorded, as old runs."""
    root = tmp_path_factory.mktemp("runs")
    make_study(root)
    return results(root)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Three pairs, fits that have converged at the last state."""
    root = tmp_path_factory.mktemp("pairs")
    make_pairs(root, [""], keeps(full=0.1, partial=0.2))
    return results(root)


def test_old_runs_are_one_pair_of_unknown_convergence(study: Results) -> None:
    rows = endpoints(study).query("group == 'spatial'")
    # straight lines from .6: 1 − .32/(2 · .6) and 1 − .1/(2 · .6) are kept along the path
    assert rows["mean"]["motion kept, full"] == pytest.approx(1 - 0.32 / 1.2)
    assert rows["mean"]["motion kept, full − partial"] == pytest.approx(-0.22 / 1.2)
    assert rows["mean"]["P(full keeps a steadier path)"] == 0.0  # what is lost in motion is jerk gained
    for name in ("slope per 100 steps", "change to the last state"):
        assert rows["mean"][f"descriptive: {name}, full − partial"] == pytest.approx(-0.22)
    assert rows["mean"]["motion kept, full, random Δ"] == pytest.approx(1 - 0.032 / 1.2)
    assert "one pair" in rows.reason["motion kept, full − partial, mixed model"]
    assert set(rows.verdict) == {"inconclusive: one pair"}
    basis = set(zip(rows.pairs, rows.lora_seeds, rows.prompts, rows.converged, strict=True))
    assert basis == {(1, 2, 3, "not recorded")}
    assert headline(study.findings).startswith("Inconclusive: one pair of twins was compared")
    assert len(study.findings) == 3
    assert "spatial: 1 pair × 2 LoRA seeds × 3 prompts" in footnote(study.findings)


def test_the_interval_is_over_pairs(pairs: Results) -> None:
    # full 1 − .05 in all, partial 1 − .10, 1 − .11, 1 − .12: d = .05, .06, .07
    rows = endpoints(pairs)
    primary = rows.loc["motion kept, full − partial"]
    assert (primary["mean"], primary.high - primary["mean"]) == pytest.approx((0.06, T2 * 0.01 / math.sqrt(3)))
    assert (primary.interval_over, primary.verdict, primary.pairs) == ("3 pairs", "full keeps more", 3)
    assert rows["mean"]["motion kept, full − partial, mixed model"] == pytest.approx(0.06, abs=1e-3)
    assert (primary.converged, primary.distance_full) == ("converged", 0.08 / OWN_LOSS)
    assert headline(pairs.findings) == (
        "The fully trained model is the more strongly coupled one: over 3 pairs it keeps 6 points more of its motion "
        "than the partially trained one."
    )
    assert pairs.primary.cells[1:] == ["95%", "89%", "+0.060±0.025", "100%", "3", "converged", "4 ×", "full keeps more"]


def test_the_path_ends_where_the_fit_has_converged(tmp_path: Path) -> None:
    make_pairs(tmp_path, [""], keeps(full=0.1, partial=0.2), losses=(0.08, 0.029, 0.02))
    primary = endpoints(results(tmp_path)).loc["motion kept, full − partial"]
    assert primary["mean"] == pytest.approx(0.03)  # to step 50: half of what is lost to step 100


def test_fits_that_have_not_converged_give_no_verdict(tmp_path: Path) -> None:
    make_pairs(tmp_path, [""], keeps(full=0.1, partial=0.2), losses=(0.08, 0.07, 0.06))
    found = results(tmp_path)
    assert found.primary.verdict == "inconclusive: not converged"
    run = pd.DataFrame(run_rows(found)).iloc[0]
    assert (run.model_converged, run.path_ends, run.loss_start, run.own_loss) == (False, 100, 0.08, OWN_LOSS)
    assert "not come within 1.5 times" in headline(found.findings)
    ax = loss_panel(Figure().subplots(), found, SPACE)
    assert ax.texts[0].get_text() == "0 of 6 fits have converged"
    levels = {round(float(np.asarray(line.get_ydata())[0]), 6) for line in ax.lines if line.get_linestyle() == "--"}
    assert levels == {1.5 * OWN_LOSS}


def test_on_the_floor_there_is_no_number(tmp_path: Path) -> None:
    def law(key: Key, prompt: int, step: int) -> float:
        return (0.5 + 0.1 * prompt) * (1.0 if step == 0 else 0.1 + 0.05 * (key.training == "full"))

    make_pairs(tmp_path, [""], law)
    found = results(tmp_path)
    assert set(endpoints(found).verdict) == {"inconclusive: floor"}
    assert (found.primary.cells[3], found.primary.cells[-1]) == ("–", "inconclusive: floor")
    assert "both models keep less than 20%" in headline(found.findings)
    figure = answer_figure(found)
    assert [text.get_text() for text in figure.axes[0].texts if text.get_fontweight() == "bold"] == [
        "inconclusive: floor"
    ]
    assert len(figure.axes[0].lines) == 1  # the rule at no difference


def test_the_headline_claims_no_more_than_every_image_set(tmp_path: Path) -> None:
    make_pairs(tmp_path, ["low"], keeps(full=0.1, partial=0.2), losses=(0.04, 0.035, 0.02))
    make_pairs(tmp_path, ["web"], keeps(full=0.1, partial=0.4), losses=(0.05, 0.04, 0.02))
    both = results(tmp_path)
    assert [str(each.condition) for each in both.findings] == ["spatial, low", "spatial, web"]  # the nearer first
    assert headline(both.findings) == (
        "On all 2 image sets the fully trained model is the more strongly coupled one: over at least 3 pairs it keeps "
        "at least 6 points more of its motion than the partially trained one."
    )
    make_pairs(tmp_path, ["own"], keeps(full=0.01, partial=0.0), losses=(0.03, 0.025, 0.02))
    assert headline(results(tmp_path).findings) == (
        "On low and web, where motion is lost, the fully trained model is the more strongly coupled one: over at least "
        "3 pairs it keeps at least 6 points more of its motion than the partially trained one."
    )
    make_pairs(tmp_path, ["high"], keeps(full=0.2, partial=0.2), pairs=1)
    assert headline(results(tmp_path).findings) == (
        "Inconclusive: the image sets do not agree (own – inconclusive: ceiling; low – full keeps more; web – full "
        "keeps more; high – inconclusive: one pair)."
    )


def test_where_nothing_is_lost_there_is_no_verdict(tmp_path: Path) -> None:
    make_pairs(tmp_path, ["own"], keeps(full=0.01, partial=0.0))
    found = results(tmp_path)
    assert set(endpoints(found).verdict) == {"inconclusive: ceiling"}
    assert "both models keep more than 95% of their motion" in headline(found.findings)
    make_pairs(tmp_path, ["web"], keeps(full=0.0, partial=0.01))
    assert "no image set gives a verdict" in headline(results(tmp_path).findings)


def test_pairs_with_different_numbers_of_lora_seeds(tmp_path: Path) -> None:
    runs = make_pairs(tmp_path, [""], keeps(full=0.1, partial=0.2))
    for key, run in runs.items():
        if (key.pair, key.seed) == ("pair0", 1):
            shutil.rmtree(run.path)
    found = results(tmp_path)
    assert found.primary.rests_on == "3 pairs × 1 to 2 LoRA seeds × 3 prompts"
    assert found.primary.verdict == "full keeps more"
    rows = endpoints(found)
    assert set(zip(rows.lora_seeds, rows.most_lora_seeds, strict=True)) == {(1, 2)}


def test_curves(study: Results, pairs: Results) -> None:
    key = ["training", "group", "policy", "kind", "metric", "step"]
    rows = pd.DataFrame(curve_rows(study)).set_index(key)
    end = rows.loc[("full", "spatial", "single_frame", "lora", "motion_quality", 100)]
    assert (end["mean"], end.share, end.magnitude, end.pairs) == pytest.approx((0.28, 0.28 / 0.6, 0.08, 1))
    start = rows.loc[("full", "spatial", "single_frame", "lora", "motion_quality", 0)]
    assert (start.share, start.share_low, start.share_high) == (1, 1, 1)
    assert math.isnan(rows.loc[("full", "spatial", "single_frame", "lora", "watermark_trace", 100)].share)
    assert "lpips_drift" not in rows.index.get_level_values("metric")
    assert rows.loc[("full", "spatial", "single_frame", "lora", "watermark", 100)]["mean"] == pytest.approx(0.03)
    over = pd.DataFrame(curve_rows(pairs)).set_index(key)
    end = over.loc[("partial", "spatial", "single_frame", "lora", "motion_quality", 100)]
    assert (end["mean"], end.share) == pytest.approx((0.6 * 0.78, 0.78))
    assert end.share_high - end.share == pytest.approx(T2 * 0.02 / math.sqrt(3))
    assert over.loc[("partial", "spatial", "single_frame", "lora", "loss on D_I", 50)]["mean"] == pytest.approx(0.04)


def test_runs(study: Results, pairs: Results) -> None:
    rows = pd.DataFrame(run_rows(study))
    assert len(rows) == 24
    first = rows.iloc[0]
    assert (first.magnitude, first.step, first.path_ends, first.model_converged) == (0.08, 100, 100, None)
    assert (first.ok, first.unavailable, first.failed, first.missing) == (3 * 16, 3 * 3, 0, 0)
    lora = rows[rows.kind == "lora"].set_index("run")
    control = rows[(rows.kind == "random") & (rows.policy == "repeat") & (rows.lora_seed == 1)].iloc[0]
    assert lora.loc[control.reference][["training", "policy", "lora_seed"]].tolist() == [control.training, "repeat", 1]
    one = pd.DataFrame(run_rows(pairs)).iloc[0]
    assert (one.pair, one.distance, one.loss_end, one.converged_step) == ("pair0", 4.0, 0.025, 100)


def test_controls_of_any_subset(tmp_path: Path) -> None:
    made = make_pairs(tmp_path, [""], keeps(full=0.1, partial=0.2), pairs=2)
    key = next(key for key in made if (key.training, key.pair, key.seed) == ("partial", "pair1", 1))
    control = Key("partial", "spatial", "single_frame", "random", 1, "pair1", "", key.losses)
    make_run(tmp_path, control, law=keeps(full=0.0, partial=0.0))
    found = results(tmp_path)
    assert found.primary.controls["partial"].mean == pytest.approx(1 - 0.02 / 2)
    assert found.primary.decision.pairs == 2


def test_the_answer_draws_pairs_mean_and_interval(pairs: Results) -> None:
    ax = answer_figure(pairs).axes[0]
    dots, interval, mean = (np.asarray(line.get_xdata()) for line in ax.lines[:3])
    assert sorted(dots) == pytest.approx([0.05, 0.06, 0.07])
    half = T2 * 0.01 / math.sqrt(3)
    assert interval == pytest.approx([0.06 - half, 0.06 + half])
    assert mean == pytest.approx([0.06])
    assert [text.get_text() for text in ax.texts if text.get_fontweight() == "bold"] == ["full keeps more"]


def test_curves_draw_pairs_and_controls(study: Results, pairs: Results) -> None:
    one = curves_panel(Figure().subplots(), study, SPACE)
    drawn = [np.asarray(line.get_xydata()) for line in one.lines]
    assert any(np.allclose(line, [[0, 0.6], [50, 0.44], [100, 0.28]]) for line in drawn)
    assert (len(one.lines), sum(line.get_linestyle() == "--" for line in one.lines)) == (4, 2)
    assert len(curves_panel(Figure().subplots(), pairs, SPACE).lines) == 2 * (3 + 1)
    assert one.texts[0].get_text() == "inconclusive: one pair"


def test_command_writes_tables_and_figures(
    study: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # drawing takes seconds
    monkeypatch.setattr("perturb.analysis.coupling.figure.figures", lambda found: [("answer", Figure())])
    folder = next(iter(study.design.scores))
    (run,) = [r for cell in study.design.runs.values() for r in cell[""].values() if r.manifest.run_id == folder]
    assert main([str(run.directory.path.parents[1]), "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Inconclusive: one pair of twins" in out
    assert "temporal, repeat" in out
    names = ["answer.pdf", "answer.png", "curves.csv", "endpoints.csv", "prompts.csv.gz", "runs.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(f"{tmp_path / name}\n" in out for name in names)
    assert max(map(len, (line for line in out.splitlines() if str(tmp_path) not in line))) <= 120
    written = pd.read_csv(tmp_path / "endpoints.csv", keep_default_na=False)
    assert written.verdict.unique().tolist() == ["inconclusive: one pair"]


def test_the_order_of_the_runs_changes_nothing(study: Results) -> None:
    runs = [run.directory.path for cell in study.design.runs.values() for run in cell[""].values()]
    again = Results.of(Design.of(load(runs[::-1])))
    assert endpoints(again).equals(endpoints(study))


def test_figures_of_every_kind(pairs: Results) -> None:
    assert [name for name, _ in figures(pairs)] == ["answer", "curves", "loss", "dose"]


def test_incomplete_pairs_are_left_out(tmp_path: Path) -> None:
    runs = make_study(tmp_path, lambda key: key.kind == "lora" and key.group == "spatial")
    path = next(run for key, run in runs.items() if (key.training, key.seed) == ("partial", 0)).scores
    kept = [line for line in path.read_text().splitlines() if ",step_000050,p002,0,motion_quality," not in line]
    path.write_text("\n".join(kept) + "\n")
    found = results(tmp_path)
    assert (found.primary.seeds, found.primary.prompts) == ((2, 2), 2)
    # of .5 and .6: full loses .30 .31 and .32 .33, partial .1
    assert found.primary.slope.mean == pytest.approx(-0.215)


def test_without_what_the_endpoints_are_read_on(tmp_path: Path) -> None:
    make_study(tmp_path / "time", lambda key: key.kind == "lora" and key.group == "temporal")
    with pytest.raises(UserError, match=r"there are \['temporal, single frame', 'temporal, repeat'\]"):
        results(tmp_path / "time")
    for run in make_study(tmp_path / "space", lambda key: key.kind == "lora" and key.group == "spatial").values():
        lines = run.scores.read_text().splitlines()
        run.scores.write_text("\n".join(line for line in lines if ",step_000050,p00" not in line) + "\n")
    found = results(tmp_path / "space")
    assert found.primary.verdict == "inconclusive: unmeasured"
    assert answer_figure(found)


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
