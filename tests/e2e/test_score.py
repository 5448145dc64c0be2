"""`python -m perturb.score` as a user runs it: a folder with broken clips, a killed scoring, a run scored anew."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from perturb.store.records import CLIP_SCORE_COLUMNS, read_scores, scores_csv
from perturb.store.rundir import RunDir
from perturb.store.states import step_id
from perturb.store.video import write_mp4
from tests.e2e.conftest import Commands

KILLED = -9


def moving(seed: int, count: int = 4, size: int = 24) -> np.ndarray:
    """A random texture that moves to the left: uint8 t h w c."""
    texture = np.random.default_rng(seed).integers(0, 256, (size // 4, size // 4 + count, 3), dtype=np.uint8)
    large = texture.repeat(4, axis=0).repeat(4, axis=1)
    return np.stack([large[:, k : k + size] for k in range(count)])


def clip_name(number: int) -> str:
    """One in ten lies in the subfolder few."""
    return f"{'many' if number % 10 else 'few'}/{number:03d}.mp4"


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "scores.csv").open(encoding="utf-8") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == CLIP_SCORE_COLUMNS
        return list(reader)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 mp4 in two subfolders, 10 of them broken, and a prompt for each."""
    root = tmp_path_factory.mktemp("videos")
    lines = ["file,prompt"]
    for number in range(200):
        path = root / clip_name(number)
        write_mp4(path, moving(number), 8)
        if number % 20 == 3:
            path.write_bytes(path.read_bytes()[: number * 2])
        lines.append(f"{clip_name(number)},prompt {number % 50}")
    (root / "prompts.csv").write_text("\n".join(lines) + "\n")
    return root


