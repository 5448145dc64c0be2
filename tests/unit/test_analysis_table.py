"""The terminal table against numbers worked out from the scores."""

from pathlib import Path

import pytest
from analysis_run import STEPS, make_run, printed

from perturb.analysis.load import load
from perturb.analysis.result import Result
from perturb.store.rundir import RunDir


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_run(tmp_path_factory.mktemp("runs") / "r1", clips=False)


def test_table_shows_means_intervals_and_reasons(run: RunDir) -> None:
    text = printed(run)
    study = load([run.path])
    at_50 = study.scores.query("metric == 'motion_quality' and step == 50").value
    half = 2.13145 * at_50.std() / 4  # t(.975, 15) / √16
    row = next(line for line in text.splitlines() if line.startswith("motion quality ↑"))
    assert row.split()[5] == f"{at_50.mean():.3f}±{half:.3f}"
    assert "M_F' = (θ_T, θ_S + Δ_S)" in text
    assert "8.00%" in text
    assert "lpips drift: unavailable (no file /hub/alexnet-owt-7be5be79.pth)" in text
    assert next(line for line in text.splitlines() if line.startswith("lpips")).count("unavailable") == len(STEPS)


def test_the_heading_says_what_was_done_whatever_the_run_is_called(tmp_path: Path) -> None:
    run = make_run(tmp_path, clips=False)
    assert "spatial_full · nano · LoRA · M_F'" in printed(run)
    assert "fully trained model (seed 0, stills as videos of one frame)" in printed(run)
    run.update_manifest(perturbation={"seed": 2}, images={"as_video": "repeat", "frames": 8})
    assert "(seed 2, stills repeated to 8 frames)" in printed(run)
    run.update_manifest(perturbation={"kind": "direct"})
    assert "spatial_full · nano · direct fine-tuning · M_F'" in printed(run)
    run.update_manifest(perturbation={"kind": "random", "reference": {"run": "0123456789"}})
    assert "spatial_full · nano · random Δ of the same norm · M_F'" in printed(run)
    assert "(seed 2, norms of run 0123456789)" in printed(run)


@pytest.mark.parametrize("width", [120, 80, 50])
def test_table_fits_and_cuts_no_cell(run: RunDir, width: int) -> None:
    text = printed(run, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert text.count("motion quality ↑") == {120: 1, 80: 2, 50: 4}[width]


def test_partial_failure_is_a_footnote_and_the_rest_is_used(tmp_path: Path) -> None:
    bare = make_run(tmp_path, clips=False)
    lines = bare.scores.read_text().splitlines()
    spoilt = [
        ",".join([*line.split(",")[:8], "", "failed", "frames are [red]"])
        if ",step_000020,p001,0,noise," in line
        else line
        for line in lines
    ]
    bare.scores.write_text("\n".join(spoilt) + "\n")
    text = printed(bare)
    assert "noise: failed 1 of 96 (frames are [red])" in text
    study = load([bare.path])
    assert Result.of(study, study.runs[0]).levels["noise"].at(20).n == 15
