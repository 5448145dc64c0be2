"""The cross-talk map: what it writes and colours, and files that are no calibration table."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from perturb.analysis.crosstalk.__main__ import main
from perturb.analysis.crosstalk.crosstalk import matrix_csv, read_table, strongest, written
from perturb.analysis.crosstalk.figure import crosstalk_map
from perturb.analysis.report.crosstalk import matrix

ROOT = Path(__file__).parents[2]
TABLE = """distortion,strength,unit,metric,axis,scale,change
blur,1,px,motion_quality,motion,relative,-0.02
blur,1,px,noise,visual,absolute,-0.01
blur,2,px,motion_quality,motion,relative,-0.5
blur,2,px,noise,visual,absolute,0.2
static,1,,motion_quality,motion,relative,-1
static,1,,noise,visual,absolute,0
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


def test_cells_names_and_colours(table: Path) -> None:
    ax = crosstalk_map(Figure().subplots(), read_table(table))
    assert [text.get_text() for text in ax.texts if text.get_position()[0] in (0, 1)][:6] == [
        *("−2 %", "−.01", "−50 %", "+.20", "−100 %", ""),
    ]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1 px", "2 px", "1"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["motion quality", "noise  (difference)"]
    drawn = ax.images[0].get_array()
    assert drawn is not None
    assert np.asarray(drawn) == pytest.approx(np.array([[-0.02, -0.05], [-0.5, 1], [-1, 0]]))


def test_changes_in_words() -> None:
    assert written(float("nan"), absolute=False) == "–"
    assert written(0.004, absolute=True) == written(-0.004, absolute=False) == ""
    assert written(2.0, absolute=False) == "×3"


def test_a_report_shows_every_distortion_at_its_strongest_as_it_was_calibrated(table: Path) -> None:
    assert strongest(read_table(table)).change.tolist() == [-0.5, 0.2, -1, 0]
    folder = ROOT / "experiments" / "metric_calibration"
    calibrated = [read_table(folder / name) for name in ("table.csv", "learned.csv")]
    packaged = ROOT / "perturb" / "analysis" / "report" / "crosstalk.csv"
    assert packaged.read_text() == matrix_csv(calibrated), "python -m perturb.analysis.crosstalk … --matrix"
    infos = [{"name": name} for name in ("blockiness", "rife_error", "a metric of the user's own")]
    found = matrix([{"name": "motion_quality", "pitfalls": "a mark"}, *infos])
    assert found.note == "a mark"
    assert found.metrics == ("motion_quality", "blockiness", "rife_error")
    cells = dict(found.rows)
    assert [cell.text for cell in cells["static, 1 of the clip"]][:2] == ["−100 %", ""]
    assert cells["pan, 6 px per frame"][2].text == "–", "a learned metric does not meet it"
    assert cells["static, 1 of the clip"][0].colour == "rgba(0, 114, 178, 0.60)"
    loss, blocks, _ = cells["JPEG blocks, 8 quality"]
    assert loss.text.startswith("−")
    assert blocks.text.startswith("+.")
    assert blocks.colour == "rgba(213, 94, 0, 0.60)"  # nothing raises blockiness more


def test_the_command_writes_all_files_and_refuses_others(table: Path, tmp_path: Path, capsys) -> None:
    with mpl.rc_context():
        assert main([str(table), "-o", str(tmp_path / "map.png"), "--matrix", str(tmp_path / "matrix.csv")]) == 0
    assert (tmp_path / "matrix.csv").read_text().count("\n") == 5
    assert (tmp_path / "map.png").stat().st_size > 0
    assert (tmp_path / "map.pdf").stat().st_size > 0
    table.write_text("step,value\n0,1\n")
    assert main([str(table), "-o", str(tmp_path / "other.png")]) == 2
    assert "no column distortion" in capsys.readouterr().err
    assert main([str(tmp_path / "absent.csv"), "-o", str(tmp_path / "other.png")]) == 2
