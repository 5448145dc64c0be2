"""Adapters ranked: motion kept and look gained worked out by hand, fronts, what is surely ahead, and the page."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from state_runs import make_run

from perturb.analysis.adapters.__main__ import analyse
from perturb.analysis.adapters.ranking import Ranking
from perturb.analysis.replicates import ADAPTER, read_replicates
from perturb.analysis.report.content import Report
from perturb.analysis.report.page import page
from perturb.analysis.report.player import Settings
from perturb.analysis.report.ranking import leading_panel, of_ranking, ranking_of, table
from perturb.errors import UserError
from perturb.store.records import read_scores, scores_csv
from perturb.store.rundir import RunDir, write_atomic

NAMES: tuple[str, ...] = ("none", "keeper", "looker", "loser")
MOTION = {"none": (0.5, 0.6, 0.7), "keeper": (0.45, 0.54, 0.63), "looker": (0.24, 0.31, 0.35), "loser": (0.2, 0.3, 0.4)}
COLOUR = {"none": (30, 31, 32), "keeper": (31, 31, 30), "looker": (40, 41, 42), "loser": (29, 31, 33)}
GLUE = "\N{NO-BREAK SPACE}"
TOUCHED = {"keeper": {"spatial": 40}, "looker": {"spatial": 40, "temporal": 8}, "loser": {"temporal": 8}}


def run(root: Path, *, motion: dict[str, tuple[float, ...]] = MOTION) -> RunDir:
    """Three prompts; colourfulness stands for the look, and counts as better where it is more."""

    def value(k: int, i: int, metric: str) -> float:
        return (motion if metric == "motion_quality" else COLOUR)[NAMES[k]][i]

    states = [{"adapter": name} for name in NAMES]
    return make_run(
        root, states, value, kind="adapters", training="full", group="all", seed=0, touched=TOUCHED
    )  # fmt: skip


def ranking(folder: RunDir) -> Ranking:
    (model,) = read_replicates([folder.path], ADAPTER)
    return Ranking.of(model)


def test_shares_and_fronts_are_those_worked_out_by_hand(tmp_path: Path):
    found = ranking(run(tmp_path))
    assert found.measures == ("colourfulness",)  # a measure of a whole set has no pairs
    assert found.start.mean == pytest.approx(0.6)
    by_name = {each.adapter: each for each in found.standings}
    assert {name: each.kept.mean for name, each in by_name.items()} == pytest.approx(
        {"keeper": 1.62 / 1.8, "looker": 0.9 / 1.8, "loser": 0.9 / 1.8}
    )
    assert by_name["keeper"].kept.half_width == pytest.approx(0, abs=1e-9)  # every prompt keeps nine tenths
    assert {name: each.look.mean for name, each in by_name.items()} == pytest.approx(
        {"keeper": (1 + 0.5 + 0) / 3, "looker": 1.0, "loser": (0 + 0.5 + 1) / 3}
    )
    assert [(each.front, each.adapter) for each in found.standings] == [(1, "keeper"), (1, "looker"), (2, "loser")]
    assert (found.keeper.adapter, found.looker.adapter) == ("keeper", "looker")
    # d = K_keeper − K_looker by prompt is .4 within .01: surely ahead; looker and loser differ by 0 on average
    assert by_name["keeper"].ahead == ("looker", "loser")
    assert (by_name["looker"].ahead, by_name["looker"].behind) == ((), ("keeper",))
    assert by_name["looker"].touched == {"spatial": 40, "temporal": 8}


def test_without_motion_at_the_start_nothing_is_kept_and_it_says_why(tmp_path: Path):
    still = dict.fromkeys(NAMES, (0.0, 0.0, 0.0))
    found = ranking(run(tmp_path, motion=still))
    assert "there is no motion that could be kept" in found.reason
    assert all(each.kept.n == 0 and not each.ahead for each in found.standings)
    assert found.looker.adapter == "looker"
    (result,) = Report.of([tmp_path]).runs
    told = of_ranking(found, result)
    assert (
        told.headline.replace(GLUE, " ")
        == "looker looks better most often, in 100 ± 0 % of comparisons; motion kept is not known."
    )
    assert found.reason in told.cautions


def test_the_command_writes_table_and_figure_and_refuses_other_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    written = analyse([run(tmp_path / "run").path], tmp_path / "out", Console())
    assert [path.name for path in written] == ["ranking.csv", "ranking.png", "ranking.pdf"]
    rows = list(csv.DictReader(written[0].open()))
    assert [(row["adapter"], row["front"], row["layers_temporal"]) for row in rows] == [
        ("keeper", "1", ""), ("looker", "1", "8"), ("loser", "2", "8"),
    ]  # fmt: skip
    assert "90 ± 0 %" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"No run with states by adapter .* `python -m perturb.compare adapters=A,B`"):
        analyse([make_run(tmp_path / "x", [{"part": "none"}], lambda *_: 1.0, kind="ablation", training="full",
                          group="spatial", seed=0).path], tmp_path / "out", Console())  # fmt: skip


def test_the_page_says_who_is_first_and_shows_the_table(tmp_path: Path):
    made = Report.of([run(tmp_path).path])
    found = ranking_of(made.runs[0])
    assert found is not None
    told = of_ranking(found, made.runs[0])
    assert told.headline.replace(GLUE, " ").startswith(
        "keeper keeps most motion (90 ± 0 %), looker looks better most often (100 ± 0 %)"
    )
    assert "it is ahead of every other" in told.sentences[0]
    row = table(found)["rows"][1]
    assert (row["adapter"], row["kept"]["mean"], row["look"]["mean"]) == ("looker", pytest.approx(30, abs=30), 100.0)
    assert len(leading_panel(found).spec["layer"]) == 6
    text = page(made, Settings())
    assert "<h2>Ranking</h2>" in text
    assert text.index("<h2>Ranking</h2>") < text.index("<h2>See it</h2>")
    assert text.count('<tr class="first">') == 2


def test_what_was_not_measured_is_not_said_of_the_look(tmp_path: Path) -> None:
    made = run(tmp_path)
    rows = [row for row in read_scores(made.scores) if row.metric == "motion_quality"]
    write_atomic(made.scores, scores_csv(rows, [state.id for state in made.states()]))
    result = Report.of([made.path]).runs[0]
    found = ranking_of(result)
    assert found is not None
    said = of_ranking(found, result).headline
    assert said.startswith("keeper keeps most motion (")
    assert said.endswith("how they look was not measured.")


def test_two_groups_of_one_model_have_a_figure_each(tmp_path: Path) -> None:
    for group in ("spatial", "temporal"):
        shutil.copytree(run(tmp_path / "all").path, tmp_path / group / "run")
        made = RunDir(tmp_path / group / "run")
        run_id = f"adapters-{group}"
        made.update_manifest(run_id=run_id)
        rows = [replace(row, run_id=run_id, group=group) for row in read_scores(made.scores)]
        write_atomic(made.scores, scores_csv(rows, [state.id for state in made.states()]))
    written = analyse([tmp_path / "spatial", tmp_path / "temporal"], tmp_path / "out", Console(quiet=True))
    assert len({path.name for path in written}) == len(written) == 5
    with (tmp_path / "out" / "ranking.csv").open() as file:
        assert {row["group"] for row in csv.DictReader(file)} == {"spatial", "temporal"}
