"""The report without a browser: what it says, what it leaves out, and that no text from a run breaks it."""

import base64
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from coupling_runs import STEPS, TEXTS, Key, make_pairs, make_run, make_study
from PIL import Image
from state_runs import ablation, landscape
from state_runs import make_run as make_states

from perturb.analysis.report.content import Report, shared_facts
from perturb.analysis.report.page import page
from perturb.analysis.report.paper import tables
from perturb.analysis.report.pictures import drawn
from perturb.analysis.report.player import Settings, player
from perturb.analysis.report.verdict import verdict
from perturb.analysis.report.write import run_report
from perturb.errors import UserError
from perturb.report import main
from perturb.store.rundir import RunDir
from perturb.store.states import step_id

NO_CLIPS = Settings(budget=0)
HOSTILE = '</script><img src=x onerror="alert(1)">'


@pytest.fixture(autouse=True)
def _without_vega(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/browser draws the charts; bundling Vega takes seconds."""
    monkeypatch.setattr("perturb.analysis.report.page.vega", lambda: "/* vega */")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LoRA seeds of the spatial condition with controls, and clips of the first seed."""
    root = tmp_path_factory.mktemp("study")
    for key, run in make_study(root, lambda key: key.group == "spatial").items():
        if key.kind == "lora" and key.seed == 0:
            with_clips(run, size=(8, 16))
    return root


def with_clips(run: RunDir, size: tuple[int, int]) -> None:
    for step in (int(state.coordinates["step"]) for state in run.states()):
        run.clips(step_id(step)).mkdir(parents=True, exist_ok=True)
        for prompt in range(len(TEXTS)):
            shade = 40 * prompt + step
            np.save(run.clip(step_id(step), f"p{prompt:03d}", 0), np.full((4, *size, 3), shade, np.uint8))


@pytest.fixture(scope="module")
def study(folder: Path) -> Report:
    return Report.of([folder])


def sprite(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


# verdict ------------------------------------------------------------------------------------------------------------


def test_one_pair_yields_no_verdict_however_sure_the_numbers_are(study: Report) -> None:
    said = verdict(study)
    assert said.headline == ("Inconclusive: one pair of twins was compared, and no interval here covers other pairs.")
    # straight lines from .6: 1 − .32/(2 · .6) and 1 − .1/(2 · .6) are kept along the path
    assert "keeps 73% of its motion and the partially trained one 92%: a difference of −0.183" in said.sentences[1]
    assert "slope per 100 steps −0.220" in said.sentences[1]
    assert "Rests on 1 pair × 2 LoRA seeds × 3 prompts." in said.sentences[1]
    assert "Fits of the fully trained model: convergence not recorded." in said.sentences[1]
    assert any("under a random Δ of the same norm it keeps 97% of its motion" in caution for caution in said.cautions)
    assert [figure.value for figure in said.figures] == ["−0.183", "1 pair", "0%", "not recorded", "–"]
    assert said.figures[0].detail.endswith("inconclusive: one pair")


def test_several_pairs_and_image_sets_get_a_line_each(tmp_path: Path) -> None:
    def law(key: Key, prompt: int, step: int) -> float:
        left = 0.05 if key.images == "high" else 1 - (0.1 if key.training == "full" else 0.2) * step / 100
        return (0.5 + 0.1 * prompt) * (left if step else 1.0)

    make_pairs(tmp_path, ["low"], law, losses=(0.04, 0.035, 0.02))
    make_pairs(tmp_path, ["high"], law)
    said = verdict(report := Report.of([tmp_path]))
    assert said.headline == (
        "Inconclusive: the image sets do not agree (low – full keeps more; high – inconclusive: floor)."
    )
    assert [figure.value for figure in said.figures] == ["+0.050", "–", "3 pairs"]
    assert said.figures[1].detail == "inconclusive: floor; fits converged; D_I 4 ×"
    assert said.sentences[1].startswith("Spatial, low: The fully trained model is the more strongly coupled one")
    assert "both models keep less than 20%" in said.sentences[2]
    assert "difference of" not in said.sentences[2]
    html = page(report, NO_CLIPS)
    assert "Have the fits converged?" in html
    assert html.count("converged at step 100") >= 12
    (table,) = tables(report)
    assert [row[-1] for row in table.rows] == ["full keeps more", "inconclusive: floor"]


def test_a_flat_fit_says_how_far_it_stays_from_its_own_stills(tmp_path: Path) -> None:
    run = make_run(tmp_path, Key("full", "spatial", "single_frame", "lora", 0, losses=(0.08, 0.0605, 0.06)))
    said = verdict(Report.of([run.path]))
    (fit,) = (figure.value for figure in said.figures if figure.what == "Fit")
    assert fit == "flat by step 100, at 3 × the loss on its own stills"


def test_one_run_shows_convergence_distance_and_the_floor(tmp_path: Path) -> None:
    key = Key("full", "spatial", "single_frame", "lora", 0, losses=(0.08, 0.07, 0.06))
    run = make_run(tmp_path, key, law=lambda key, prompt, step: 0.5 if step == 0 else 0.05)
    said = verdict(Report.of([run.path]))
    shown = {figure.what: figure.value for figure in said.figures}
    assert (shown["Fit"], shown["Distance of D_I"]) == ("not converged by step 100", "4 ×")
    assert any(
        "10% of the motion is left at step 100" in caution and "inconclusive" in caution for caution in said.cautions
    )


def test_one_run_says_that_it_is_no_contrast(folder: Path) -> None:
    said = verdict(Report.of([next(folder.glob("spatial_partial/*"))]))
    assert said.headline.startswith(
        "Spatial perturbation of the partially trained model: motion quality falls from 0.60"
    )
    assert "needs its twin" in said.sentences[0]
    assert "experiment=spatial_full" in said.sentences[0]


def test_runs_that_make_no_study_get_the_reason_without_folders(folder: Path) -> None:
    report = Report.of([folder / "spatial_full"])
    assert report.coupling is None
    said = verdict(report)
    assert said.headline.startswith("2 runs that make no coupling study")
    assert "No pair of twins" in said.sentences[0]
    assert (
        ", spatial perturbation of the fully trained model: motion quality falls from 0.60 to 0.2" in said.sentences[1]
    )
    html = page(report, NO_CLIPS)
    assert str(folder) not in html
    assert html.count('class="chart"') == 2


# page ---------------------------------------------------------------------------------------------------------------


def test_the_page_is_self_contained_and_says_what_was_run(study: Report, folder: Path) -> None:
    html = page(study, Settings())
    assert str(folder) not in html
    assert "default-src 'none'" in html
    links = [part for part in html.split('"') if part.startswith(("http:", "https:"))]
    assert {link.split("/")[2] for link in links} == {
        "vega.github.io",
        "www.w3.org",
    }  # names of formats, never asked for
    for result in study.runs:
        assert result.run.manifest.run_id in html
    assert "weights of f" in html  # the checkpoint's hash, cut to twelve characters
    assert "unavailable: no weights" in html
    specs = json.loads(html.split('id="specs">')[1].split("</script>")[0])
    assert len(specs) == html.count('class="chart"')
    assert [spec["$schema"].rsplit("/", 1)[1][:2] for spec in specs] == ["v6"] * len(specs)


def test_texts_of_a_run_are_escaped_everywhere(tmp_path: Path) -> None:
    (run,) = make_study(
        tmp_path, lambda key: key.group == "spatial" and key.training == "full" and key.kind == "lora" and key.seed == 0
    ).values()
    with_clips(run, size=(8, 16))
    run.update_manifest(
        prompts={"p001": HOSTILE},
        experiment=HOSTILE,
        git=HOSTILE,
        system={"spec": HOSTILE, "checkpoint": f"/home/someone/{HOSTILE}"},
        images={"source": HOSTILE, "count": 1},
        versions={"torch": HOSTILE},
    )
    html = page(Report.of([run.path]), Settings())
    assert "<img src=x" not in html
    assert html.count("</script>") == 4
    assert "/home/someone" not in html
    assert json.loads(html.split('id="clips">')[1].split("</script>")[0])["prompts"]["p001"] == HOSTILE


def test_pictures_of_another_analysis_are_shown(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "figures" / "layer_energy.png")
    output = tmp_path / "report.html"
    assert main([str(folder), "-o", str(output), "--figures", str(tmp_path / "figures"), "--clips-mb", "0"]) == 0
    assert "<b>layer energy</b>" in output.read_text()
    assert main([str(folder), "-o", str(output), "--figures", str(folder)]) == 2


def test_the_report_of_a_run_is_written_again_only_when_it_is_old(folder: Path, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(next(folder.glob("spatial_full/*")), tmp_path / "run"))
    assert run_report(run.path) == run.path / "report.html"
    (run.path / "report.html").write_text("kept")
    assert run_report(run.path).read_text() == "kept"
    run.scores.touch()
    assert run_report(run.path).read_text() != "kept"


def test_mistakes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report.html"
    assert main([str(folder), "-o", str(page), "--clips-mb", "-1"]) == 2
    assert "error: --clips-mb is -1 and --clip-side 192; allowed: megabytes from 0" in capsys.readouterr().err
    assert not page.exists()
    assert main([str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


# states that are no steps -------------------------------------------------------------------------------------------


def adapters(root: Path, clips: bool = True) -> RunDir:
    """Two adapters beside the untouched model: motion .5, .6, .7 by prompt, and .3 and .1 less."""
    names, less = ("none", "mine", "yours"), (0.0, 0.3, 0.1)
    run = make_states(
        root, [{"adapter": name} for name in names], lambda k, i, metric: 0.5 + 0.1 * i - less[k],
        kind="adapters", training="full", group="spatial", seed=0,
    )  # fmt: skip
    for k, state in enumerate(run.states() if clips else ()):
        run.clips(state.id).mkdir(parents=True)
        for prompt in run.manifest().prompts:
            np.save(run.clip(state.id, prompt, 0), np.full((4, 8, 16, 3), 50 * k, np.uint8))
    return run


def test_adapters_are_compared_with_the_model_without_any(tmp_path: Path) -> None:
    report = Report.of([adapters(tmp_path).path])
    said = verdict(report)
    assert said.headline.endswith(
        "in 3 states: motion quality lies between 0.30 (adapter mine) and 0.60 (adapter none)."
    )
    assert "in 2 of 2 states" in said.sentences[0]
    assert [figure.value for figure in said.figures] == ["0.30", "2.0%"]
    data = player(report, Settings())
    (pair,) = data["pairs"]
    assert (data["unit"], pair["names"], pair["steps"]) == ("adapter", ["none", "mine", "yours"], [0, 1, 2])
    assert [side["label"] for side in pair["sides"]] == ["without", "with"]
    assert pair["sides"][1]["scores"]["motion_quality"][0] == [0.5, 0.2, 0.4]
    assert sprite(pair["sides"][1]["sprites"][0]).size == (4 * 16, 3 * 8)
    html = page(report, Settings())
    specs = json.loads(html.split('id="specs">')[1].split("</script>")[0])
    shown = [[row["state"] for row in spec["data"]["values"]] for spec in specs if "data" in spec]
    assert [states[:3] for states in shown] == [["none", "mine", "yours"]] * len(shown)
    assert shown
    (table,) = tables(report)
    assert table.rows[1] == ["mine", "1.00", "0.300±0.248", "−0.300±0.000"]
    assert ("states", "by adapter: none; mine; yours") in list(shared_facts(report.runs))


def test_all_kinds_of_runs_are_in_one_report_with_their_figures(folder: Path, tmp_path: Path) -> None:
    made = [landscape(tmp_path, "full"), ablation(tmp_path, "full"), adapters(tmp_path, clips=False)]
    RunDir(made[0].path / "fits" / "spatial").update_manifest(perturbation={"kind": "lora"})  # a part of its run
    alone = Report.of([tmp_path])
    assert alone.reason.startswith("No run goes along the steps of a fit")
    assert [picture.title for picture in drawn(alone.runs)] == ["landscape", "layers full"]
    assert page(alone, NO_CLIPS).count('class="chart"') == 3
    mixed = Report.of([folder, tmp_path])
    assert mixed.coupling is not None
    assert verdict(mixed).headline.startswith("Inconclusive")
    assert len(page(mixed, NO_CLIPS).split('alt="landscape"')) == 2
    written = tmp_path / "out" / "report.md"
    assert main([str(tmp_path), "-o", str(written), "--format", "md"]) == 0
    assert (written.parent / "report_figures" / "landscape.png").is_file()
    assert "adapter" in written.read_text()


# player -------------------------------------------------------------------------------------------------------------


def test_the_player_pairs_both_models_with_their_scores(study: Report) -> None:
    data = player(study, Settings())
    (pair,) = data["pairs"]  # the controls have no clips
    assert (pair["title"], pair["steps"], data["fps"]) == ("spatial, LoRA seed 0", list(STEPS), 8.0)
    assert [side["label"] for side in pair["sides"]] == ["M_F'", "M_P'"]
    assert pair["clips"] == [["p000", 0], ["p001", 0], ["p002", 0]]
    full = pair["sides"][0]
    assert full["scores"]["motion_quality"][2] == pytest.approx([0.7, 0.54, 0.38])  # .7 − .32 x
    assert any("random Δ" in reason and "without its folder clips/" in reason for reason in data["reasons"])
    picture = np.asarray(sprite(full["sprites"][1]))
    assert picture.shape == (3 * 8, 4 * 16, 3)  # a row of frames per step
    assert [int(picture[8 * k + 4, 8, 0]) for k in range(3)] == pytest.approx([40 + step for step in STEPS], abs=2)


def test_large_clips_are_reduced_and_few_fit(tmp_path: Path) -> None:
    make_study(tmp_path, lambda key: key.group == "spatial" and key.kind == "lora" and key.seed == 0)
    for path in tmp_path.glob("*/*"):
        with_clips(RunDir(path), size=(60, 120))
    report = Report.of([tmp_path])
    data = player(report, Settings(side=30))
    assert sprite(data["pairs"][0]["sides"][0]["sprites"][0]).size == (4 * 30, 3 * 15)
    one = sum(len(side["sprites"][0]) for side in data["pairs"][0]["sides"])
    few = player(report, Settings(budget=1.5 * one / 1e6, side=30))
    assert len(few["pairs"][0]["clips"]) == 1
    assert "1 of 3 clips fit into the page" in few["reasons"][0]


def test_every_condition_has_its_share_of_the_clips(tmp_path: Path) -> None:
    make_study(tmp_path, lambda key: key.group == "spatial" and key.seed == 0)
    for path in tmp_path.glob("*/*"):
        with_clips(RunDir(path), size=(8, 16))
    report = Report.of([tmp_path])
    whole = [
        sum(len(sprite) for side in pair["sides"] for sprite in side["sprites"])
        for pair in player(report, Settings())["pairs"]
    ]
    data = player(report, Settings(budget=0.75 * sum(whole) / 1e6))
    assert [len(pair["clips"]) for pair in data["pairs"]] == [2, 2]
    assert player(report, NO_CLIPS)["pairs"] == []


def test_clips_of_different_sizes_are_refused(tmp_path: Path) -> None:
    make_study(tmp_path, lambda key: key.group == "spatial" and key.kind == "lora" and key.seed == 0)
    for path in tmp_path.glob("*/*"):
        with_clips(RunDir(path), size=(8, 8))
    np.save(RunDir(next(tmp_path.glob("*/*"))).clip(step_id(50), "p000", 0), np.zeros((4, 9, 8, 3), np.uint8))
    with pytest.raises(UserError, match="differ in size"):
        player(Report.of([tmp_path]), Settings())


# Markdown and LaTeX -------------------------------------------------------------------------------------------------


def test_markdown_has_tables_and_figures(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from matplotlib.figure import Figure

    monkeypatch.setattr("perturb.analysis.report.paper._figures", lambda report: [("curves", Figure())])
    output = tmp_path / "study.md"
    assert main([str(folder), "--format", "md", "-o", str(output)]) == 0
    text = output.read_text()
    assert "![curves](study_figures/curves.png)" in text
    assert (tmp_path / "study_figures" / "curves.png").is_file()
    assert "| spatial | 73% | 92% | −0.183±" in text
    assert "| inconclusive: one pair |" in text
    assert capsys.readouterr().out.split() == [str(output), str(tmp_path / "study_figures" / "curves.png")]


def test_latex_is_a_booktabs_table_and_escaped(folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(next(folder.glob("spatial_full/*")), tmp_path / "run")
    RunDir(run).update_manifest(experiment="50 % of {x}_\\y & z")
    output = tmp_path / "run.tex"
    assert main([str(run), "--format", "tex", "-o", str(output)]) == 0
    text = output.read_text()
    assert r"50 \% of \{x\}\_\textbackslash{}y \& z" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "textbackslash" not in line]
    assert {line.count(" & ") for line in rows} == {3}


def test_facts_that_differ_are_all_named(study: Report) -> None:
    facts = dict(shared_facts(study.runs))
    assert facts["probe steps"] == "0, 50, 100"
    assert facts["sample"] == "3 prompts × 1 noise"


def test_conditions_with_states_of_their_own_are_shown_with_these(tmp_path: Path) -> None:
    for group, steps in (("spatial", (0, 50, 100)), ("temporal", (0, 10, 20, 40))):
        for training in ("full", "partial"):
            run = make_run(tmp_path, Key(training, group, "single_frame", "lora", 0), steps=steps)
            with_clips(run, size=(8, 16))
            run.update_manifest(clips=run.manifest().clips | {"fps": 3}, playback_fps=10)
    space, time = (data := player(Report.of([tmp_path]), Settings()))["pairs"]
    assert (space["steps"], time["steps"], data["fps"]) == ([0, 50, 100], [0, 10, 20, 40], 10)
    assert [len(each["magnitudes"]) for each in (space, time)] == [3, 4]
    assert time["names"][3] == "40"
