"""Fine-tuning strategies side by side: rows worked out by hand, and runs that do not belong in one table."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from perturb.analysis import style
from perturb.analysis.finetuning.__main__ import main
from perturb.analysis.finetuning.figure import change_plane
from perturb.analysis.finetuning.finetuning import Comparison, table_markdown
from perturb.analysis.load import load
from perturb.errors import UserError
from perturb.store.records import ScoreRow, scores_csv
from perturb.store.rundir import RunDir, write_atomic
from perturb.store.states import step_id, step_state

METRICS = (("motion_quality", "motion", "up"), ("colourfulness", "visual", "band"), ("ssim_drift", "drift", "down"))
PROMPTS = {"a": "a red circle", "b": "a blue square"}
T = 12.7062  # t(.975, 1): with two prompts the half-width is T·|difference|/2
Values = dict[str, tuple[float, float]]
START: Values = {"motion_quality": (0.2, 0.4), "colourfulness": (20.0, 30.0), "ssim_drift": (0.0, 0.0)}
TUNED: Values = {"motion_quality": (0.1, 0.2), "colourfulness": (50.0, 60.0), "ssim_drift": (0.3, 0.5)}


def make_run(path: Path, run_id: str, cell: tuple[str, str, str], tuned: Values, **changes: Any) -> Path:
    """A run of one training: (start, strategy, group), its values of the two prompts; ``changes`` to the manifest."""
    (start, strategy, group), run = cell, RunDir(path / run_id)
    rows = [
        ScoreRow(run_id, start, group, 0, step_id(step), prompt, 0, metric, value)
        for step, values in ((0, START), (300, tuned))
        for metric, pair in values.items()
        for prompt, value in zip(PROMPTS, pair, strict=True)
    ]
    run.write_states([step_state(0, 0.0), step_state(300, 0.125)])
    write_atomic(run.scores, scores_csv(rows, [step_id(0), step_id(300)]))
    lora = {"rank": 8} if strategy == "LoRA" else None
    sections: dict[str, Any] = {
        "run_id": run_id,
        "prompts": PROMPTS,
        "system": {"sha256": start},
        "perturbation": {"kind": "trained", "lora": lora, "parameters": 7, "sample_stream_sha256": "s"},
        "metrics": [{"name": n, "axis": a, "unit": "1", "range": [0, None], "direction": d} for n, a, d in METRICS],
    }
    run.update_manifest(**sections)
    run.update_manifest(**changes)
    return run.path


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three cells, given out of order."""
    other = TUNED | {"motion_quality": (0.3, 0.3)}
    return [
        make_run(tmp_path, "r0", ("partial", "LoRA", "both"), TUNED),
        make_run(tmp_path, "r1", ("full", "LoRA", "spatial"), other),
        make_run(tmp_path, "r2", ("full", "direct", "temporal"), TUNED),
    ]


def test_the_command_writes_a_row_per_model_and_each_start_once(runs: list[Path], tmp_path: Path):
    assert main([*map(str, runs), "-o", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["start"], row["strategy"], row["group"]) for row in rows] == [
        ("full", "none", ""),
        ("full", "direct", "temporal"),
        ("full", "LoRA", "spatial"),
        ("partial", "none", ""),
        ("partial", "LoRA", "both"),
    ]
    start, direct = rows[:2]
    assert float(start["motion_quality"]) == pytest.approx(0.3)
    assert float(start["motion_quality_half_width"]) == pytest.approx(T * 0.1, rel=1e-5)
    assert (start["motion_quality_change"], start["magnitude"], start["trained_parameters"]) == ("", "0.0", "0")
    # changes −0.1 and −0.2, paired by prompt; the level's interval is that of 0.1 and 0.2
    assert float(direct["motion_quality"]) == pytest.approx(0.15)
    assert float(direct["motion_quality_change"]) == pytest.approx(-0.15)
    assert float(direct["motion_quality_change_half_width"]) == pytest.approx(T * 0.05, rel=1e-5)
    assert (direct["magnitude"], direct["trained_parameters"]) == ("0.125", "7")
    for name, head in (("motion_visual.png", b"\x89PNG"), ("motion_visual.pdf", b"%PDF")):
        assert (tmp_path / "out" / name).read_bytes().startswith(head)


def test_markdown_is_bold_where_the_interval_excludes_0(runs: list[Path]):
    lines = table_markdown(Comparison.of(load(runs))).splitlines()
    assert lines[0] == "| start | strategy | trained | ‖Δ‖/‖θ‖ | motion quality ↑ | colourfulness ↕ | ssim drift ↓ |"
    # colourfulness rose by exactly 30 for both prompts; motion by −0.1 and −0.2, 0 within; a drift has no second line
    direct = (
        "| full | direct | temporal | 12.5% | 0.150±0.635<br>−0.150±0.635 | 55.0±63.5<br>**+30.0±0.0** | 0.400±1.271 |"
    )
    assert lines[3] == direct
    assert lines[2].startswith("| full | none |  |  | 0.300±1.271 |")


def test_points_are_the_paired_changes(runs: list[Path]):
    models = [model for model in Comparison.of(load(runs)).models if model.start == "full" and model.changes]
    ax = change_plane(Figure().subplots(), models, "colourfulness")
    points = [line for line in ax.lines if line.get_marker() in ("o", "s")]  # the rest are rules and caps
    places = [tuple(np.asarray(line.get_xydata())[0].tolist()) for line in points]
    assert places == [pytest.approx((30, -0.15)), pytest.approx((30, 0.0))]
    assert [line.get_markerfacecolor() for line in points] == [style.MOTION, "white"]  # LoRA is hollow


@pytest.mark.parametrize(
    ("cell", "changes", "message"),
    [
        (("full", "direct", "temporal"), {}, "are both full direct temporal"),
        (("full", "direct", "spatial"), {"system": {"sha256": "x"}}, "checkpoint of the full model"),
        (("full", "direct", "spatial"), {"prompts": {"c": "another"}}, "differ in their prompts"),
        (("full", "direct", "spatial"), {"perturbation": {"sample_stream_sha256": "x"}}, "training samples"),
        (("full", "direct", "spatial"), {"perturbation": {"kind": "lora"}}, "perturbation 'lora' on spatial"),
        (("image", "direct", "spatial"), {}, "of the model image. Give"),
    ],
)
def test_what_does_not_belong_in_one_table_is_named(
    runs: list[Path], tmp_path: Path, cell: tuple[str, str, str], changes: dict[str, Any], message: str
):
    stranger = make_run(tmp_path, "r9", cell, TUNED, **changes)
    with pytest.raises(UserError, match=message) as raised:
        Comparison.of(load([*runs, stranger]))
    assert str(stranger) in str(raised.value)


def test_a_mistake_is_told_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
