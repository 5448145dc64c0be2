"""Energy and ablation of made-up runs, worked out by hand."""

import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from state_runs import ablation

from perturb.analysis.layers.__main__ import analyse, main
from perturb.analysis.layers.layers import effects, energies
from perturb.analysis.replicates import BOTH_MODELS, PART, read_replicates
from perturb.errors import UserError

T2 = 4.302652729911275  # t(0.975, 2)


def test_energy_is_summed_over_the_layers_of_a_level_and_role(tmp_path: Path):
    ablation(tmp_path, "full")
    ablation(tmp_path, "full", seed=1)
    found = {(each.level, each.role): each for each in energies(read_replicates([tmp_path], PART))}
    # ‖Δ‖²: a 1, b 4, c 1, d 4, together 10; ‖θ‖² of a and b 200
    convolution, query, last = (found["down.0", "convolution"], found["down.1", "query"], found["up.0", "convolution"])
    assert len(found) == 3
    assert (convolution.share, query.share, last.share) == pytest.approx((0.5, 0.1, 0.4))
    assert (convolution.ratio, query.ratio, last.ratio) == pytest.approx(((5 / 200) ** 0.5, 0.5, 2.0))
    assert (convolution.layers, query.layers, last.layers) == (2, 1, 1)


def test_a_part_is_compared_with_none(tmp_path: Path):
    for training in ("full", "partial"):
        ablation(tmp_path, training)
    motion = {e.training: e for e in effects(read_replicates([tmp_path], PART)) if e.metric == "motion_quality"}
    assert set(motion) == {"full", "partial", BOTH_MODELS}
    whole = motion["full"].of("all").over_prompts
    assert whole.mean == pytest.approx(-0.38)  # .4, less .01, .02, .03
    assert whole.half_width == pytest.approx(T2 * 0.01 / 3**0.5)
    assert motion["partial"].of("all").over_prompts.mean == pytest.approx(-0.4)
    assert motion[BOTH_MODELS].of("all").over_prompts.mean == pytest.approx(0.02)
    assert motion["full"].of("down").over_prompts.mean == pytest.approx(-0.1)
    assert motion["full"].of("middle").over_prompts.n == 0


def test_files_and_a_figure_per_model(tmp_path: Path):
    for training in ("full", "partial"):
        for group in ("spatial", "temporal"):
            ablation(tmp_path / "runs", training, group)
    console = Console(file=io.StringIO(), width=110)
    written = analyse([tmp_path / "runs"], tmp_path / "out", console)
    assert [path.name for path in written] == [
        *("energy.csv", "ablation.csv", "prompts.csv.gz"),
        *("layers_full.png", "layers_full.pdf", "layers_partial.png", "layers_partial.pdf"),
    ]  # fmt: skip
    assert len(pd.read_csv(written[0])) == 4 * 3
    frame = pd.read_csv(written[1])
    chosen = frame.query("metric == 'motion_quality' and scale == 'raw' and part == 'attention'")
    assert chosen[["training", "group"]].to_numpy().tolist() == [
        ["full", "spatial"], ["partial", "spatial"], [BOTH_MODELS, "spatial"],
        ["full", "temporal"], ["partial", "temporal"], [BOTH_MODELS, "temporal"],
    ]  # fmt: skip
    assert chosen.change.tolist() == pytest.approx([-0.05, -0.05, 0.0] * 2)
    share = frame.query("metric == 'motion_quality' and scale == 'relative' and part == 'down'")
    assert share.query("training == 'full'").change.tolist() == pytest.approx([-0.1 / 0.6] * 2, abs=1e-6)
    assert isinstance(console.file, io.StringIO)
    assert "−0.380±0.025" in console.file.getvalue()


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = ablation(tmp_path / "a", "full", parts=("none", "down"))
    assert main([str(run.path), "-o", str(tmp_path / "out")]) == 2
    assert "has no part 'all'" in capsys.readouterr().err
    run = ablation(tmp_path / "b", "full")
    (run.adapter("part_all") / "magnitude.csv").unlink()
    with pytest.raises(UserError, match=r"magnitude\.csv is missing"):
        analyse([run.path], tmp_path / "out", Console(file=io.StringIO()))
