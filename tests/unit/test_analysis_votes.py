"""Votes: files, win rate, agreement, rank correlation, all against values worked out by hand or by other means."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from state_runs import landscape

from perturb.analysis.load import find_runs, load
from perturb.analysis.report.blind import blind_page
from perturb.analysis.report.blind_pairs import BlindSettings, comparisons
from perturb.analysis.votes.__main__ import main
from perturb.analysis.votes.agreement import agreement, category_counts, krippendorff
from perturb.analysis.votes.crossed import Components, win_rate
from perturb.analysis.votes.files import KeyRow, VoteRow, key_csv, read_votes
from perturb.analysis.votes.ranking import correlation, spearman
from perturb.analysis.votes.votes import metric_differences, preferences
from perturb.errors import UserError
from tests.unit.blind_runs import PROMPTS, flicker, make_twin, make_twins

NAN = math.nan
COLUMNS = [field.name for field in dataclasses.fields(VoteRow)]


def write_key(folder: Path, prompts: tuple[str, ...] = PROMPTS) -> Path:
    """The key of a page with a pair per prompt; the pair of p003 is x003, its clips a003 (full) and b003 (partial)."""
    rows = [
        KeyRow("page", "Which?", f"x{p[1:]}", f"{letter}{p[1:]}", "F against P", role, name, run, 0, 100, p, 0)
        for p in prompts
        for letter, role, name, run in (("a", "first", "F", "full000000"), ("b", "second", "P", "part000000"))
    ]
    (folder / "test.key.csv").write_text(key_csv(rows))
    return folder / "test.key.csv"


def vote(rater: str, prompt: str, choice: str, *, swapped: bool = False, minute: int = 0, study: str = "page") -> str:
    """A line of a votes file; unless swapped the full model's clip is on the left."""
    sides = [f"{letter}{prompt[1:]}" for letter in ("ba" if swapped else "ab")]
    time = f"2026-11-28T08:{minute:02d}:00.000Z"
    return ",".join([study, rater, f"x{prompt[1:]}", *sides, choice, time, "2.5"])


def write_votes(file: Path, *lines: str) -> Path:
    file.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return file


# files ----------------------------------------------------------------------------------------------------------


def test_blinding_is_undone(tmp_path: Path) -> None:
    file = write_votes(
        tmp_path / "votes.csv",
        vote("ann", "p000", "left"),
        vote("ann", "p001", "left", swapped=True),
        vote("ann", "p002", "right", swapped=True),
        vote("ann", "p003", "tie", swapped=True),
    )
    cast = read_votes([file], write_key(tmp_path)).cast.set_index("prompt_id")
    assert cast["first"].to_dict() == {"p000": 1.0, "p001": 0.0, "p002": 1.0, "p003": 0.5}
    assert cast["left"].to_dict() == {"p000": 1.0, "p001": 1.0, "p002": 0.0, "p003": 0.5}
    assert cast["seconds"].tolist() == [2.5] * 4


