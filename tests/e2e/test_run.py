"""The commands as a user runs them, on a tiny model."""

import csv
import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from perturb.models.videocrafter.checkpoint import save_system
from perturb.models.videocrafter.system import VideoSystem
from perturb.store.rundir import RunDir
from perturb.store.states import step_id
from tests.e2e.conftest import PROMPTS, Commands


def test_a_study_leaves_everything_it_promises(finished: RunDir, commands: Commands):
    manifest = finished.manifest()
    assert manifest.run_id == finished.path.name
    assert manifest.stages == {"fit": "done", "sample": "done", "score": "done"}
    assert list(manifest.prompts.values()) == list(PROMPTS)
    assert manifest.frozen["unchanged"] is True
    assert manifest.frozen["before"] == manifest.frozen["after"]
    assert manifest.images["as_video"] == "single_frame"
    assert manifest.clips["fps"] == 8
    assert len(manifest.system["sha256"]) == 64
    assert [(state.id, state.coordinates) for state in finished.states()] == [
        (step_id(step), {"step": step}) for step in (0, 2, 4)
    ]
    with finished.scores.open() as file:
        rows = list(csv.DictReader(file))
    metrics = {info["name"] for info in manifest.metrics}
    per_clip = {row["metric"] for row in rows if row["prompt_id"] != "*"}
    assert {row["metric"] for row in rows} == metrics
    assert len(rows) == 3 * (4 * len(per_clip) + len(metrics - per_clip))
    assert {row["run_id"] for row in rows} == {manifest.run_id}
    assert all((row["value"] != "") == (row["status"] == "ok") for row in rows)
    assert all(np.isfinite(float(row["value"])) for row in rows if row["value"])


def test_step_zero_is_the_unperturbed_model(
    finished: RunDir, commands: Commands, checkpoint: Path, inputs: Path, tmp_path: Path
):
    outcome = commands(
        "perturb.sample",
        f"system.checkpoint={checkpoint}",
        f"prompts.file={inputs / 'prompts.txt'}",
        "sample.batch_size=2",
        "sampler.steps=2",
        f"output={tmp_path}",
    )
    assert outcome.code == 0, outcome.log
    assert (tmp_path / "sheet.png").is_file()
    for number in range(4):
        plain = np.load(tmp_path / f"p{number:03d}_s0.npy").astype(int)
        assert np.abs(plain - np.load(finished.clip(step_id(0), f"p{number:03d}", 0)).astype(int)).max() <= 1
    perturbed = np.load(finished.clip(step_id(4), "p000", 0)).astype(int)
    assert np.abs(perturbed - np.load(tmp_path / "p000_s0.npy").astype(int)).max() > 1


