"""Interactions of a made-up landscape, worked out by hand."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats
from state_runs import CELLS, SCALES, landscape

from perturb.analysis.landscape.__main__ import analyse, main
from perturb.analysis.landscape.landscape import Landscape, excess, interaction, interaction_rows
from perturb.analysis.replicates import BOTH_MODELS, PART, read_replicates
from perturb.errors import UserError
from perturb.store.records import read_scores, scores_csv
from perturb.store.rundir import RunDir, write_atomic

SCALES_OF = ("spatial", "temporal")
T2 = 4.302652729911275  # t(0.975, 2)


def study(root: Path) -> Landscape:
    for training in ("full", "partial"):
        for seed in (0, 1):
            landscape(root, training, seed)
    return Landscape.of(read_replicates([root], "spatial", "temporal"))


def rows(found: Landscape, **wanted: object) -> pd.DataFrame:
    frame = pd.DataFrame(interaction_rows(found))
    for name, value in wanted.items():
        frame = frame.loc[frame[name] == value, :]
    return frame


def test_interaction_is_what_is_left_of_the_sum():
    y = np.arange(18.0).reshape(2, 3, 3) ** 2
    found = interaction(y)
    assert found[1, 2, 1] == y[1, 2, 1] - y[1, 2, 0] - y[1, 0, 1] + y[1, 0, 0]
    s, t = np.meshgrid([0.0, 1.0, 3.0], [0.0, 0.5, 2.0], indexing="ij")
    assert interaction(np.sin(s) + t**3) == pytest.approx(np.zeros((3, 3)), abs=1e-12)  # whatever adds up has none
    assert interaction(5 - 2 * s * t)[1:, 1:] == pytest.approx((-2 * s * t)[1:, 1:])


def test_what_multiplies_has_no_excess_and_its_spread_is_that_of_the_product():
    space, time = np.array([1.0, 0.6, 0.2]), np.array([1.0, 0.5, 0.25])
    assert excess(np.outer(space, time)[None, None]) == pytest.approx(np.zeros((1, 1, 3, 3)), abs=1e-12)
    together = np.array([0.3, 0.1, 0.2])  # of three prompts; apart all keep a half
    shares = np.full((1, 3, 2, 2), 0.5)
    shares[..., 0, 0], shares[0, :, 1, 1] = 1.0, together
    assert excess(shares)[0, :, 1, 1] == pytest.approx(together - 0.25)
    shares[0, :, 1, 0] = 0.4, 0.5, 0.6  # K(1, 0) is known less well, and K(0, 1) = ½ passes that on
    assert excess(shares)[0, :, 1, 1] == pytest.approx(together - 0.25 - 0.5 * np.array([-0.1, 0.0, 0.1]))


def test_both_models_and_their_difference_by_hand(tmp_path: Path):
    found = study(tmp_path)
    assert found.trainings == ["full", "partial", BOTH_MODELS]
    assert (found.spatial, found.temporal, found.step) == (SCALES, SCALES, 100)
    for training in ("full", BOTH_MODELS):
        row = rows(found, training=training, metric="motion_quality", scale="raw", spatial=1.0, temporal=0.5).iloc[0]
        # c is 0.2 in the mean over prompts and 0.21 with both seeds, its standard deviation over prompts 0.1
        assert row.interaction == pytest.approx(-0.105)
        assert row.prompt_high - row.interaction == pytest.approx(T2 * 0.05 / 3**0.5)
        # MS over prompts 2 · .05², over seeds 3 · .005² · 2, residual 0: seeds add little
        ms_p, ms_s = 2 * 0.05**2, 3 * 0.005**2 * 2
        half = stats.t.ppf(0.975, (ms_p + ms_s) ** 2 / (ms_p**2 / 2 + ms_s**2)) * ((ms_p + ms_s) / 6) ** 0.5
        assert row.high - row.interaction == pytest.approx(half)
        assert row.seed_high - row.interaction == pytest.approx(12.706204736 * 0.01 / 2)  # c·½ is .1 and .11
        assert (row.n_prompts, row.n_seeds) == (3, 2)
        if training == BOTH_MODELS:
            assert (row.test, row.p, row.p_holm) == ("sign flip", 0.25, 1.0)  # 2 of 8 sign patterns
        else:
            df = (ms_p + ms_s) ** 2 / (ms_p**2 / 2 + ms_s**2)
            assert (row.test, row.p) == ("t", pytest.approx(2 * stats.t.sf(0.105 / ((ms_p + ms_s) / 6) ** 0.5, df)))
        mean = rows(found, training=training, metric="motion_quality", scale="raw", spatial="mean").iloc[0]
        assert mean.interaction == pytest.approx(-0.21 * (0.25 + 0.5 + 0.5 + 1) / 4)
    none = rows(found, training="partial", metric="motion_quality")
    assert set(none.scale) == {"raw", "relative", "product"}
    none = none[none.scale != "product"]
    assert none.interaction.to_numpy() == pytest.approx(0, abs=1e-12)
    share = rows(found, training="full", metric="motion_quality", scale="relative", spatial=1.0, temporal=1.0)
    assert share.interaction.iloc[0] == pytest.approx(-0.21)  # Y(0, 0) is 1
    product = rows(found, training="full", metric="motion_quality", scale="product", spatial=1.0, temporal=1.0)
    assert product.interaction.iloc[0] == pytest.approx(0.6 - 0.21 - 0.7 * 0.9)
    assert rows(found, metric="colourfulness", scale="raw").interaction.to_numpy() == pytest.approx(0, abs=1e-9)
    assert "watermark" not in set(rows(found).metric)  # of a set, there is nothing to pair


def test_files_figure_and_table(tmp_path: Path):
    study(tmp_path / "runs")
    console = Console(file=io.StringIO(), width=100)
    written = analyse([tmp_path / "runs"], tmp_path / "out", console)
    assert [path.name for path in written] == [
        "surfaces.csv",
        "interactions.csv",
        "prompts.csv.gz",
        "landscape.png",
        "landscape.pdf",
    ]
    surfaces = pd.read_csv(written[0])
    at = (surfaces.training == "full") & (surfaces.metric == "motion_quality") & (surfaces.spatial == 1)
    assert surfaces[at]["mean"].tolist() == pytest.approx([0.7, 0.65 - 0.105, 0.6 - 0.21])
    assert surfaces[at].magnitude.tolist() == pytest.approx([0.06, 0.07, 0.08])
    assert all(path.stat().st_size > 300 for path in written[1:])
    assert isinstance(console.file, io.StringIO)
    assert "−0.210±0.239" in console.file.getvalue()
    again = analyse([tmp_path / "runs"], tmp_path / "again", console)
    for one, other in zip(written, again, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_one_model_alone_is_enough_and_has_no_difference(tmp_path: Path):
    landscape(tmp_path, "partial")
    found = Landscape.of(read_replicates([tmp_path], "spatial", "temporal"))
    assert found.trainings == ["partial"]
    landscape(tmp_path, "full", seed=1)  # of another LoRA seed: not a pair
    assert Landscape.of(read_replicates([tmp_path], "spatial", "temporal")).trainings == ["full", "partial"]


def test_what_cannot_be_compared_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = landscape(tmp_path / "a", "full")
    with pytest.raises(UserError, match=r"No run with states by part among .* experiment=ablation"):
        read_replicates([run.path], PART)
    landscape(tmp_path / "b", "partial", cells=CELLS[:6])
    with pytest.raises(UserError, match="differ in their states"):
        read_replicates([tmp_path], "spatial", "temporal")
    landscape(tmp_path / "c", "full")
    assert main([str(tmp_path / "a"), str(tmp_path / "c"), "-o", str(tmp_path / "out")]) == 2
    assert "hold the same run" in capsys.readouterr().err
    text = run.scores.read_text().splitlines(keepends=True)
    run.scores.write_text("".join(line for line in text if ",spatial_1_temporal_1," not in line))
    with pytest.raises(UserError, match=r"has no scores of spatial_1_temporal_1\. Run it again"):
        read_replicates([run.path], "spatial", "temporal")


def test_the_fits_inside_a_landscape_are_no_runs_of_their_own(tmp_path: Path):
    run = landscape(tmp_path, "full")
    RunDir(run.path / "fits" / "spatial").update_manifest(perturbation={"kind": "lora"})
    assert [model.training for model in read_replicates([tmp_path], "spatial", "temporal")] == ["full"]


def without(run: RunDir, prompt: str) -> None:
    """One prompt has no motion quality in any state."""
    absent = {"value": None, "status": "failed", "reason": "no object"}
    rows = [
        dataclasses.replace(row, **(absent if (row.prompt_id, row.metric) == (prompt, "motion_quality") else {}))
        for row in read_scores(run.scores)
    ]
    write_atomic(run.scores, scores_csv(rows, [state.id for state in run.states()]))


def test_prompts_are_paired_by_name_where_models_lack_different_ones(tmp_path: Path) -> None:
    runs = [landscape(tmp_path, training) for training in ("full", "partial")]
    whole = Landscape.of(read_replicates([tmp_path], *SCALES_OF)).surface(BOTH_MODELS, "motion_quality")
    for run, prompt in zip(runs, ("p000", "p002"), strict=True):
        without(run, prompt)
    found = Landscape.of(read_replicates([tmp_path], *SCALES_OF)).surface(BOTH_MODELS, "motion_quality")
    assert whole is not None
    assert found is not None
    np.testing.assert_array_equal(found.values, whole.values[:, 1:2])  # p001 alone is in both


def test_landscapes_of_two_checkpoints_are_not_one_model(tmp_path: Path) -> None:
    for seed, sha in ((0, "aaaa"), (1, "bbbb")):
        landscape(tmp_path, "full", seed).update_manifest(system={"sha256": sha})
    with pytest.raises(UserError, match=r"differ in their checkpoint of the full model: bbbb and aaaa"):
        read_replicates([tmp_path], *SCALES_OF)