def test_of_several_votes_the_latest_counts_and_a_file_given_twice_counts_once(tmp_path: Path) -> None:
    early = write_votes(tmp_path / "early.csv", vote("ann", "p000", "left"), vote("ann", "p001", "left"))
    late = write_votes(
        tmp_path / "late.csv",
        vote("ann", "p000", "right", minute=5),
        vote("ann", "p001", "left"),
        vote("bo", "p000", "left"),
    )
    key = write_key(tmp_path)
    for files in ([early, late], [late, early], [late, early, late]):
        votes = read_votes(files, key)
        assert votes.cast.set_index(["rater", "prompt_id"])["first"].to_dict() == {
            ("ann", "p000"): 0.0,
            ("ann", "p001"): 1.0,
            ("bo", "p000"): 1.0,
        }
        assert votes.replaced == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (vote("ann", "p000", "left", study="other"), "votes on page 'other'"),
        (vote("ann", "p000", "both"), "allowed: ('left', 'right', 'tie')"),
        (vote("ann", "p000", "left").replace("b000", "b001"), "are no pair 'x000'"),
        (vote("ann", "p000", "left").replace("b000", "a000"), "are no pair 'x000'"),
        (vote("ann", "p000", "left").replace("2026-11-28T", ""), "a vote has both"),
        (vote("", "p000", "left"), "a vote has both"),
        (vote("ann", "p000", "left").replace(",2.5", ",soon"), "not of its column's type"),
        ("page,ann,x000", "not of its column's type"),
    ],
)
def test_unusable_votes_are_named(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        read_votes([write_votes(tmp_path / "votes.csv", line)], write_key(tmp_path))
    assert said in str(error.value)
    assert "votes.csv" in str(error.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    key = write_key(tmp_path)
    with pytest.raises(UserError, match="is not there"):
        read_votes([tmp_path / "none.csv"], key)
    with pytest.raises(UserError, match="has the columns"):
        read_votes([key], key)
    with pytest.raises(UserError, match="nobody voted"):
        read_votes([write_votes(tmp_path / "votes.csv")], key)
    key.write_text("\n".join(key.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(UserError, match=r"pair x011 has \['first'\]"):
        read_votes([write_votes(tmp_path / "votes.csv", vote("ann", "p000", "left"))], key)


def test_a_file_saved_by_a_spreadsheet_program_is_read(tmp_path: Path) -> None:
    file = write_votes(tmp_path / "votes.csv", vote("ann", "p000", "left"))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert read_votes([file], write_key(tmp_path)).cast["first"].tolist() == [1.0]


# win rate -------------------------------------------------------------------------------------------------------


def two_way(x: np.ndarray) -> tuple[float, float, float]:
    """σ²_p, σ²_r, σ²_e of a table without gaps, from its mean squares."""
    p, r = x.shape
    rows, columns = x.mean(axis=1), x.mean(axis=0)
    of_prompts, of_raters = r * rows.var(ddof=1), p * columns.var(ddof=1)
    rest = ((x - rows[:, None] - columns + x.mean()) ** 2).sum() / ((p - 1) * (r - 1))
    return (of_prompts - rest) / r, (of_raters - rest) / p, rest


def test_components_are_those_of_the_analysis_of_variance() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 1)) + 0.7 * rng.normal(size=(1, 6)) + 0.3 * rng.normal(size=(9, 6))
    found = Components.of(x)
    np.testing.assert_allclose((found.prompts, found.raters, found.rest), two_way(x), rtol=1e-9)


def test_components_of_a_table_with_gaps_are_right_on_average() -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        x = rng.normal(size=(20, 1)) + 0.5 * rng.normal(size=(1, 20)) + 0.7 * rng.normal(size=(20, 20))
        x[rng.random(x.shape) < 0.4] = np.nan
        found.append(dataclasses.astuple(Components.of(x)))
    np.testing.assert_allclose(np.mean(found, axis=0), (1.0, 0.25, 0.49), rtol=0.06)


def test_raters_who_all_agree_count_once() -> None:
    """Then prompts alone vary: se² = s²/n_p with n_p − 1 degrees of freedom, on the logit scale."""
    by_prompt = np.array([1, 1, 1, 0, 1, 1, 0, 1.0])
    found = win_rate(np.tile(by_prompt[:, None], (1, 6)))
    assert found.value == 0.75
    half = scipy.stats.t.ppf(0.975, 7) * by_prompt.std(ddof=1) / 8**0.5 / (0.75 * 0.25)
    expected = [1 / (1 + math.exp(-(math.log(3) + side * half))) for side in (-1, 1)]
    np.testing.assert_allclose((found.interval.low, found.interval.high), expected, rtol=1e-9)


def test_interval_is_as_worked_out_from_mean_squares() -> None:
    x = (np.random.default_rng(3).random((10, 6)) < np.linspace(0.35, 0.95, 10)[:, None]).astype(float)
    prompts, raters, rest = (max(0.0, each) for each in two_way(x))
    a, b, c = prompts / 10 + rest / 60, raters / 6 + rest / 60, rest / 60
    freedom = (a + b - c) ** 2 / (a**2 / 9 + b**2 / 5 + c**2 / 45)
    mean = x.mean()
    half = scipy.stats.t.ppf(0.975, freedom) * (a + b - c) ** 0.5 / (mean * (1 - mean))
    found = win_rate(x)
    logits = [math.log(end / (1 - end)) for end in (found.interval.low, found.interval.high)]
    np.testing.assert_allclose(logits, [math.log(mean / (1 - mean)) + side * half for side in (-1, 1)], rtol=1e-6)


def test_exchanging_the_sides_mirrors_the_interval() -> None:
    x = (np.random.default_rng(1).random((12, 7)) < 0.7).astype(float)
    x[0, 0] = np.nan
    one, other = win_rate(x), win_rate(1 - x)
    assert one.value + other.value == pytest.approx(1)
    assert one.interval.low + other.interval.high == pytest.approx(1)


def test_too_few_and_unanimous_votes_have_no_interval() -> None:
    mixed = (np.random.default_rng(0).random((8, 8)) < 0.6).astype(float)
    for x, reason in (
        (mixed[:, :4], "4 raters; an interval needs 5"),
        (mixed[:, :1], "1 rater; an interval needs 5"),
        (mixed[:4], "4 prompts; an interval needs 5"),
        (np.ones((8, 8)), "all votes alike"),
    ):
        found = win_rate(x)
        assert found.value == pytest.approx(x.mean())
        assert reason in found.reason
        assert math.isnan(found.interval.low)
        assert math.isnan(found.interval.high)


# agreement ------------------------------------------------------------------------------------------------------


def test_alpha_is_that_of_the_published_example() -> None:
    """Krippendorff 2011, section C: four observers, twelve units, values missing; nominal α = .743."""
    rows = ["12332141 2...", "123322412 5.3", ".333234225 1.", "123324412 51."]
    x = np.array([[NAN if v == "." else float(v) for v in row.replace(" ", "")] for row in rows]).T
    assert krippendorff(category_counts(x)) == pytest.approx(0.743, abs=5e-4)


def test_alpha_by_hand() -> None:
    """Three pairs, two raters: agree on F, agree on P, disagree. n = 6, D_o = 2/6, D_e = 2·3·3/30; α = 1 − 5/9."""
    x = np.array([[1, 1], [0, 0], [1, 0.0]])
    assert krippendorff(category_counts(x)) == pytest.approx(1 - 5 / 9)


def test_agreement_of_one_mind_of_chance_and_of_too_few() -> None:
    rng = np.random.default_rng(0)
    prompts = np.repeat([f"p{i}" for i in range(20)], 2)
    one = np.tile((rng.random((40, 1)) < 0.5).astype(float), (1, 6))
    found = agreement(one, prompts, rng)
    assert (found.alpha, found.interval.low, found.interval.high) == (1.0, 1.0, 1.0)
    found = agreement((rng.random((40, 6)) < 0.5).astype(float), prompts, rng)
    assert found.interval.low < 0 < found.interval.high
    assert abs(found.alpha) < 0.1
    assert "no pair has votes of two raters" in agreement(one[:, :1], prompts, rng).reason
    assert "all votes alike" in agreement(np.ones((40, 6)), prompts, rng).reason
    few = agreement(np.array([[1, 1], [0, 0], [1, 0.0]]), np.array(["a", "b", "c"]), rng)
    assert few.alpha == pytest.approx(4 / 9)
    assert few.reason == "3 prompts; an interval needs 5"


# rank correlation -----------------------------------------------------------------------------------------------


def test_spearman_is_that_of_scipy_with_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 4, 15).astype(float), rng.integers(0, 6, 15) / 6
        assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b)[0])
    assert math.isnan(spearman(np.ones(5), np.arange(5.0)))


