"""Run directories are loaded whole, or refused with the file and the reason."""

import shutil
from pathlib import Path

import pytest
from analysis_run import METRICS, STEPS, edit, make_run, printed

from perturb.analysis.load import completeness, find_runs, load
from perturb.analysis.summary import main
from perturb.errors import UserError
from perturb.store.rundir import RunDir


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_run(tmp_path_factory.mktemp("runs") / "r1")


@pytest.fixture
def bare(run: RunDir, tmp_path: Path) -> RunDir:
    """A copy without clips, to be spoilt."""
    shutil.copytree(run.path, tmp_path / "bare", ignore=shutil.ignore_patterns("clips", "figures"))
    return RunDir(tmp_path / "bare")


def test_everything_written_is_loaded(run: RunDir) -> None:
    study = load([run.path])
    counts = completeness(study.scores)
    clip_values = 16 * len(STEPS) * (len(METRICS) - 1)
    assert len(study.scores) == counts.expected == clip_values + len(STEPS)
    assert (counts.clips, counts.missing, counts.unavailable, counts.failed) == (96, 0, 96, 0)
    assert study.runs[0].magnitude[300] == 0.08


def test_missing_values_are_counted(bare: RunDir) -> None:
    lines = bare.scores.read_text().splitlines(keepends=True)
    kept = [line for line in lines if ",step_000050,p003,0,noise," not in line and ",step_000100,*,-1," not in line]
    bare.scores.write_text("".join(kept))
    assert completeness(load([bare.path]).scores).missing == 2
    assert "2 missing" in printed(bare)


def test_two_runs_make_one_frame_and_one_twice_is_refused(run: RunDir, bare: RunDir) -> None:
    with pytest.raises(UserError, match="same run r1"):
        load([run.path, bare.path])
    for path in (bare.scores, bare.manifest_path):
        edit(path, "r1", "r2", count=-1)
    study = load([run.path, bare.path])
    assert list(study.scores.run_id.unique()) == ["r1", "r2"]
    assert len(study.of(study.runs[1])) == len(study.scores) / 2


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("scores.csv", "\nr1,full,spatial,0,step_000000,*", "\nr9,full,spatial,0,step_000000,*", "rows of run"),
        ("scores.csv", ",watermark,", ",lustre,", "metrics .'lustre'. that the manifest does not describe"),
        ("scores.csv", ",p003,", ",p999,", "prompts .'p999'. that the manifest does not list"),
        ("scores.csv", ",ok,", ",fine,", "status 'fine'; allowed"),
        ("scores.csv", ",unavailable,", ",ok,", "a value that is ok is a finite number"),
        ("scores.csv", "seed,metric", "seed,measure", "has the columns"),
        ("scores.csv", ",spatial,0,step_000000,p000", ",spatial,zero,step_000000,p000", "not of its column's type"),
        ("scores.csv", ",step_000050,", ",step_000051,", "has states .'step_000051'. that .*states.csv does not list"),
        ("states.csv", '"magnitude"', '"size"', "has the columns .* expected state, coordinates, magnitude"),
        ("states.csv", '"step_000020",20,', '"step_000020",x,', "is no table of states"),
        ("manifest.json", '"axis": "motion"', '"axis": "taste"', "has the axis 'taste'; allowed"),
        ("manifest.json", '"schema_version": 2', '"schema_version": 99', "schema version 99"),
    ],
)
def test_spoilt_files_are_refused_by_name(bare: RunDir, file: str, old: str, new: str, message: str) -> None:
    edit(bare.path / file, old, new)
    with pytest.raises(UserError, match=message) as error:
        load([bare.path])
    assert file in str(error.value)


def test_duplicates_are_refused(bare: RunDir) -> None:
    bare.scores.write_text(bare.scores.read_text() + bare.scores.read_text().splitlines(keepends=True)[5])
    with pytest.raises(UserError, match="1 duplicate rows"):
        load([bare.path])


def test_a_path_that_is_not_there_is_told_from_a_folder_without_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing does not exist"):
        find_runs([tmp_path / "nothing"])
    with pytest.raises(UserError, match=r"holds no run: no manifest\.json in it or beneath it"):
        find_runs([tmp_path])


def test_not_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    assert "no manifest.json and no scores.csv" in capsys.readouterr().err