def test_a_script_is_one_clip_of_any_length(commands: Commands, checkpoint: Path, tmp_path: Path):
    (tmp_path / "story.txt").write_text(f"0: {PROMPTS[0]}\n0.5: {PROMPTS[1]}\n")
    story = (
        f"system.checkpoint={checkpoint}",
        f"script={tmp_path / 'story.txt'}",
        "sampler=fifo",
        "sampler.partitions=2",
        "sample.frames=7",
        "sample.seeds=[3]",
    )
    outcome = commands("perturb.sample", *story, f"output={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.log
    clip = np.load(tmp_path / "out" / "story_s3.npy")
    assert (clip.shape[0], clip.dtype) == (7, np.uint8)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["story_s3.mp4", "story_s3.npy"]
    killed = commands("perturb.sample", *story, f"output={tmp_path / 'cut'}", kill=("*.queue.safetensors", 8, "after"))
    assert killed.code == -9
    assert not (tmp_path / "cut" / "story_s3.npy").exists()
    assert commands("perturb.sample", *story, f"output={tmp_path / 'cut'}").code == 0
    assert (tmp_path / "cut" / "story_s3.npy").read_bytes() == (tmp_path / "out" / "story_s3.npy").read_bytes()
    both = commands("perturb.sample", f"script={tmp_path / 'story.txt'}", f"prompt={PROMPTS[0]}")
    assert both.code == 2
    assert "prompts.file=/path/prompts.txt or script=/path/story.txt; 2 of them given" in both.log


def test_an_adapter_at_scale_zero_changes_nothing_and_at_one_gives_the_study(
    finished: RunDir, commands: Commands, checkpoint: Path, inputs: Path, tmp_path: Path
):
    clips = {}
    for scale in (0.0, 1.0):
        outcome = commands(
            "perturb.sample",
            f"system.checkpoint={checkpoint}",
            f"prompts.file={inputs / 'prompts.txt'}",
            "sample.batch_size=2",
            "sampler.steps=2",
            f"adapter={finished.adapter(step_id(4))}",
            f"adapter_scale={scale}",
            f"output={tmp_path / str(scale)}",
        )
        assert outcome.code == 0, outcome.log
        assert "note" not in outcome.log
        clips[scale] = np.load(tmp_path / str(scale) / "p001_s0.npy").astype(int)
    for scale, step in ((0.0, 0), (1.0, 4)):
        assert np.abs(clips[scale] - np.load(finished.clip(step_id(step), "p001", 0)).astype(int)).max() <= 1


def test_an_adapter_of_another_model_is_noted(
    finished: RunDir, commands: Commands, tiny_system: VideoSystem, tmp_path: Path
):
    with torch.no_grad():
        next(tiny_system.unet.parameters()).add_(0.1)
    save_system(tiny_system, tmp_path / "other")
    outcome = commands(
        "perturb.sample", f"system.checkpoint={tmp_path / 'other'}", f"prompt={PROMPTS[0]}", "sampler.steps=2",
        f"adapter={finished.adapter(step_id(4))}", f"output={tmp_path / 'out'}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.log
    assert f"note   adapter={finished.path} is a run of another model (tiny," in outcome.log
    assert (tmp_path / "out" / "sheet.png").is_file()


def test_a_finished_run_answers_without_running(finished: RunDir, commands: Commands, study: list[str], runs: Path):
    before = {path: path.stat().st_mtime_ns for path in finished.path.rglob("*") if path.suffix in (".npy", ".csv")}
    outcome = commands("perturb.run", *study, f"runs_dir={runs}")
    assert outcome.code == 0
    assert str(finished.figures / "summary.png") in outcome.log
    assert f"report  {finished.path / 'report.html'}\n" in outcome.log
    assert (finished.path / "report.html").read_text().startswith("<!doctype html>")
    assert "fit:" not in outcome.log
    after = {path: path.stat().st_mtime_ns for path in finished.path.rglob("*") if path.suffix in (".npy", ".csv")}
    assert after == before


def test_a_run_in_use_names_its_holder(commands: Commands, study: list[str], finished: RunDir, tmp_path: Path):
    with RunDir(tmp_path / "spatial_full" / finished.path.name).lock():
        outcome = commands("perturb.run", *study, f"runs_dir={tmp_path}")
        skipped = commands("perturb.run", *study, f"runs_dir={tmp_path}", "locked=skip")
    assert outcome.code == 2
    assert "is in use by pid" in outcome.log
    assert "Traceback" not in outcome.log
    assert skipped.code == 0
    assert skipped.log.endswith(": skipped\n")


def test_a_run_that_is_waited_for_is_not_made_again(
    commands: Commands, study: list[str], finished: RunDir, tmp_path: Path
):
    run, log = RunDir(tmp_path / "spatial_full" / finished.path.name), commands.folder / "log.txt"
    held = threading.Event()

    def work() -> None:
        with run.lock():
            held.set()
            while not (log.is_file() and log.read_text().endswith(": waiting\n")):
                time.sleep(0.02)
            shutil.copytree(finished.path, run.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".lock*"))

    other = threading.Thread(target=work, daemon=True)
    other.start()
    held.wait()
    outcome = commands("perturb.run", *study, f"runs_dir={tmp_path}", "locked=wait")
    other.join()
    assert outcome.code == 0, outcome.log
    assert f"report  {run.path / 'report.html'}\n" in outcome.log
    assert "fit:" not in outcome.log


def test_multirun_goes_on_after_a_failing_job(commands: Commands, study: list[str], tmp_path: Path, inputs: Path):
    outcome = commands(
        "perturb.run", "--multirun", *study, f"runs_dir={tmp_path}", "group=image,temporal", "probe_steps=[0,1]"
    )
    assert outcome.code == 2
    assert "group=image" in outcome.log
    assert "'image' of this model has no layers" in outcome.log
    assert "Traceback" not in outcome.log
    assert len(list(tmp_path.glob("temporal_full/*/figures/summary.png"))) == 1
    (perturbed,) = tmp_path.glob("temporal_full/*")
    assert json.loads((perturbed / "manifest.json").read_text())["perturbation"]["group"] == "temporal"


def test_submitit_begins_one_run_goes_on_with_another_and_names_a_third_that_fails(
    commands: Commands, study: list[str], finished: RunDir, tmp_path: Path
):
    pytest.importorskip("submitit")
    fitted = RunDir(tmp_path / "spatial_full" / finished.path.name)
    gone = shutil.ignore_patterns("clips", "sample", "score", "study", "scores.csv", "report.html")
    shutil.copytree(finished.path, fitted.path, ignore=gone)
    launched = ["--multirun", "hydra/launcher=submitit_local", "probe_steps=[0,2,4],[0,1],[2]"]
    given = [word for word in study if not word.startswith("probe_steps")]
    # as many threads as the worker that made the one: sums in another order differ in their last bits
    threads = f"threads={torch.get_num_threads()}"
    outcome = commands("perturb.run", *launched, *given, threads, f"runs_dir={tmp_path}")
    assert outcome.code == 2, outcome.log
    assert "error in probe_steps=[2]," in outcome.log
    assert ": probe_steps is [2]; allowed: rising whole numbers that begin with 0" in outcome.log
    assert outcome.log.count("finished  probe_steps=[0") == 2
    assert fitted.scores.read_bytes() == finished.scores.read_bytes()
    (begun,) = (RunDir(path) for path in tmp_path.glob("spatial_full/*") if path != fitted.path)
    assert begun.is_done("study", "all")


def test_published_systems_need_three_paths_and_say_so_at_once(commands: Commands, tmp_path: Path):
    outcome = commands("perturb.run", "system=videocrafter2", f"images.folder={tmp_path / 'nowhere'}")
    assert outcome.code == 2
    for text in ("system.checkpoint=…  is not given", "nowhere  does not exist", "prompts.file=…  is not given"):
        assert text in outcome.log


@pytest.mark.parametrize(
    ("mistake", "answer"),
    [
        ("fit.batchsize=3", "Did you mean 'fit.batch_size'?"),
        ("experiment=spatial_ful", "experiment=spatial_ful: no experiment of this command. Allowed: ablation, "),
        ("--experiment=spatial_full", "given without dashes, as experiment=NAME"),
        ("fit.batch_size=0", "fit.batch_size is 0; allowed: at least 1"),
        ("sample.seeds=[1,1]", "sample.seeds is [1, 1]; allowed: different whole numbers from 0"),
        ("sample.height=33", "sample.height is 33; allowed for tiny: multiples of 8"),
        ("group=spacial", "group is 'spacial'; allowed: spatial, temporal"),
        ("sampler.steps=27", "27 sampling steps do not fit"),
        ("name=a, b", "needs two pairs of quotes"),
        ("+perturbation.rang=1", "Did you mean 'perturbation.rank'?"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(
    mistake: str, answer: str, commands: Commands, study: list[str], tmp_path: Path
):
    outcome = commands("perturb.run", *study, mistake, f"runs_dir={tmp_path}")
    assert outcome.code == 2
    assert answer in outcome.log
    assert "Traceback" not in outcome.log


def test_plan_prints_and_runs_nothing(commands: Commands, study: list[str], tmp_path: Path):
    outcome = commands("perturb.run", *study, "plan=true", f"runs_dir={tmp_path}")
    assert outcome.code == 0, outcome.log
    assert "12: 4 prompts × 1 noise × 3 states, each 4 frames of 32×32" in outcome.log
    assert ": 4 steps of" in outcome.log
    assert "forwards of" in outcome.log
    assert not any(tmp_path.iterdir())


def test_help_lists_the_choices(commands: Commands):
    outcome = commands("perturb.run", "--help")
    assert outcome.code == 0
    assert "experiment: ablation, few_steps, finetuned_direct, finetuned_lora, landscape_full, " in outcome.log
    assert "videocrafter2" in outcome.log
    assert "perturbation: ablation, adapters, direct, landscape, lora, random, trained" in outcome.log