def test_correlation_leaves_out_what_is_missing_and_says_why_there_is_none() -> None:
    rng = np.random.default_rng(0)
    prompts = np.array([f"p{i}" for i in range(20)])
    truth = rng.normal(size=20)
    x = (truth[:, None] + 0.5 * rng.normal(size=(20, 8)) > 0).astype(float)
    x[3], x[5, :4] = np.nan, np.nan
    d = truth.copy()
    d[7] = np.nan
    found = correlation(d, x, prompts, rng)
    keep = [i for i in range(20) if i not in (3, 7)]
    assert found.n == 18
    assert found.rho == pytest.approx(scipy.stats.spearmanr(d[keep], np.nanmean(x[keep], axis=1))[0])
    assert 0.4 < found.interval.low < found.rho <= found.interval.high <= 1
    assert correlation(-d, x, prompts, np.random.default_rng(0)).rho == pytest.approx(-found.rho)
    assert "all alike" in correlation(np.ones(20), x, prompts, rng).reason
    assert "4 pairs with a value; needs 5" in correlation(d[10:14], x[10:14], prompts[10:14], rng).reason
    assert "2 raters" in correlation(d, x[:, :2], prompts, rng).reason
    assert "4 prompts" in correlation(d, x, np.repeat(["a", "b", "c", "d"], 5), rng).reason


# the command ----------------------------------------------------------------------------------------------------


def smoother(prompt: str) -> str:
    return "left" if flicker("full", prompt) < flicker("partial", prompt) else "right"


