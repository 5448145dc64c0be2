"""The gallery of a folder of runs: a row for every one, scored or not, with its numbers, its clips and its report."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from analysis_run import STEPS, disc_clip, make_run
from coupling_runs import Key, make_study
from PIL import Image
from state_runs import landscape

from perturb.analysis.strips import read_clip
from perturb.report import main
from perturb.store.rundir import RunDir

ROW = re.compile(r"<tr>\s*<th scope=\"row\".*?</tr>", re.DOTALL)
CELL = re.compile(r'data-name="([^"]+)"(?: data-order="([^"]*)")?>(.*?)</t[hd]>', re.DOTALL)


def rows(page: Path) -> dict[str, dict[str, tuple[str, str]]]:
    """By run id: column → (text, what it is sorted by); the html of the row as ``html``."""
    found = {}
    for html in ROW.findall(page.read_text(encoding="utf-8")):
        cells = {name: (re.sub(r"<[^>]+>", "", text), order) for name, order, text in CELL.findall(html)}
        found[cells["run"][1].rsplit("/", 1)[1]] = {**cells, "html": (html, "")}
    return found


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "secret" / "runs"
    make_run(folder / "spatial_full" / "r1", prompts=3)
    make_study(folder, lambda key: key == Key("partial", "temporal", "repeat", "random", 1))
    landscape(folder, "full")
    waiting = RunDir(folder / "spatial_full" / "waiting")
    waiting.update_manifest(run_id="r2", experiment="<b>", perturbation={"seed": 7}, stages={"fit": "done"})
    return folder


def test_a_row_says_what_was_run_and_what_became_of_the_motion(runs: Path) -> None:
    page = runs.parent / "gallery.html"
    assert main([str(runs), "--gallery", "-o", str(page)]) == 0
    found, html = rows(page), page.read_text(encoding="utf-8")
    control = found[Key("partial", "temporal", "repeat", "random", 1).run_id]
    shown = [control[name][0] for name in ("training", "group", "LoRA seed", "pair", "motion quality")]
    assert shown == ["partial", "temporal", "1", "–", "0.60 → 0.59 step 100"]
    assert float(control["motion quality"][1]) == pytest.approx(0.595)  # falls by a tenth of half of .1
    assert found["landscape-full-both-0"]["motion quality"][0] == "1.00 → 0.40 spatial, temporal 1, 1"
    assert "4 runs, 1 not scored yet" in html
    assert found["r2"]["LoRA seed"] == ("7", "7")
    assert "not scored yet: fit done" in found["r2"]["html"][0]
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "secret" not in html


def test_clips_are_those_of_the_states_and_a_report_is_linked_where_it_is_beneath(runs: Path) -> None:
    report, page = runs / "spatial_full" / "r1" / "report.html", runs.parent / "gallery.html"
    report.write_text("")
    assert main([str(runs), "--gallery", "-o", str(page)]) == 0
    row = rows(page)["r1"]["html"][0]
    assert '<a href="runs/spatial_full/r1/report.html">' in row
    assert re.findall("<figcaption>(.*?)</figcaption>", row) == [str(step) for step in STEPS]
    sheet = Image.open(io.BytesIO(base64.b64decode(re.findall(r"base64,([^)]+)\)", row)[0])))
    assert sheet.size == (8 * 64, len(STEPS) * 64)
    (prompt,) = re.findall(r'<p class="small">(.*?)</p>', row)
    number = {"left": 0, "right": 1, "up": 2}[prompt.split(" moving ")[1].split()[0]]
    last = read_clip(RunDir(report.parent).clip("step_000300", f"p{number:03d}", 0))
    assert last.shape == disc_clip("red", "left", 1.0, np.random.default_rng()).shape
    shown = np.asarray(sheet.convert("RGB"))[-64:, :64]
    assert np.abs(shown.astype(int) - last[0]).mean() < 6

    elsewhere = runs / "spatial_partial" / "gallery.html"
    assert main([str(runs), "--gallery", "-o", str(elsewhere), "--clips-mb", "0"]) == 0
    text = elsewhere.read_text(encoding="utf-8")
    assert "<a " not in text
    assert "no room left for its clips (--clips-mb 0)" in text


def test_what_is_a_report_s_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs), "--gallery", "--format", "md"]) == 2
    assert "--gallery has no figures and is html" in capsys.readouterr().err