def test_200_clips_with_10_broken_ones_are_190_scored_and_10_named(commands: Commands, folder: Path, tmp_path: Path):
    arguments = [f"videos={folder}", f"prompts={folder / 'prompts.csv'}", f"cache={tmp_path / 'cache'}", "workers=1"]
    outcome = commands("perturb.score", *arguments, f"output={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.log
    assert "190 of 200 clips scored" in outcome.log
    assert "why a value is not there: the column reason of scores.csv" in outcome.log
    found = rows(tmp_path / "out")
    (drift,) = (row for row in found if (row["clip"], row["metric"]) == ("few/000.mp4", "ssim_drift"))
    assert (drift["status"], "reference=FOLDER" in drift["reason"]) == ("unavailable", True)
    broken = {clip_name(number) for number in range(3, 200, 20)}
    assert all(f"{name}: cannot be decoded" in outcome.log or f"{name}: is empty" in outcome.log for name in broken)
    quality = {row["clip"]: row for row in found if row["metric"] == "motion_quality"}
    assert len(quality) == 200
    assert {name for name, row in quality.items() if row["status"] == "failed"} == broken
    assert all(0 < float(row["value"]) < 1 for name, row in quality.items() if name not in broken)
    good = quality["few/000.mp4"]
    assert [good[name] for name in ("prompt", "prompt_id", "fps", "frames", "height", "width")] == [
        "prompt 0", "p000", "8.0", "4", "24", "24",
    ]  # fmt: skip
    (mark,) = (row for row in found if row["metric"] == "watermark")
    assert (mark["clip"], mark["status"]) == ("*", "ok")
    described = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    assert {one["name"] for one in described} == {row["metric"] for row in found}
    assert all(("identity" in one) != ("unavailable" in one) for one in described)


def test_a_killed_scoring_goes_on_and_gives_the_same_bytes(commands: Commands, folder: Path, tmp_path: Path):
    arguments = [f"videos={folder / 'few'}", "workers=1"]
    whole = commands("perturb.score", *arguments, f"cache={tmp_path / 'whole'}", f"output={tmp_path / 'one'}")
    assert whole.code == 0, whole.log
    again = [*arguments, f"cache={tmp_path / 'cache'}", f"output={tmp_path / 'two'}"]
    assert commands("perturb.score", *again, kill=("*/cache/*.json", 8, "after")).code == KILLED
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.json")}
    assert len(kept) == 8
    assert commands("perturb.score", *again).code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # what was kept was not made again
    assert (tmp_path / "two" / "scores.csv").read_bytes() == (tmp_path / "one" / "scores.csv").read_bytes()


def test_several_processes_give_the_same_bytes(commands: Commands, folder: Path, tmp_path: Path):
    for workers in (1, 2):
        arguments = [
            f"videos={folder / 'few'}",
            "cache=null",
            f"workers={workers}",
            f"output={tmp_path / str(workers)}",
        ]
        outcome = commands("perturb.score", *arguments)
        assert outcome.code == 0, outcome.log
    assert (tmp_path / "1" / "scores.csv").read_bytes() == (tmp_path / "2" / "scores.csv").read_bytes()


def test_a_reference_and_images_give_drift_and_a_mark(commands: Commands, inputs: Path, tmp_path: Path):
    for number in range(5):
        name = f"{number}.npy"
        for kind in ("own", "reference"):
            (tmp_path / kind).mkdir(exist_ok=True)
            np.save(tmp_path / kind / name, moving(number if kind == "own" or number else 99))
    arguments = [f"videos={tmp_path / 'own'}", f"reference={tmp_path / 'reference'}", "fps=8", "cache=null"]
    images = ["images=folder", f"images.folder={inputs / 'images'}"]
    outcome = commands("perturb.score", *arguments, *images, f"output={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.log
    drift = {row["clip"]: float(row["value"]) for row in rows(tmp_path / "out") if row["metric"] == "ssim_drift"}
    assert drift.pop("0.npy") > 0.1
    assert set(drift.values()) == {0.0}


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ([], "give either videos=FOLDER or run=runs/<experiment>/<run id>; neither is given"),
        (["videos={empty}"], "holds no clips"),
        (["videos={empty}/nowhere"], "no folder"),
        (["videos={torn}"], "no clip could be read:\n  a.mp4: is empty (0 bytes)"),
        (["videos={torn}", "prompts={empty}/nowhere.csv"], "nowhere.csv  does not exist"),
        (["videos={torn}", "workers=0"], "workers is 0; allowed: at least 1"),
        (["vidoes={torn}"], "Did you mean 'videos'?"),
        (["run={empty}"], "holds no run"),
        (["run={empty}", "fps=8"], "leave that out with run="),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(
    arguments: list[str], answer: str, commands: Commands, tmp_path: Path
):
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.mp4").touch()
    (tmp_path / "empty").mkdir()
    places = {name: tmp_path / name for name in ("torn", "empty")}
    outcome = commands("perturb.score", *(text.format(**places) for text in arguments), f"output={tmp_path / 'out'}")
    assert outcome.code == 2
    assert answer in outcome.log
    assert "Traceback" not in outcome.log
    assert not (tmp_path / "out").exists()


def test_help_shows_the_ways_to_call(commands: Commands):
    outcome = commands("perturb.score", "--help")
    assert outcome.code == 0
    assert "python -m perturb.score videos=FOLDER prompts=FILE" in outcome.log


def test_a_finished_run_is_scored_anew_in_place(commands: Commands, finished: RunDir, runs: Path, tmp_path: Path):
    path = Path(shutil.copytree(finished.path, tmp_path / "spatial_full" / finished.path.name))
    run = RunDir(path)
    scored, clip = run.scores.read_bytes(), run.clip(step_id(4), "p001", 0)
    cache = f"cache={runs / '.cache' / 'scores'}"
    assert commands("perturb.score", f"run={path}", cache).code == 0
    assert run.scores.read_bytes() == scored

    tampered = [row for row in read_scores(run.scores) if row.metric != "noise"]
    run.scores.write_text(scores_csv(tampered, [state.id for state in run.states()]))
    run.update_manifest(metrics=[])
    np.save(clip, 255 - np.load(clip))
    outcome = commands("perturb.score", f"run={tmp_path}", "cache=null")
    assert outcome.code == 0, outcome.log
    assert "noise: 12 new" in outcome.log
    assert "colourfulness: 12 same" in outcome.log  # that of an inverted clip is the same, to the last bit
    assert "ssim_drift: 1 changed, 11 same, by at most" in outcome.log
    assert {info["name"] for info in run.manifest().metrics} == {row.metric for row in read_scores(run.scores)}

    clip.unlink()
    before = run.scores.read_bytes()
    outcome = commands("perturb.score", f"run={path}", "cache=null")
    assert outcome.code == 2
    assert "lacks 1 of 12 clips, e.g. p001_s0.npy: finish the run first" in outcome.log
    assert run.scores.read_bytes() == before


def test_a_run_that_another_process_scores_is_left_alone(
    commands: Commands, finished: RunDir, runs: Path, tmp_path: Path
):
    first, second = (
        RunDir(Path(shutil.copytree(finished.path, tmp_path / name / finished.path.name))) for name in "ab"
    )
    for run in (first, second):
        run.scores.unlink()
    arguments = [f"run={tmp_path}", f"cache={runs / '.cache' / 'scores'}"]
    with first.lock():
        refused = commands("perturb.score", *arguments)
        skipped = commands("perturb.score", *arguments, "locked=skip")
    assert (refused.code, skipped.code) == (2, 0)
    assert f"{first.path} is in use by pid" in refused.log
    assert f"{first.path} is in use by pid" in skipped.log
    assert not first.scores.is_file()
    assert second.scores.read_bytes() == finished.scores.read_bytes()