def test_command_writes_tables_figure_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_twins(tmp_path / "runs")
    files = [
        write_votes(
            tmp_path / f"votes_{rater}.csv",
            *(vote(rater, prompt, smoother(prompt)) for prompt in PROMPTS[rater == "e" :]),
        )
        for rater in "abcde"
    ]
    arguments = [*map(str, files), "--key", str(write_key(tmp_path)), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--runs", str(tmp_path / "runs")]) == 0
    (row,) = pd.read_csv(tmp_path / "out" / "votes.csv").to_dict("records")
    assert (row["votes"], row["missing"], row["raters"], row["pairs"], row["prompts"]) == (59, 1, 5, 12, 12)
    assert row["win_rate"] == pytest.approx(39 / 59, abs=1e-6)  # 8 of 12 prompts; e has left out one of the 8
    assert row["win_low"] < 39 / 59 < row["win_high"]
    assert row["alpha"] == 1
    table = pd.read_csv(tmp_path / "out" / "vote_metrics.csv").set_index("metric")
    assert list(table.index) == ["flicker", "contrarian", "constant"]  # whole_set and absent have no value of a clip
    d = [flicker("full", p) - flicker("partial", p) for p in PROMPTS]
    rho = np.corrcoef(*(scipy.stats.rankdata(v) for v in (d, [smoother(p) == "left" for p in PROMPTS])))[0, 1]
    assert table.spearman["flicker"] == pytest.approx(float(rho), abs=1e-5)
    assert table.spearman["contrarian"] == pytest.approx(-float(rho), abs=1e-5)
    assert math.isnan(table.spearman["constant"])
    assert "alike" in table.spearman_unavailable["constant"]
    said = capsys.readouterr().out
    assert "F preferred    0.66 (" in said
    assert "unavailable: the differences, or the votes, are all alike" in said
    assert (tmp_path / "out" / "votes.png").stat().st_size > 10_000


def test_before_and_after_and_pairs_of_one_prompt(tmp_path: Path) -> None:
    """Two runs of other LoRA seeds, each with its start; all prefer the start, but for one pair."""
    runs = [make_twin(tmp_path, "full", seed=seed).path for seed in (0, 1)]
    found = [one for run in runs for one in comparisons(load([run]), ())]
    _, key = blind_page(found, BlindSettings())
    (tmp_path / "test.key.csv").write_text(key_csv(key))
    starts = {row.pair: row.clip for row in key if row.step == 0}
    ends = {row.pair: row.clip for row in key if row.step == 100}
    odd = next(row.pair for row in key if row.prompt_id == "p000")
    choices = {pair: "right" if pair == odd else "left" for pair in starts}
    end = "2026-11-28T08:00:00Z,1"
    file = write_votes(
        tmp_path / "votes.csv",
        *(
            f"{key[0].study},{rater},{pair},{starts[pair]},{ends[pair]},{choices[pair]},{end}"
            for rater in "abcdef"
            for pair in starts
        ),
    )
    votes = read_votes([file], tmp_path / "test.key.csv")
    (one,) = preferences(votes, load(runs))
    assert one.comparison == "step 100 against step 0: M_F', spatial"
    assert (one.counts["pairs"], one.counts["prompts"]) == (24, 12)
    assert one.rate.value == pytest.approx(0.5 / 12)  # one of the two pairs of one prompt
    d = metric_differences(load(runs), one.pairs)
    assert d["flicker"].tolist() == [30.0] * 24  # 40 − 10
    assert d["constant"].tolist() == [0.0] * 24


def test_one_rater_yields_reasons_and_no_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_votes(tmp_path / "votes.csv", *(vote("ann", prompt, smoother(prompt)) for prompt in PROMPTS))
    assert main([str(file), "--key", str(write_key(tmp_path)), "-o", str(tmp_path / "out")]) == 0
    (row,) = pd.read_csv(tmp_path / "out" / "votes.csv").to_dict("records")
    assert math.isnan(row["win_low"])
    assert math.isnan(row["alpha"])
    assert row["win_unavailable"] == "1 rater; an interval needs 5"
    assert "0.67 (interval unavailable: 1 rater; an interval needs 5)" in capsys.readouterr().out
    assert not (tmp_path / "out" / "vote_metrics.csv").exists()


def test_runs_that_were_not_voted_on_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_twins(tmp_path / "runs")
    file = write_votes(tmp_path / "votes.csv", vote("ann", "p000", "left"))
    arguments = [str(file), "--key", str(write_key(tmp_path)), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--runs", str(tmp_path / "runs" / "spatial_full")]) == 2
    assert "--runs lacks ['part000000']" in capsys.readouterr().err


def test_runs_whose_states_are_no_steps_are_passed_over(tmp_path: Path) -> None:
    twins = [make_twin(tmp_path, training).path for training in ("full", "partial")]
    landscape(tmp_path, "full")
    rows = {"run_id_first": "full000000", "run_id_second": "part000000", "step_first": 100, "step_second": 100}
    pairs = pd.DataFrame([rows | {"prompt_id": PROMPTS[0], "seed": 0}], index=["x"])
    alone, among = (metric_differences(load(paths), pairs) for paths in (twins, find_runs([tmp_path])))
    assert alone
    assert all(np.array_equal(alone[metric], among[metric], equal_nan=True) for metric in alone)
